"""What may be continued, and what is believed to continue it."""

from __future__ import annotations

import pytest

from crawler import Request, Response
from crawler.download.ranges import Origin, Rest, length_of, origin_of, request_for_rest, rest_of
from crawler.testing import fake_response

URL = "https://files.example/big.iso"
ORIGIN = Origin(URL, '"v1"', 1000)
DATES = {"Date": "Thu, 19 Nov 2026 10:01:00 GMT", "Last-Modified": "Thu, 19 Nov 2026 10:00:00 GMT"}


def answer(headers: dict[str, str], *, status: int = 200, url: str = URL) -> Response:
    return fake_response(url, status=status, headers=headers)


# -- what may be continued ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "validator", "total"),
    [
        ({"ETag": '"v1"', "Content-Length": "9"}, '"v1"', 9),
        ({"ETag": '""', "Content-Length": "9"}, '""', 9),
        ({"ETag": '"v1"', "Accept-Ranges": "bytes"}, '"v1"', None),
        ({"ETag": '"v1"', "Accept-Ranges": "bytes", "Transfer-Encoding": "chunked"}, '"v1"', None),
        ({"ETag": '"v1"', "Content-Length": "9", "Content-Encoding": "identity"}, '"v1"', 9),
        ({"ETag": '"v1"', "Content-Length": "9", **DATES}, '"v1"', 9),
        ({"Content-Length": "9", **DATES}, DATES["Last-Modified"], 9),
    ],
)
def test_a_body_with_a_strong_validator_can_be_continued(
    headers: dict[str, str], validator: str, total: int | None
) -> None:
    assert origin_of(answer(headers)) == Origin(URL, validator, total)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"ETag": 'W/"v1"'}, id="weak"),
        pytest.param({"ETag": 'W/"v1"', **DATES}, id="weak, and a date that may not stand in for it"),
        pytest.param({"ETag": "v1"}, id="unquoted"),
        pytest.param({"ETag": '"v"1"'}, id="quote inside"),
        pytest.param({"ETag": '"v1", "v2"'}, id="two in one"),
        pytest.param({"ETag": '"v\xe9"'}, id="does not survive being sent back"),
        pytest.param({"ETag": '"v1"', "Accept-Ranges": "none"}, id="no ranges"),
        pytest.param({"ETag": '"v1"', "Content-Encoding": "gzip"}, id="coded"),
        pytest.param({"ETag": '"v1"', "Content-Encoding": "identity, br"}, id="coded twice"),
        pytest.param({"ETag": '"v1"', "Transfer-Encoding": "chunked"}, id="no sign of ranges"),
        pytest.param({**DATES, "Date": "Thu, 19 Nov 2026 10:00:59 GMT"}, id="changed a moment ago"),
        pytest.param({"Last-Modified": DATES["Last-Modified"]}, id="no date to compare with"),
        pytest.param({**DATES, "Last-Modified": "yesterday GMT"}, id="no date"),
        pytest.param({**DATES, "Last-Modified": "Thu, 19 Nov 99999999 10:00:00 GMT"}, id="no such year"),
    ],
)
def test_a_body_without_one_cannot(headers: dict[str, str]) -> None:
    assert origin_of(answer({"Content-Length": "9", **headers})) is None


def test_two_entity_tags_are_none() -> None:
    response = answer({"Content-Length": "9"})
    own = response.headers.copy()
    own.add("ETag", '"v1"')
    own.add("ETag", '"v2"')
    response.headers = own  # type: ignore[assignment]
    assert origin_of(response) is None


def test_passwords_are_not_part_of_an_origin() -> None:
    found = origin_of(answer({"ETag": '"v1"', "Content-Length": "9"}, url="https://me:secret@files.example/x"))
    assert found is not None
    assert "secret" not in found.url


