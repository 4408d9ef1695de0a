from __future__ import annotations

import codecs
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.encoding import CODECS, charset_from_content_type, decode, detect, label_to_codec

VECTORS = Path(__file__).parents[2] / "shared" / "vectors" / "sniffing-1.dat"
ABSENT = f"test vectors are not here: {VECTORS.name} in {VECTORS.parent}"

HTML = "text/html"
NOT_UTF8 = b"\n\xff"  # so that a body which declares nothing cannot pass for UTF-8

# The declaration stands behind byte 1024, where the standard lets a browser look on (or parse again when it meets the
# <meta>). A crawler that reads on would decode each such page twice; it takes the rule's next answers instead.
TOO_LATE = {
    b"<!-- 2048 characters": "declared after byte 1024",
    b"<!-- 2049 characters": "declared after byte 1024",
    b"<!-- 4096 characters": "declared after byte 1024",
    b"<!-- 4097 characters": "declared after byte 1024",
    b"<!-- 8192 characters": "declared after byte 1024",
    b"<!-- 8193 characters": "declared after byte 1024",
    b"<!-- multi-script test": "declared after byte 1024, and takes scripts to be met",
}


def sniffing_cases() -> list[object]:
    if not VECTORS.exists():
        return [pytest.param(b"", "", marks=pytest.mark.skip(reason=ABSENT))]
    cases = []
    for number, case in enumerate(VECTORS.read_bytes().split(b"#data\n")[1:]):
        body, _, label = case.partition(b"\n#encoding\n")
        cases.append(pytest.param(body, label.strip().decode(), id=str(number)))
    return cases


# -- html5lib's cases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "label"), sniffing_cases())
def test_agrees_with_html5lib(body: bytes, label: str) -> None:
    late = [reason for start, reason in TOO_LATE.items() if body.startswith(start)]
    expected = "cp1252" if late else label_to_codec(label)
    assert detect(body + NOT_UTF8, HTML) == expected, late


@pytest.mark.skipif(not VECTORS.exists(), reason=ABSENT)
def test_the_vectors_are_all_59_and_each_exception_is_among_them() -> None:
    bodies = [case.partition(b"\n#encoding\n")[0] for case in VECTORS.read_bytes().split(b"#data\n")[1:]]
    assert len(bodies) == 59
    late = [body for body in bodies if body.startswith(tuple(TOO_LATE))]
    assert len(late) == len(TOO_LATE)
    assert all(body.index(b"<meta") > 1024 for body in late)


# -- the order of the rule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "codec"), [(b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le")]
)
def test_a_byte_order_mark_wins_over_everything(mark: bytes, codec: str) -> None:
    assert detect(mark + b"<meta charset=koi8-r>", "text/html; charset=shift_jis") == codec
    assert detect(mark, "application/json") == codec


def test_a_part_of_a_mark_is_none() -> None:
    assert [detect(body) for body in (b"\xef\xbb", b"\xff", b"\xfe")] == ["cp1252"] * 3


def test_the_header_wins_over_the_document() -> None:
    assert detect(b"<meta charset=koi8-r>", "text/html; charset=shift_jis") == "cp932"


def test_a_header_that_names_no_encoding_of_the_standard_counts_as_silent() -> None:
    assert detect(b"<meta charset=koi8-r>", "text/html; charset=zip") == "koi8-r"


def test_the_document_wins_over_its_bytes() -> None:
    assert detect("<meta charset=koi8-r>\u00e9".encode(), HTML) == "koi8-r"


