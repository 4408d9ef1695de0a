"""The process of a crawl: its garbage collector is told what a crawl is like, and told back."""

from __future__ import annotations

import gc
import subprocess
import sys

from crawler.process import own_process, settle


def test_within_the_block_collections_are_rare_and_what_was_there_is_left_alone() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with own_process():
        settle()
        assert gc.get_threshold()[0] > 10 * 700
        assert gc.get_freeze_count() > 1000
        assert gc.isenabled()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() <= frozen  # from 3.12 on Python has some frozen at its start


PARSES = """
import resource, sys
from selectolax.lexbor import LexborHTMLParser
from crawler.process import own_process
page = b"<p class=x>text<a href=/somewhere>link</a></p>" * 2000
def faults():
    for _ in range(10):
        LexborHTMLParser(page)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        LexborHTMLParser(page)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
with own_process():
    print(faults())
"""


def test_a_page_is_parsed_in_memory_that_the_process_has_already() -> None:
    """Counted in page faults, of which there are some 300 a page where it is asked for anew."""
    said = subprocess.run([sys.executable, "-c", PARSES], capture_output=True, text=True, timeout=60, check=True)
    assert int(said.stdout) < 20 * 20
