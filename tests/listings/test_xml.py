"""XML in pieces: what is read, what is mended, and what is refused."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from crawler.listings.xml import XmlError, XmlReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMESPACES = {"urn:known": "k", "urn:plain": ""}


class Heard:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def start(self, name: str, attributes: Mapping[str, str], text: str) -> None:
        shown = "".join(f" {key}={value}" for key, value in attributes.items() if not key.startswith("xmlns"))
        self.events += [text] * bool(text.strip()) + [f"<{name}{shown}>"]

    def end(self, name: str, text: str) -> None:
        self.events += [text] * bool(text.strip()) + [f"</{name}>"]


def heard(pieces: bytes | Iterable[bytes], **options: object) -> str:
    handler = Heard()
    reader = XmlReader(handler, NAMESPACES, **options)  # type: ignore[arg-type]
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        reader.feed(piece)
    reader.close()
    return "".join(handler.events)


def problem(pieces: bytes | Iterable[bytes]) -> str:
    with pytest.raises(XmlError) as caught:
        heard(pieces)
    return str(caught.value)


DOCUMENT = """<?xml version="1.0" encoding="utf-8"?>
<a x="1&amp;2"><!-- no --><b>größe &lt; &#8364;</b> tail <k:c xmlns:k="urn:other" xmlns:z="urn:known"><z:d/></k:c>
<e xmlns="urn:plain"><f><![CDATA[<raw>]]></f></e></a>""".encode()
EVENTS = "<a x=1&2><b>größe < €</b> tail <k:c><k:d></k:d></k:c><e><f><raw></f></e></a>"


def test_elements_attributes_and_text_come_in_order_under_the_readers_own_prefixes():
    assert heard(DOCUMENT) == EVENTS


def test_pieces_may_end_anywhere():
    rng = random.Random(7)
    assert heard(DOCUMENT[i : i + 1] for i in range(len(DOCUMENT))) == EVENTS
    for _ in range(50):
        cuts = sorted(rng.randrange(len(DOCUMENT)) for _ in range(4))
        ends = [0, *cuts, len(DOCUMENT)]
        assert heard(DOCUMENT[a:b] for a, b in itertools.pairwise(ends)) == EVENTS


def test_a_prefix_means_its_namespace_only_inside_the_element_that_declares_it():
    assert heard(b"<r><a xmlns:p='urn:known'><p:x/></a><p:x/></r>") == "<r><a><k:x></k:x></a><p:x></p:x></r>"


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\n\n  \r\n", b"\n\xef\xbb\xbf\n", b"\xef\xbb\xbf\n\n"])
def test_a_byte_order_mark_and_blank_lines_may_stand_before_the_declaration(before):
    assert heard(before + DOCUMENT) == EVENTS
    assert heard([before, DOCUMENT]) == EVENTS


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [("utf-16", "utf-16"), ("iso-8859-1", "latin-1"), ("windows-1251", "cp1251"), ("Shift_JIS", "shift_jis"),
     ("gb2312", "gb18030"), ("euc-kr", "euc_kr")],
)  # fmt: skip
def test_a_document_may_be_in_any_encoding_that_it_declares(encoding, codec):
    word = {"cp1251": "цена", "shift_jis": "値段", "gb18030": "价格", "euc_kr": "가격"}.get(codec, "größe")
    document = f"<?xml version='1.0' encoding='{encoding}'?><a>{word}</a>".encode(codec)
    assert heard(document[i : i + 3] for i in range(0, len(document), 3)) == f"<a>{word}</a>"


def test_the_charset_of_the_header_stands_above_the_declaration():
    document = "<?xml version='1.0' encoding='utf-8'?><a>größe</a>".encode("latin-1")
    assert heard(document, charset="iso-8859-1") == "<a>größe</a>"


def test_bytes_that_are_not_utf_8_become_replacement_characters_and_control_characters_go():
    assert heard(b"<?xml version='1.0'?><a>" + b"x" * 2000 + b"\xff\xfe\x0b\x00y</a>").endswith("x\ufffd\ufffdy</a>")


def test_without_a_declaration_what_begins_as_no_utf_8_is_windows_1252():
    assert heard("<a>größe</a>".encode("cp1252")) == "<a>größe</a>"


def test_the_text_of_an_element_is_kept_up_to_the_limit():
    assert heard(b"<a><b>" + b"x" * 100 + b"</b><c>y</c></a>", max_text=10) == "<a><b>xxxxxxxxxx</b><c>y</c></a>"


# -- what is wrong, and where ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"<a>\n\n<b></a>", "line 3: mismatched tag"),
        (b"\n\n<a>\n&nbsp;</a>", "line 4: undefined entity"),
        (b"<a><b>", "line 1: no element found"),
        (b"", "line 1: no element found"),
        (b"   \n ", "line 2: no element found"),
        (b"<a/><b/>", "line 1: junk after document element"),
        (b"plain text", "line 1: syntax error"),
    ],
)
def test_an_error_names_the_line_and_what_is_wrong(document, message):
    assert problem(document) == message


def test_what_stands_before_the_error_was_told_and_nothing_after_it():
    handler = Heard()
    reader = XmlReader(handler, {})
    with pytest.raises(XmlError):
        reader.feed(b"<a><b>1</b><c></d><e>2</e></a>")
    reader.feed(b"<a><b>3</b></a>")
    reader.close()
    assert "".join(handler.events) == "<a><b>1</b><c>"


# -- what a hostile document gets --------------------------------------------------------------------------------------

LAUGHS = b"<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a 'ha'>" + b"".join(
    b"<!ENTITY %c '%s'>" % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
)


@pytest.mark.parametrize(
    "document",
    [
        LAUGHS + b"]><l>&j;</l>",
        b"<!DOCTYPE r [<!ENTITY f SYSTEM 'file:///etc/passwd'>]><r>&f;</r>",
        b"<!DOCTYPE r [<!ENTITY % p SYSTEM 'http://127.0.0.1:1/x.dtd'> %p;]><r/>",
        b"<!DOCTYPE r SYSTEM 'http://127.0.0.1:1/x.dtd'><r/>",
        b"<!DOCTYPE r [<!ENTITY q '" + b"A" * 50_000 + b"'>]><r>" + b"&q;" * 50_000 + b"</r>",
    ],
    ids=["laughs", "file", "parameter", "external", "quadratic"],
)
@pytest.mark.hostile("S41")
def test_a_document_type_declaration_ends_the_reading(document):
    assert problem(document) == "line 1: it has a document type declaration, which is refused"


def test_a_page_of_html_is_called_that():
    assert problem(b"\n<!DOCTYPE html><html><p>Not found") == "line 2: this is HTML"


def grown(pieces: Iterable[bytes]) -> tuple[str, int]:
    """What was wrong, and the most memory that reading it took, expat's included."""
    tracemalloc.start()
    try:
        return problem(pieces), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.hostile("S41")