@pytest.mark.parametrize(
    "content_type", [None, "", HTML, "text/plain", "application/xml", "nonsense", "text/html; charset="]
)
def test_without_a_declaration_valid_utf8_is_utf8_and_the_rest_is_windows_1252(content_type: str | None) -> None:
    assert detect(b"", content_type) == "utf-8"
    assert detect(b"plain ASCII", content_type) == "utf-8"
    assert detect("caf\u00e9 \U0001f375".encode(), content_type) == "utf-8"
    assert detect("caf\u00e9".encode("latin-1"), content_type) == "cp1252"
    assert detect(b"cut \xf0\x9f\x8d", content_type) == "cp1252"
    assert detect(b"surrogate \xed\xa0\x80", content_type) == "cp1252"


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/ld+json; q=1", "text/json", "application/x-ndjson"]
)
def test_json_is_utf8_unless_the_header_says_otherwise(content_type: str) -> None:
    assert detect(b'{"a": "\xe9<meta charset=koi8-r>"}', content_type) == "utf-8"
    assert detect(b"[]", content_type + "; charset=iso-8859-1") == "cp1252"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "TEXT/PLAIN; format=flowed", "text/css", "text/csv", "application/javascript"]
)
def test_types_that_have_no_markup_are_not_searched_for_it(content_type: str) -> None:
    assert detect(b"<?xml version='1.0' encoding='koi8-r'?><meta charset=koi8-r>\xff", content_type) == "cp1252"
    assert detect(b"\xff", content_type + ";charset=koi8-r") == "koi8-r"


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("latin1", "cp1252"),
        ("ISO-8859-1", "cp1252"),
        ("us-ascii", "cp1252"),
        ("\t UTF8\r\n", "utf-8"),
        ("gb2312", "gb18030"),
        ("Shift_JIS", "cp932"),
        ("ks_c_5601-1987", "cp949"),
        ("big5", "big5hkscs"),
        ("tis-620", "cp874"),
        ("iso-8859-9", "cp1254"),
        ("iso-8859-8-i", "iso8859-8"),
        ("utf-16", "utf-16-le"),
        ("unicodeFFFE", "utf-16-be"),
        ("x-user-defined", "cp1252"),
    ],
)
def test_labels_mean_what_the_encoding_standard_says(label: str, codec: str) -> None:
    assert label_to_codec(label) == codec


PYTHON_ONLY = "zip bz2 hex base64 rot13 rot_13 utf-7 utf7 utf-32 utf-8-sig latin-1 unicode_escape raw_unicode_escape"
PYTHON_ONLY += " undefined idna punycode mbcs charmap cp037"
REPLACEMENT = "replacement iso-2022-kr hz-gb-2312 iso-2022-cn"
LOOKALIKES = ["", "..", "utf-8\0", "utf\u00ad-8", "\u212aoi8-r", "x" * 100_000]


@pytest.mark.parametrize("label", [*PYTHON_ONLY.split(), *REPLACEMENT.split(), *LOOKALIKES])
def test_other_names_are_no_labels(label: str) -> None:
    assert label_to_codec(label) is None
    assert detect(b"\xff", f"text/html; charset={label}") == "cp1252"
    assert decode(b"caf\xc3\xa9", label) == "caf\u00e9"


def test_each_codec_exists_in_python_under_this_very_name_and_turns_bytes_into_text() -> None:
    for codec in CODECS:
        info = codecs.lookup(codec)
        assert info.name == codec
        assert isinstance(b"a".decode(codec, "replace"), str)


def test_an_unknown_label_loads_no_codec() -> None:
    script = (
        "import sys; from crawler.encoding import decode, detect\n"
        "names = ('zip', 'rot13', 'utf-7', 'undefined', 'unicode_escape', 'cp037')\n"
        "before = set(sys.modules)\n"
        "for name in names:\n"
        "    decode(b'x', name); detect(b'<meta charset=%s>' % name.encode(), 'text/html; charset=' + name)\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- Content-Type -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("text/html", None),
        ("", None),
        ("text/html; charset=utf-8", "utf-8"),
        ("text/html;charset=UTF-8;boundary=x", "UTF-8"),
        ('text/html; charset="utf-8"', "utf-8"),
        ("text/html; charset='utf-8'", "utf-8"),
        ('text/html; charset="utf-8', "utf-8"),
        ("text/html; CharSet = Utf-8 ", "Utf-8"),
        ("text/html; charset=koi8-r; charset=utf-8", "koi8-r"),
        ("text/html; charset=; charset=utf-8", "utf-8"),
        ("text/html; charset=utf-8, text/html", "utf-8"),
        ("text/html charset=utf-8", "utf-8"),
        ("charset=utf-8", "utf-8"),
        ("text/html; charset=utf-8 foo", "utf-8"),
        ("text/html; charset", None),
        ("text/html; xcharset=utf-8", None),
        ("text/html; charset=''", None),
        ("text/html; =utf-8", None),
        ("; ; ;", None),
    ],
)
def test_the_charset_of_a_header_is_found_in_whatever_servers_send(value: str, label: str | None) -> None:
    assert charset_from_content_type(value) == label


