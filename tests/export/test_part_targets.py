"""Each worker writes a part of its own, whose name says whose it is and keeps the format."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.export import FORMATS, make_exporter, part_target
from crawler.file_names import safe_name


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("items.jsonl", "items.w1.jsonl"),
        ("items.jsonl.gz", "items.w1.jsonl.gz"),
        ("a.b/items.2024.NDJSON.ZST", "a.b/items.2024.w1.NDJSON.ZST"),
        ("items.txt:jsonl", "items.w1.txt:jsonl"),
        ("items:CSV", "items.w1:CSV"),
        ("a.b/items:json", "a.b/items.w1:json"),
        ("day:2024.csv", "day:2024.w1.csv"),
        ("items.db", "items.w1.db"),
        ("-", "-"),
        ("-:csv", "-:csv"),
        ("/dev/null:jsonl", "/dev/null:jsonl"),
        ("postgresql://me@host/db?table=books", "postgresql://me@host/db?table=books"),
        ("postgres://host/db", "postgres://host/db"),
    ],
)
def test_the_worker_stands_before_the_suffix(target: str, expected: str) -> None:
    assert part_target(target, "w1") == expected


STEMS = st.text("ab.-_ é~", min_size=1, max_size=8).filter(lambda stem: stem.strip("."))
FOLDERS = st.sampled_from(["", "out/", "a.jsonl/", "/tmp/x.gz/"])
SUFFIXED = st.builds("{}{}.{}".format, FOLDERS, STEMS, st.sampled_from(sorted(FORMATS)))
NAMED = st.builds("{}{}:{}".format, FOLDERS, STEMS, st.sampled_from(sorted(FORMATS)))


@given(target=st.one_of(SUFFIXED, NAMED), one=st.text(max_size=80), other=st.text(max_size=80))
def test_a_part_has_the_format_and_folder_of_the_whole_and_a_name_of_its_own(target: str, one: str, other: str) -> None:
    whole, part = make_exporter(target, False), make_exporter(part_target(target, one), False)
    assert whole.path is not None
    assert part.path is not None
    assert part.format == whole.format
    assert os.path.dirname(part.path) == os.path.dirname(whole.path)
    assert part.path != whole.path
    assert (part_target(target, other) == part_target(target, one)) == (other == one)


@given(name=st.text(max_size=100))
def test_a_workers_name_is_safe_in_a_file_name(name: str) -> None:
    safe = safe_name(name)
    assert 1 <= len(safe) <= 64
    assert not set(safe) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")


@pytest.mark.parametrize(
    ("name", "safe"), [("worker-1_a", "worker-1_a"), ("node1.example.com:80/x", "node1_example_com_80_x~")]
)
def test_a_safe_name_stays_and_another_is_still_known(name: str, safe: str) -> None:
    assert safe_name(name).startswith(safe)