@pytest.mark.parametrize("length", ["", "-1", "+9", "9,9", "²", "9 "])
def test_a_length_that_is_none_is_unknown(length: str) -> None:
    assert length_of(answer({"Content-Length": length})) is None


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Origin(URL, '"v1"', 1000), True),
        (Origin(URL, '"v1"', None), True),
        (Origin(URL, '"v1"', 999), False),
        (Origin(URL, '"v2"', 1000), False),
        (Origin(URL + "?x", '"v1"', 1000), False),
    ],
)
def test_the_same_file_is_the_same_url_validator_and_length(other: Origin, same: bool) -> None:
    assert ORIGIN.is_same(other) is same
    assert other.is_same(ORIGIN) is same


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_the_rest_is_asked_for_uncoded_and_on_condition() -> None:
    headers = {"Accept-Encoding": "br", "X-Own": "1", "If-None-Match": '"v0"', "range": "bytes=5-"}
    asked = request_for_rest(Request(URL, headers=headers, session="s"), ORIGIN, 400)
    assert dict(asked.headers) == {
        "X-Own": "1",
        "Accept-Encoding": "identity",
        "Range": "bytes=400-",
        "If-Range": '"v1"',
    }
    assert (asked.url, asked.session, asked.stream, asked.dont_filter) == (URL, "s", True, True)


def test_the_whole_is_asked_for_without_conditions() -> None:
    asked = request_for_rest(Request(URL, headers={"If-Modified-Since": "x"}), ORIGIN, 0)
    assert dict(asked.headers) == {"Accept-Encoding": "identity"}


# -- what is believed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        ({"Content-Range": "bytes 400-999/1000"}, Rest(1000, 1000)),
        ({"Content-Range": "Bytes  400-999/1000"}, Rest(1000, 1000)),
        ({"Content-Range": "bytes 400-999/*"}, Rest(1000, 1000)),
        ({"Content-Range": "bytes 400-499/1000"}, Rest(500, 1000)),
        ({"Content-Range": "bytes 400-499/1000", "Content-Length": "100"}, Rest(500, 1000)),
        ({"Content-Range": "bytes 400-999/1000", "ETag": '"v1"'}, Rest(1000, 1000)),
        ({"Content-Range": "bytes 400-999/1000", "Last-Modified": "whenever"}, Rest(1000, 1000)),
    ],
)
def test_a_range_that_starts_where_we_are_is_the_rest(headers: dict[str, str], rest: Rest) -> None:
    assert rest_of(answer(headers, status=206), ORIGIN, 400) == rest


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Range": ""},
        {"Content-Range": "bytes 399-999/1000"},
        {"Content-Range": "bytes 401-999/1000"},
        {"Content-Range": "bytes 0-999/1000"},
        {"Content-Range": "bytes 400-399/1000"},
        {"Content-Range": "bytes 400-1000/1000"},
        {"Content-Range": "bytes 400-1000/*"},
        {"Content-Range": "bytes 400-999/1001"},
        {"Content-Range": "bytes */1000"},
        {"Content-Range": "items 400-999/1000"},
        {"Content-Range": "bytes=400-999/1000"},
        {"Content-Range": "bytes 400-999/1000, bytes 0-1/1000"},
        {"Content-Range": "bytes ٤00-999/1000"},
        {"Content-Range": f"bytes 400-{'9' * 5000}/*"},
        {"Content-Range": "bytes 400-999/1000", "Content-Length": "601"},
        {"Content-Range": "bytes 400-999/1000", "Content-Encoding": "gzip"},
        {"Content-Range": "bytes 400-999/1000", "ETag": '"v2"'},
        {"Content-Range": "bytes 400-999/1000", "ETag": 'W/"v1"'},
        {"Content-Type": "multipart/byteranges; boundary=x"},
    ],
)
def test_anything_else_is_not(headers: dict[str, str]) -> None:
    assert rest_of(answer(headers, status=206), ORIGIN, 400) is None


def test_the_rest_of_another_url_is_not() -> None:
    moved = answer({"Content-Range": "bytes 400-999/1000"}, status=206, url="https://mirror.example/big.iso")
    assert rest_of(moved, ORIGIN, 400) is None


def test_a_rest_with_another_date_is_not() -> None:
    origin = Origin(URL, DATES["Last-Modified"], 1000)
    headers = {"Content-Range": "bytes 400-999/1000", "Last-Modified": "Thu, 19 Nov 2026 10:00:01 GMT"}
    assert rest_of(answer(headers, status=206), origin, 400) is None


def test_a_length_that_was_unknown_is_learnt() -> None:
    found = rest_of(answer({"Content-Range": "bytes 4-9/20"}, status=206), Origin(URL, '"v1"'), 4)
    assert found == Rest(10, 20)