# -- declarations in the document -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "codec"),
    [
        (b"<meta charset=koi8-r>", "koi8-r"),
        (b"<META/CHARSET='KOI8-R'/>", "koi8-r"),
        (b'<meta\x0ccharset\n=\t" koi8-r ">', "koi8-r"),
        (b"<meta charset=utf-16>", "utf-8"),
        (b"<meta charset=x-user-defined>", "cp1252"),
        (b"<meta charset=koi8-r charset=utf-8>", "koi8-r"),
        (b"<meta charset=zip><meta charset=koi8-r>", "koi8-r"),
        (b"<meta charset=iso-2022-kr><meta charset=koi8-r>", "koi8-r"),
        (b"<meta charset>", None),
        (b"<meta =charset charset=koi8-r>", "koi8-r"),
        (b"<meta charset=koi8-r", None),
        (b"<meta charset='koi8-r", None),
        (b"<meta charset=", None),
        (b"<meta charset=>", None),
        (b"<metacharset=koi8-r>", None),
        (b"<meta><meta charset=koi8-r>", "koi8-r"),
        (b"<meta name=x content='charset=utf-8'><meta charset=koi8-r>", "koi8-r"),
        (b"<meta http-equiv=Content-Type content='text/html; charset=koi8-r'>", "koi8-r"),
        (b"<meta content='text/html; charset=koi8-r' http-equiv=CONTENT-TYPE>", "koi8-r"),
        (b"<meta http-equiv=content-type content='charset charset = \"koi8-r\"'>", "koi8-r"),
        (b"<meta http-equiv=content-type content='charset=\"koi8-r'>", None),
        (b"<meta http-equiv=content-type content='charset=koi8-r;x'>", "koi8-r"),
        (b"<meta http-equiv=content-type content='charset'>", None),
        (b"<meta http-equiv=refresh content='charset=koi8-r'>", None),
        (b"<meta http-equiv=content-type content=charset=utf-8 charset=koi8-r>", "koi8-r"),
        (b"<meta charset=koi8-r http-equiv=content-type content=charset=utf-8>", "koi8-r"),
        (b"<meta charset=zip http-equiv=content-type content=charset=utf-8>", None),
        (b"<!-- <meta charset=utf-8> --><meta charset=koi8-r>", "koi8-r"),
        (b"<!--><meta charset=koi8-r>", "koi8-r"),
        (b"<!---><meta charset=koi8-r>", "koi8-r"),
        (b"<!-- -- > <meta charset=koi8-r>", None),
        (b"<! '><meta charset=koi8-r>", "koi8-r"),
        (b"</ '><meta charset=koi8-r>", "koi8-r"),
        (b"<? '><meta charset=koi8-r>", "koi8-r"),
        (b"<!<meta charset=utf-8><meta charset=koi8-r>", "koi8-r"),
        (b"</p a='<meta charset=utf-8>'><meta charset=koi8-r>", "koi8-r"),
        (b"<p a='><meta charset=utf-8>'><meta charset=koi8-r>", "koi8-r"),
        (b'<p a="\'><meta charset=utf-8>"><meta charset=koi8-r>', "koi8-r"),
        (b"<a b=c'><meta charset=koi8-r>", "koi8-r"),
        (b"<a 'b><meta charset=koi8-r>", "koi8-r"),
        (b"<1 <meta charset=koi8-r>", "koi8-r"),
        (b"< <meta charset=koi8-r>", "koi8-r"),
        (b"<<meta charset=koi8-r>", "koi8-r"),
        (b"<title><meta charset=koi8-r></title>", "koi8-r"),
        (b"<a <meta charset=utf-8><meta charset=koi8-r>", "koi8-r"),
        (b"<meta charset=koi8-r>" + b" " * 5000, "koi8-r"),
        (b" " * 1003 + b"<meta charset=koi8-r>", "koi8-r"),
        (b" " * 1004 + b"<meta charset=koi8-r>", None),
    ],
)
def test_meta_is_found_as_the_html_standard_prescans(body: bytes, codec: str | None) -> None:
    assert detect(body + NOT_UTF8, HTML) == (codec or "cp1252")


