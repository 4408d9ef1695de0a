"""What a hostile web may try, what a long crawl meets, and which tests hold it off: the table of docs/security.md.

A row is held by the tests that are marked with it: `@pytest.mark.hostile("S01", "S05")`, or for a whole file
`pytestmark = pytest.mark.hostile(...)`. `python tests/security_table.py` writes the table anew;
`tests/test_security_table.py` fails where it is not what the marks say.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "security.md"
BEGIN, END = "<!-- rows -->", "<!-- end of rows -->"

ATTACKS = {
    "S01": "links and redirects to private addresses are not dialled, whatever names them",
    "S02": "no other spelling of an address gets past that: decimal, octal, hex, short, full-width, zone ids",
    "S03": "nor an IPv6 address that carries one: mapped, compatible, NAT64, 6to4, Teredo",
    "S04": "nor a name whose address changes between the check and the dial (DNS rebinding)",
    "S05": "redirects go through scheme, scope, robots.txt and guard, hop by hop; other schemes end them",
    "S06": "targets are judged when a proxy would dial them, and proxies come from the settings alone",
    "S07": "nothing off site is fetched, by redirect, sitemap, meta refresh or robots.txt",
    "S08": "there is no handler for `file:` and other local schemes",
    "S09": "cookies of a request stay with its origin over redirects",
    "S10": "so do `Cookie` and `Proxy-Authorization` headers, duplicates included",
    "S11": "so does `Authorization`: another scheme, host or port does not get it",
    "S12": "so do headers of the user's own (`X-Api-Key`), and `Referer`",
    "S13": "credentials of the settings have a host, and go nowhere else",
    "S14": "Digest is answered where it was configured for, and not after a redirect",
    "S15": "each proxy sees its own credentials alone, and sites none",
    "S16": "a body does not follow a redirect to another origin",
    "S17": "credentials of a storage client do not go over plain http",
    "S18": "no cookie for a public suffix (`co.uk`, `github.io`)",
    "S19": "a host-only cookie is one after a resume, too",
    "S20": "what is stored is data: no pickle, no eval, files for the owner alone",
    "S21": "cookies are bounded by site, in number and size, and do not flood the log",
    "S22": "a decompression bomb ends at the limit, whatever the coding",
    "S23": "nested codings and streams of many members are bounded; unknown codings are errors",
    "S24": "compressed sitemaps pass the same limits",
    "S25": "a coded body that was cut is never a success",
    "S26": "endless and slow bodies give their place back at the deadline",
    "S27": "floods of headers, trailers and chunk extensions end early",
    "S28": "endless interim answers end at the deadline",
    "S29": "malformed answers end as errors of the tree, with aiohttp's C parser and without",
    "S30": "a link cannot write into a request: one well-formed request, or none",
    "S31": "redirect loops and chains end",
    "S32": "certificates are verified, each fault has its reason, and an exception for one host is for that one alone",
    "S33": "no name that a site gives leads out of the folder",
    "S34": "CSV cells do not become formulas",
    "S35": "an item cannot write a second one",
    "S36": "no control character of a site reaches the log or the terminal",
    "S37": "what is planted in the queue is not executed",
    "S38": "nothing a site sends is imported or evaluated",
    "S39": "no regular expression takes more than linear time on what a site sends",
    "S40": "a robots.txt of any size costs little, once",
    "S41": "XML has no DTD, no entities and no depth here, and is read in bounded memory",
    "S42": "HTML that takes quadratic time to parse is given up, and the loop goes on meanwhile",
    "S43": "traps (calendars, session ids, spirals, facets) end, and other hosts finish",
    "S44": "a domain with endless host names is bounded",
    "S45": "what is known of names is bounded",
    "S46": "a status page is for loopback, or needs a token",
    "S47": "a status page shows text as text",
    "S48": "a status page obeys nobody else's page",
    "S49": "a status page takes no more than a request of a status page",
    "S50": "secrets do not show: in logs, outputs, statistics, tracebacks",
    "S51": "a Redis is not trusted more than it must be",
    "S52": "a job folder that others may write is refused",
    "S53": "dates, waits and numbers of any size are taken without an exception",
    "S54": "only encodings of the WHATWG standard; a label reaches no other codec",
    "S55": "dependencies are locked with hashes; the container has no root and nothing to write",
}

FAULTS = {
    "R-01": "SIGKILL at any moment: nothing lost, no item twice, no torn line",
    "R-02": "the same while recovering from one",
    "R-03": "SIGTERM drains, in time, and loses nothing",
    "R-04": "SIGINT twice, SIGHUP, SIGSTOP and SIGCONT",
    "R-05": "a full disk ends the crawl with a clear word; with space it goes on",
    "R-06": "a failing disk is not ignored; a slow one does not stop the loop",
    "R-07": "torn and flipped bytes are detected",
    "R-07b": "two processes on one job; a job of a newer version",
    "R-08": "a Redis that goes and comes back",
    "R-09": "a Redis that is slow, full or forgetful",
    "R-10": "a worker that dies with a lease",
    "R-11": "a handler that outlives its lease",
    "R-12": "politeness with many workers",
    "R-13": "the same link found by many workers at once",
    "R-14": "every failure of DNS has its reason and its retry",
    "R-15": "slow names do not hold up other hosts",
    "R-16": "every failure of a connection has its reason, and descriptors stay flat",
    "R-17": "wrong lengths and chunks: never a silent success, never on the next answer's account",
    "R-18": "malformed status lines and headers: a verdict for each",
    "R-19": "500 slow-loris hosts cost the healthy ones little",
    "R-20": "`Retry-After` pauses the host, over restarts",
    "R-21": "flapping servers and outages cost no page",
    "R-22": "tries are counted over a crash; a page that kills the process is set aside",
    "R-23": "every failure of TLS has its reason",
    "R-24": "clocks that jump",
    "R-25": "a million URLs in bounded memory",
    "R-26": "ten thousand hosts",
    "R-27": "a callback that raises, in every way",
    "R-28": "a callback that hangs",
    "R-29": "a callback that blocks the loop is named, and is not the hosts' fault",
    "R-30": "a callback that gives without end",
    "R-31": "a pipeline that raises, hangs or is slow",
    "R-32": "items that are not as they must be are kept apart",
    "R-33": "an output that is deleted, replaced or made read-only",
    "R-34": "URLs and links in any encoding",
    "R-35": "a body in another encoding than it says",
    "R-36": "a page of a gigabyte",
    "R-37": "infinite pagination",
    "R-38": "robots.txt in every state of disrepair",
    "R-39": "a memory limit of the container",
    "R-40": "a limit of open files",
    "R-41": "all of it together, for a while",
    "R-42": "state of an older version",
    "R-43": "exit codes, and reports that add up",
}

OPEN: dict[str, str] = {}
"""Rows without a test, each with its reason."""


def holders() -> dict[str, list[str]]:
    """The marked tests of each row, as `path::test`, in order; a whole file as its path."""
    return _marked(TESTS)


@functools.cache
def _marked(tests: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(tests.rglob("test_*.py")):
        name = str(path.relative_to(tests.parent))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                marks = [row for decorator in node.decorator_list for row in _rows(decorator)]
                where = f"{name}::{node.name}"
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
                values = node.value.elts if isinstance(node.value, ast.List) else [node.value]
                marks, where = [row for value in values for row in _rows(value)], name
            else:
                continue
            for row in marks:
                found[row].append(where)
    return found


def _rows(decorator: ast.expr) -> list[str]:
    if not (isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.hostile"):
        return []
    return [ast.literal_eval(argument) for argument in decorator.args]


def table() -> str:
    held = holders()
    lines = []
    for title, rows in (("Attacks", ATTACKS), ("Faults", FAULTS)):
        lines += [f"### {title}", "", "| row | what holds | held by |", "| --- | --- | --- |"]
        lines += [f"| {row} | {promise} | {_cell(row, held.get(row, []))} |" for row, promise in rows.items()]
        lines.append("")
    return "\n".join(lines)


def _cell(row: str, tests: list[str]) -> str:
    if not tests:
        return f"*{OPEN[row]}*" if row in OPEN else "**nothing**"
    by_file: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        path, _, name = test.partition("::")
        by_file[path].append(name)
    return "; ".join(
        f"[{path.removeprefix('tests/')}](../{path})" + _count([name for name in names if name])
        for path, names in by_file.items()
    )


def _count(names: list[str]) -> str:
    if not names:
        return ""
    return f": {names[0].removeprefix('test_').replace('_', ' ')}" if len(names) == 1 else f" ({len(names)} tests)"


def written(text: str) -> str:
    """The page with the table as the marks have it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