def test_elements_300000_deep_are_given_up_at_100():
    message, peak = grown(b"<a>" * 10_000 for _ in range(30))
    assert message == "line 1: elements stand more than 100 deep"
    assert peak < 1_000_000
    assert heard(b"<a>" * 100 + b"</a>" * 100).count("<a>") == 100


@pytest.mark.parametrize(
    ("begin", "more"), [(b"<a x='", b"y"), (b"<!-- ", b"y"), (b"<?p ", b"y"), (b"<", b"y"), (b"<a ", b"\n")]
)
@pytest.mark.hostile("S41")
def test_a_tag_or_comment_that_does_not_end_is_given_up(begin, more):
    message, peak = grown(piece for piece in [b"<r>", begin, *[more * 65536] * 1000])
    assert message.endswith("a tag or comment of more than 256 KiB")
    assert peak < 8_000_000


@pytest.mark.hostile("S41")
def test_a_text_that_does_not_end_is_read_in_bounded_memory():
    message, peak = grown(piece for piece in [b"<r><b>", *[b"text " * 13_000] * 300])
    assert message == "line 1: no element found"
    assert peak < 4_000_000


@pytest.mark.parametrize("form", ["<n{}/>", "<e n{}=''/>"])
@pytest.mark.hostile("S41")
def test_more_than_10000_names_are_given_up_since_expat_keeps_each(form):
    pieces = ("".join(form.format(i) for i in range(start, start + 1000)).encode() for start in range(0, 100_000, 1000))
    message, peak = grown([b"<r>", *pieces])
    assert message == "line 1: it has more than 10000 different names"
    assert peak < 10_000_000


def test_more_than_100_prefixes_in_force_are_given_up():
    declared = " ".join(f"xmlns:p{i}='urn:{i}'" for i in range(101))
    assert problem(f"<r {declared}/>".encode()) == "line 1: more than 100 prefixes are declared at one place"


def test_blanks_without_end_leave_nothing_in_memory():
    reader = XmlReader(Heard(), {})
    blanks = b" \n" * 32_768
    tracemalloc.start()
    for _ in range(1000):
        reader.feed(blanks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    with pytest.raises(XmlError, match=f"line {1000 * 32_768 + 1}: no element found"):
        reader.close()