@pytest.mark.parametrize(
    "content_type", [None, HTML, "text/xml", "application/rss+xml", "application/xhtml+xml", "image/svg+xml"]
)
@pytest.mark.parametrize(
    ("body", "codec"),
    [
        (b"<?xml version='1.0' encoding='koi8-r'?><x/>", "koi8-r"),
        (b'<?xml encoding\n=\n"KOI8-R"?><x/>', "koi8-r"),
        (b"<?xml encoding='utf-16'?><x/>", "utf-8"),
        (b"<?xml version='1.0'?><x encoding='koi8-r'/>", None),
        (b"<?xml encoding='koi8-r\"?><x/>", None),
        (b"<?xml encoding='koi8 r'?><x/>", None),
        (b"<?xml encoding=koi8-r?><x/>", None),
        (b"<?xml encoding='koi8-r'", None),
        (b"<?xml encoding=''?>", None),
        (b"<?xml encoding='zip'?>", None),
        (b" <?xml encoding='koi8-r'?>", None),
        (b"<?XML encoding='koi8-r'?>", None),
        ("<?xml version='1.0'?>".encode("utf-16-le"), "utf-16-le"),
        ("<?xml version='1.0'?>".encode("utf-16-be"), "utf-16-be"),
    ],
)
def test_the_declaration_of_xml_counts_in_every_kind_of_markup(
    body: bytes, codec: str | None, content_type: str | None
) -> None:
    assert detect(body + NOT_UTF8, content_type) == (codec or "cp1252")


@pytest.mark.parametrize(
    "whole", [b"\xff<meta charset=koi8-r>", b"\xff<meta charset='koi8-r' >", b"\xff<p a=b><meta a charset = koi8-r>"]
)
def test_a_document_cut_within_its_declaration_declares_nothing(whole: bytes) -> None:
    assert detect(whole, HTML) == "koi8-r"
    assert {detect(whole[:cut], HTML) for cut in range(1, len(whole))} == {"cp1252"}


def test_meta_comes_before_the_xml_declaration_in_html_after_it_in_xhtml_and_never_in_xml() -> None:
    both = b"<?xml encoding='koi8-r'?><meta charset=cp866>\xff"
    only_meta = b"<meta charset=cp866>\xff"
    kinds = (HTML, "application/xhtml+xml", "application/xml")
    assert [detect(both, kind) for kind in kinds] == ["cp866", "koi8-r", "koi8-r"]
    assert [detect(only_meta, kind) for kind in kinds] == ["cp866", "cp866", "cp1252"]


# -- decoding ---------------------------------------------------------------------------------------------------------


def test_windows_1252_has_a_character_for_each_byte_as_in_the_encoding_standard() -> None:
    text = decode(bytes(range(256)), "cp1252")
    assert [hex(ord(text[byte])) for byte in (0x41, 0x80, 0x81, 0x8D, 0x8F, 0x90, 0x9D, 0x9F, 0xE9)] == [
        *("0x41", "0x20ac", "0x81", "0x8d", "0x8f", "0x90", "0x9d", "0x178", "0xe9")
    ]
    assert "\ufffd" not in text


