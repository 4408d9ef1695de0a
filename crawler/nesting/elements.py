"""The names that HTML's tree construction has rules for, by rule (HTML Standard, 13.2.4.2, 13.2.6). In lower case."""

from __future__ import annotations

from typing import Final

from crawler.nesting.tokens import RAW


def _names(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


FORMATTING: Final = _names("a b big code em font i nobr s small strike strong tt u")
VOID: Final = _names(
    "area base basefont bgsound br embed frame hr image img input keygen link meta param source track wbr"
)
TEXTS: Final = RAW | {b"plaintext"}
BREAKING_OUT: Final = _names(
    """b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing menu meta
    nobr ol p pre ruby s small span strong strike sub sup table tt u ul var"""
)
INTEGRATION: Final = _names("foreignobject desc title mi mo mn ms mtext annotation-xml")
FOREIGN: Final = _names("svg math")
MARKERS: Final = _names("applet object marquee template td th caption")
BARRIERS: Final = MARKERS | INTEGRATION | _names("html table select")
HEADINGS: Final = _names("h1 h2 h3 h4 h5 h6")
BLOCKS: Final = _names(
    """address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer header hgroup
    main menu nav ol search section summary ul pre listing"""
)
CLOSING_P: Final = BLOCKS | HEADINGS | _names("p form li dd dt hr plaintext xmp")
IN_SCOPE: Final = BLOCKS | HEADINGS | _names("button p li dd dt select applet marquee object")
SPECIAL: Final = (
    (BLOCKS - {b"dialog"})
    | HEADINGS
    | BARRIERS
    | VOID
    | TEXTS
    | _names("body button col colgroup dd dt form frameset head li noscript p tbody tfoot thead tr")
)
ROWS: Final = _names("tbody thead tfoot")
CELLS: Final = _names("td th")
TABLE_PARTS: Final = ROWS | CELLS | _names("tr caption colgroup")
IN_TABLE: Final = ROWS | _names("table tr colgroup")
TABLE_STATES: Final = IN_TABLE | CELLS | _names("caption template")
RUBY: Final = _names("rb rt rtc rp")
IMPLIED: Final = RUBY | _names("dd dt li optgroup option p")
OPTIONS: Final = _names("option optgroup")
ITEMS: Final = {b"li": _names("li"), b"dd": _names("dd dt"), b"dt": _names("dd dt")}
BARRIERS_OF_ITEMS: Final = SPECIAL - _names("address div p")
SCOPES: Final = {b"p": BARRIERS | {b"button"}, b"li": BARRIERS | {b"ol", b"ul"}}
STAYING_OUT: Final = RUBY | _names(
    """base basefont bgsound link meta param source track template script style title noframes textarea frame frameset
    iframe noembed"""
)
ODD: Final = _names("svg math select frameset")
USUAL: Final = BLOCKS | _names("span a b i em strong label cite abbr time picture")
UNSURE: Final = _names("noscript frameset")
"""Left without an end tag: in the head; by the body."""
