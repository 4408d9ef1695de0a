"""The shop's vocabulary: what its titles, blurbs and shelves are made of.

`TITLES`, `SUBTITLES` and `SENTENCES` are patterns; `{noun}` stands for one of `WORDS["noun"]`, and `{Noun}` for the
same with a capital. `ODD_TITLES` are in every shop that has room for them: they hold what careless escaping, decoding
and file naming trip over.
"""

from __future__ import annotations

__all__ = ["CATEGORIES", "ODD_TITLES", "SENTENCES", "SUBTITLES", "TITLES", "WORDS"]

CATEGORIES: tuple[str, ...] = (
    *("Travel", "Mystery", "Historical Fiction", "Comics", "Classics", "Philosophy", "Romance", "Literary Fiction"),
    *("Short Stories", "Children's", "Religion", "General Nonfiction", "Music", "Science Fiction", "Sports & Games"),
    *("Fantasy", "New Adult", "Young Adult", "Popular Science", "Poetry", "Paranormal", "Art & Design", "Psychology"),
    *(
        "Autobiography",
        "Parenting",
        "Memoir",
        "Humour",
        "Horror",
        "History",
        "Food & Drink",
        "Translations",
        "Business",
    ),
    *(
        "Biography",
        "Thriller",
        "Contemporary",
        "Spirituality",
        "Essays",
        "Mythology",
        "Health",
        "Politics",
        "Gardening",
    ),
    *("Crime", "Bandes dessinées", "Nature Writing", "Architecture", "Languages", "Law", "Education", "Maps & Atlases"),
    "Small Press",
)

ODD_TITLES: tuple[str, ...] = (
    'The "Quiet" Lighthouse',
    "Salt & Pepper & Other Wars",
    "If 1 < 2 > 0: Proofs for the Impatient",
    "Fish &amp; Chips: A Typesetter's Lament",
    "Señora Ibáñez's Last Café",
    "Die Brücke über die Weiße Elster",
    "Żółw, łódź i gęś: Three Polish Fables",
    "東京の灯り (The Lights of Tokyo)",
    "Ночной поезд на север",
    "Ο φάρος και η θάλασσα",
    "Naïve Piñatas – 100% Fun?",
    "Dogs/Cats\\Ducks: A Filing System",
    "<title>: The Unauthorised Biography",
    "O'Malley's “Curly” Quotation Book",
    "L'été à Besançon…",
    "🦊 & 🦉",
)

WORDS: dict[str, tuple[str, ...]] = {
    kind: tuple(words.split())
    for kind, words in {
        "adj": """
            amber ancient bitter borrowed broken careful copper crooked distant drowned early eastern electric empty
            endless faithful familiar final folded forgotten frozen gentle gilded glass half-lit hidden hollow
            hungry impossible inland invisible iron last late little lonely long lost marble midnight narrow
            northern ordinary painted paper patient pale quiet reluctant restless salted second secret seventh
            silent slow southern spotless stolen stubborn tidal unfinished unlikely upper velvet wandering winter
            wooden young""",
        "noun": """
            almanac anchor apiary archive atlas balcony ballad barometer bell bridge cabinet candle canal cathedral
            chapel chronicle circus clock coast comet compass corridor courtyard current dictionary echo engine
            estuary ferry festival fountain furnace garden glacier harbour harvest heron horizon island kite lantern
            ledger letter lighthouse lock machine map market meadow mirror moon museum needle observatory orchard
            organ parliament pendulum piano pilgrim portrait promise quarry railway recipe river rumour shadow
            signal sparrow staircase storm telegraph theatre tide tower train tunnel umbrella valley violin voyage
            window wolf""",
        "plural": """
            apples bees borders bread bridges buttons clouds deserts dreams dust earthquakes elephants envelopes
            ferns forgeries gates ghosts glaciers hats ink islands keys lakes lenses lighthouses manners mountains
            needles numbers onions owls paper pigeons queues rain rivers salt silence spoons tea tides tram-lines
            typewriters volcanoes whales whispers windmills""",
        "trade": """
            apothecary archivist astronomer baker beekeeper blacksmith bookbinder botanist carpenter cartographer
            chemist clockmaker composer cook diver ferryman forger gardener glassblower governess interpreter judge
            librarian locksmith magician midwife miller navigator organist piano-tuner postman printer puppeteer
            sailmaker shepherd signalman smuggler surveyor tailor translator weaver widow""",
        "place": """
            Aberwen Ålsund Baltmark Bellhaven Brackwater Cairnmore Corvento Dunmarrow Eastmere Fennholt Göllheim
            Greyharbour Hartsele Illyrica Jökulvík Karsava Kestrel-Bay Lindengrad Marazul Moonstow Nethercombe
            Novara Ostrava-by-the-Sea Pemberlow Quillon Ravenna-Alta Saint-Éloi Skarholm Tarnów-Dolny Thistledown
            Ulmen Valdoro Westerby Wyndle Yarrowmouth Zelenograd-on-Lake""",
        "first": """
            Ada Agnes Amara Anselm Astrid Beatrix Bruno Cécile Cormac Dalia Edmund Elif Esme Farid Fiona Gideon Hana
            Henrik Ines Ivo Jorun Kasimir Leonie Lucjan Mabel Marisol Matteo Nadia Noor Oskar Petra Quentin Rosalind
            Rui Saoirse Søren Tamsin Théo Ulrike Viktor Winifred Xenia Yusuf Zofia""",
        "last": """
            Abernathy Adeyemi Ashdown Bergström Blackwood Calloway Carvalho Drummond Eriksen Fairweather Ferreira
            Garrick Hallorann Holloway Ibarra Jankowski Kerrigan Larkspur Lindqvist Marchetti Merriweather Nakamura
            Novák O'Dowd Okafor Pettigrew Quill Ravenscroft Rousseau Sandoval Silverlock Thackeray Underhill Vance
            Whitlock Yıldız Zamora""",
        "feeling": """
            affection alarm curiosity delight despair dread envy grief hope jealousy longing pride relief wonder""",
        "verb": """
            bury cross draw forget forgive hide mend outrun paint read rebuild repair sell silence steal tame tune""",
        "season": "spring summer autumn winter",
        "many": "two three four five six seven nine eleven twelve forty",
    }.items()
}