@pytest.mark.parametrize(
    ("codec", "body", "text"),
    [
        ("cp874", b"\x81\xa1\xdb", "\x81\u0e01\ufffd"),
        ("cp1253", b"\x88\xaa\xc1", "\x88\ufffd\u0391"),
        ("cp1255", b"\xca\xd9", "\u05ba\ufffd"),
        ("koi8-u", b"\xae\xbe\xc1", "\u045e\u040e\u0430"),
        ("cp932", b"\x87\x40\x81\x5f", "\u2460\uff3c"),
        ("euc_jp", b"\xa4\xa2\xad\xa1", "\u3042\u2460"),
        ("euc_jp", b"\xa4\xa2\xff", "\u3042\ufffd"),
        ("gb18030", b"\xc4\xe3", "\u4f60"),
        ("big5hkscs", b"\xa4\xa4\xf9\xd6", "\u4e2d\u7881"),
        ("utf-8", b"a\xf0\x9f\x8db\xff", "a\ufffdb\ufffd"),
        ("utf-8", b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        ("utf-16-le", b"a\0\x00\xd8b", "a\ufffd"),
    ],
)
def test_what_does_not_decode_becomes_the_replacement_character(codec: str, body: bytes, text: str) -> None:
    assert decode(body, codec) == text


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_no_part_of_the_text(codec: str) -> None:
    body = "\ufeffa\ufeff".encode(codec)
    assert detect(body, None) == codec
    assert decode(body, codec) == "a\ufeff"


def test_a_label_decodes_as_its_codec_and_anything_else_as_utf8() -> None:
    assert decode(b"\xe9", "latin1") == "\u00e9"
    assert decode("\u00e9".encode(), "no such thing") == "\u00e9"


# -- hostile input ----------------------------------------------------------------------------------------------------

markup = st.lists(
    st.one_of(
        st.sampled_from(
            [b"<", b">", b"<!--", b"-->", b"<meta ", b"charset", b"=", b'"', b"'", b"content", b"http-equiv"]
        ),
        st.sampled_from(
            [b"content-type", b"koi8-r", b" ", b"/", b"<?xml ", b"encoding", b"<a", b"</", b"<!", b"\0", b"\xff"]
        ),
    ),
    max_size=30,
).map(b"".join)
bodies = st.one_of(st.binary(max_size=200), markup, st.text(max_size=50).map(lambda text: text.encode("utf-16")))
headers = st.one_of(
    st.none(),
    st.text(max_size=60),
    st.lists(st.sampled_from([*"; ,='\"", "charset", "text/html", "utf-8", "koi8-r", "zip", "\u212a", "\udcff"])).map(
        "".join
    ),
)


@settings(deadline=None)
@given(body=bodies, header=headers)
def test_any_body_under_any_header_is_detected_and_decoded_to_text_that_can_be_written(
    body: bytes, header: str | None
) -> None:
    codec = detect(body, header)
    assert codec in CODECS
    decode(body, codec).encode("utf-8")


@settings(deadline=None)
@given(body=st.binary(max_size=60), encoding=st.one_of(st.sampled_from(sorted(CODECS)), st.text(max_size=12)))
def test_any_body_is_decoded_in_any_encoding(body: bytes, encoding: str) -> None:
    decode(body, encoding).encode("utf-8")


@settings(deadline=None)
@given(text=st.text(max_size=60), codec=st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"]))
def test_unicode_text_survives_the_way_through(text: str, codec: str) -> None:
    body = ("\ufeff" + text).encode(codec)
    assert decode(body, detect(body, None)) == text


@pytest.mark.parametrize(
    "unit",
    [
        b"<",
        b"< ",
        b"<a ",
        b"<a>",
        b"<!",
        b"<!-- ",
        b"<meta ",
        b"<meta charset ",
        b"<meta a='",
        b"<?xml encoding",
        b"charset",
        b'"',
    ],
)
def test_the_search_for_a_declaration_stays_within_the_first_1024_bytes(unit: bytes) -> None:
    def fastest(body: bytes) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            detect(body, HTML)
            times.append(time.process_time() - start)
        return min(times)

    short, long = (b"<!charset>" + unit * (size // len(unit)) for size in (2_000, 200_000))
    assert fastest(long) < fastest(short) + 0.02


def test_a_header_of_any_length_is_read_in_one_pass() -> None:
    start = time.process_time()
    for _ in range(10):
        detect(b"", "text/html" + "; charset" * 100_000 + "=koi8-r")
    assert time.process_time() - start < 5
