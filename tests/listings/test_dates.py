"""Dates as people write them into sitemaps and feeds."""

from __future__ import annotations

import datetime as dt
import random

import pytest

from crawler.listings.dates import read_date


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # https://www.w3.org/TR/NOTE-datetime
        ("2024", "2024-01-01T00:00:00+00:00"),
        ("2024-05", "2024-05-01T00:00:00+00:00"),
        ("2024-05-06", "2024-05-06T00:00:00+00:00"),
        ("2024-05-06T07:08Z", "2024-05-06T07:08:00+00:00"),
        ("2024-05-06T07:08:09+02:00", "2024-05-06T07:08:09+02:00"),
        ("2024-05-06T07:08:09.45-03:30", "2024-05-06T07:08:09.450000-03:30"),
        # RFC 3339
        ("2024-05-06t07:08:09.123456789z", "2024-05-06T07:08:09.123456+00:00"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59+00:00"),
        # what people take for those
        (" 2024-05-06 07:08:09 ", "2024-05-06T07:08:09+00:00"),
        ("2024-05-06 07:08:09 UTC", "2024-05-06T07:08:09+00:00"),
        ("2024-5-6", "2024-05-06T00:00:00+00:00"),
        ("2024/05/06", "2024-05-06T00:00:00+00:00"),
        ("20240506T070809Z", "2024-05-06T07:08:09+00:00"),
        ("2024-05-06T07:08:09+0200", "2024-05-06T07:08:09+02:00"),
        ("2024-05-06T07:08:09-07", "2024-05-06T07:08:09-07:00"),
        ("2024-05-06T24:00:00Z", "2024-05-07T00:00:00+00:00"),
        # RFC 822 and 1123
        ("Mon, 06 May 2024 07:08:09 GMT", "2024-05-06T07:08:09+00:00"),
        ("06 May 24 07:08 EST", "2024-05-06T07:08:00-05:00"),
        ("Mon, 06 May 2024 07:08:09 CEST", "2024-05-06T07:08:09+02:00"),
        ("Mon, 06 May 2024 07:08:09 +0530", "2024-05-06T07:08:09+05:30"),
        ("Mon, 06 May 2024 07:08:09 +0200 (CEST)", "2024-05-06T07:08:09+02:00"),
        ("Mon, 06 May 2024 07:08:09 XYZ", "2024-05-06T07:08:09+00:00"),
        ("Mon, 06 May 2024 07:08:09", "2024-05-06T07:08:09+00:00"),
        ("Mon, 06 May 2024", "2024-05-06T00:00:00+00:00"),
    ],
)
def test_a_date_is_read_with_its_zone(text, expected):
    assert read_date(text) == dt.datetime.fromisoformat(expected)
    assert read_date(text).isoformat() == expected


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2024-13-01", "2023-02-29", "0000-00-00", "2024-05-06T25:00Z", "2024-05-06T07:08:09+99:00",
     "Mon, 06 May 99999999999999999999 07:08:09 GMT", "9" * 1000, "٢٠٢٤-٠٥-٠٦", "1 Jan 10000 00:00:00 GMT"],
)  # fmt: skip
def test_what_is_no_date_is_none(text):
    assert read_date(text) is None


def test_no_text_makes_it_raise_and_each_date_has_a_zone():
    rng = random.Random(5)
    read = 0
    for _ in range(20_000):
        text = "".join(rng.choices(PARTS, k=rng.randrange(1, 12)))
        date = read_date(text)
        assert date is None or date.tzinfo is not None
        read += date is not None
    assert read > 100


PARTS = [
    "2024",
    "05",
    "6",
    "-",
    "-",
    ":",
    ":",
    "T",
    "Z",
    " ",
    " ",
    "May",
    "Mon,",
    "+02",
    "00",
    ".5",
    "99999",
    "(",
    "\0",
    "é",
    "٣",
    "GMT",
]
