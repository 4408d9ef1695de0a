"""Real input: the Python documentation as Debian ships it, served by nginx."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import docs_site

from crawler.loader import load_spider
from crawler.testing import run_spider

SPIDERS = Path(__file__).parent.parent / "spiders"


@pytest.mark.skipif(docs_site.missing() is not None, reason=docs_site.missing() or "")
async def test_the_site_spider_finds_exactly_the_pages_that_an_independent_walk_finds(tmp_path):
    folder = docs_site.docs_folder()
    assert folder is not None
    with docs_site.serve(folder) as url:
        start = f"{url}/index.html"
        output = tmp_path / "pages.jsonl"
        result = await run_spider(
            load_spider("site", SPIDERS),
            args={"start": start},
            settings={"politeness": {"concurrency_per_host": 32}},
            job=tmp_path / "job",
            output=output,
        )
        expected = docs_site.walk(start)
    found = [json.loads(line)["url"] for line in output.read_text().splitlines()]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len(found) > 500
    assert (result.reason, result.stats["items"]) == ("finished", len(found))