TITLES: tuple[str, ...] = (
    "The {Adj} {Noun}",
    "The {Adj} {Trade}",
    "{Noun} of {Place}",
    "The {Noun} at {Place}",
    "The {Trade}'s {Noun}",
    "The {Trade} and the {Noun}",
    "{Adj} {Plural}",
    "{Noun} & {Noun}",
    "A Short History of {Plural}",
    "On {Plural}",
    "{First} {Last} and the {Adj} {Noun}",
    "{First}'s {Adj} {Season}",
    "What the {Trade} Knew",
    "How to {Verb} a {Noun}",
    "{Many} {Plural} for {First}",
    "A {Season} in {Place}",
    'The "{Adj}" {Noun}',
    "Letters to a {Adj} {Trade}",
    "No {Noun} in {Place}",
    "{Plural}, {Plural} and {Feeling}",
    "{Last} v. {Last}",
    "All the {Adj} {Plural}",
)

SUBTITLES: tuple[str, ...] = (
    ": A Novel",
    ": A Memoir of {Place}",
    ": {Many} Essays on {Feeling}",
    " (The {Place} Mysteries, #1)",
    " (The {Adj} {Noun} Trilogy, #2)",
    ": The Life of {First} {Last}",
    ", or the {Adj} {Noun}",
    ": Notes & Recipes",
)

SENTENCES: tuple[str, ...] = (
    "When {first} {last} inherits a {adj} {noun} in {place}, the {trade} next door is the first to offer money for it.",
    "Nobody in {place} talks about the {adj} {season} when the {noun} fell silent.",
    "{first} has spent {many} years as a {trade}, and has never once been asked about the {noun}.",
    'The note under the door said only "{adj} {plural}", and it was signed by a dead {trade}.',
    "From {place} to {place}, this is the story of {plural}: who made them, who sold them & who could not sleep.",
    "Part {feeling}, part {feeling}, it is the kind of book one lends to a {trade} and never sees again.",
    "Then the {noun} is found at the bottom of the {noun}, and {first} must choose between {feeling} and {feeling}.",
    "With {many} maps and a {adj} sense of humour, the author walks the whole length of the {noun}.",
    "Told over {many} nights by a {adj} {trade}, it asks what we owe to {plural}, and what they owe to us.",
    "{first} wants to {verb} the {noun}; {first} wants to {verb} the {trade}; neither has reckoned with {place}.",
    "A {adj} guide for everyone who has ever looked at a {noun} and thought: I could {verb} that.",
    "Here are {plural} by the sea, {plural} in the rain, and one {adj} {noun} that refuses to be drawn.",
    "The second part leaves the {noun} behind and follows the {last} family through {many} winters of {feeling}.",
    "It's <em>not</em> a love story, insists the {trade} who tells it.",
    "By the end, even the {adj} {noun} has something to confess.",
    "Winner of the {place} Prize, and still the only novel with a chapter written by a {trade}'s {noun}.",
)
