"""The habits of the house that a machine can check: rules that read the syntax trees of `crawler/**`.

A rule is a function from modules to complaints. Beside each stand small sources that it must complain about, so a rule
that has gone blind fails too. Exceptions are written down here, each with its reason.
"""

from __future__ import annotations

import ast
import graphlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent

LAYERS = (
    # 0 words: values, no asyncio, no aiohttp
    """arguments attempt errors entry crash dead_letter fate redaction url query encoding css selector references
    directives links body storable request form file_names curl response item settings contracts listings markup""",
    # 1 rules: pure decisions; time and chance are arguments
    """robots politeness retry redirect guard cookies proxies scope budgets traps spider kinds""",
    # 2 rooms: each owns one kind of I/O
    "clock lock stats log watchdog headroom pipelines parsing frontier download export monitor",
    # 3 the loop
    """context refusals bounds places exchange callback_time page passage collector inline visit steps epochs refresh
    feed hooks limits engine""",
    # 4 assembly
    """assemble rooms processes workers operate migrate outputs predecessor loader status process task_stacks signals
    jobs repair explain treatment""",
    # 5 doors
    "cli api testing demo __init__ __main__",
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms.split()}
WORDS, RULES, ROOMS, LOOP = range(4)

# -- exceptions, each with its reason ----------------------------------------------------------------------------------

OWN_TASKS = {
    "engine": "its TaskGroup owns every task of a crawl",
    "processes": "a TaskGroup in the parent owns its children, one in each child listens to the parent",
    "api": "stream() runs the crawl beside its reader, and has ended it before it ends itself",
    "cli": "the live line runs beside the crawl, in a TaskGroup of the two",
    "testing": "a scripted server talks beside the test, and ends what it began when it is left",
}
WAITING_RULES = {
    "spider": "a spider's methods are the user's, and may wait",
    "kinds": "they are spiders: they read streams, and wait for the user's callbacks",
}
DYNAMIC_IMPORTS = {
    "loader": "spiders are files of the user, named on the user's command line",
    "__init__": "public names load lazily from a fixed table",
    "cli": "each verb loads its own module, named in the grammar",
}
CONCRETE_PARTS = {
    "assemble": "the one file that chooses",
    "rooms": "what assemble and the children of a crawl open alike",
    "processes": "the parent lends hosts of the local frontier, a child borrows them",
    "migrate": "a crawl moves between engines",
    "operate": "a crawl that workers share is looked at without one",
    "workers": "what assemble needs for one of several workers",
    "outputs": "what a job keeps of its outputs",
    "predecessor": "what the last crawl left is looked at before anything is assembled",
    "jobs": "a job is looked at without a crawl",
    "repair": "what is mended is a job's own files, in their own formats",
    "explain": "a job is asked without a crawl",
    "treatment": "a job is asked without a crawl",
    "cli": "`fetch --trace` watches the connections of its one request",
    "testing": "a response that nobody fetched is saved as a real one is",
}
BROAD_EXCEPTS = {
    "crawler/processes/child.py:work": "the parent is told, which logs it and ends the crawl",
    "crawler/parsing/__init__.py:_outcome": "what was raised in the thread is raised by who waits for it",
    "crawler/steps.py:__await__": "what a page's wait raises is thrown into the page's own coroutine",
}
NAMES_OF_METHODS = {
    "crawler/spider.py:callback_of": "the one place where a name out of a record becomes a method, vetted",
    "crawler/kinds/method.py:method_name": "names in class attributes of the user",
    "crawler/kinds/method.py:function_of": "names in class attributes of the user",
    "crawler/kinds/crawl.py:_by_rule": "a rule's callback, which `method_name` has seen when the spider was made",
}
READ_WHOLE = {
    "crawler/download/plain.py:_answered": "a head, which the parser bounds, and not a body",
    "crawler/download/save.py:_receive": "the next piece, as the stream has it",
    "crawler/testing/raw.py:script": "a test's own client",
    "crawler/testing/site.py:_answer": "a test's own client",
}
PATTERNS_OF_THE_USER = {
    "crawler/links.py:_compile": "allow and deny of the user's own",
    "crawler/scope.py:compiled": "allow and deny of the user's own",
    "crawler/selector.py:re": "the user's expression",
    "crawler/selector.py:_pattern": "the user's expression",
    "crawler/kinds/link_extractor.py:_patterns": "allow and deny of the user's own",
    "crawler/kinds/sitemap.py:__init__": "the rules of the user's spider",
}
XML_READERS = {
    "crawler/listings/xml.py": "expat, with its gaps closed",
    "crawler/selector.py": "lxml for XPath, over a tree that lexbor parsed",
}
OTHER_PROGRAMS = {
    "crawler/parsing/trial.py": "a Python that parses pages, and can be stopped",
    "crawler/processes/member.py": "a Python that is one of the crawl's own processes",
}
UNVERIFIED = {"crawler/download/tls.py": "a host for which the user's settings ask for it"}
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """`target` is dotted down to the imported name: `from crawler.url import join` is `crawler.url.join`."""

    target: str
    line: int
    for_types_only: bool

    @property
    def library(self) -> str:
        return self.target.split(".")[0]

    @property
    def room(self) -> str | None:
        """The room of this package that it names, `__init__` for a public name of the package; None for a library."""
        first, second, *_ = [*self.target.split("."), ""]
        if first != "crawler" or second.startswith("__"):  # `crawler.__version__` is a value, not a room
            return None
        return second if second in LAYER_OF else "__init__"


@dataclass(frozen=True)
class Module:
    """One file of the package; `path` is relative to the project's root."""

    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def calls(self) -> list[tuple[ast.Call, str]]:
        return [(node, ast.unparse(node.func)) for node in self.nodes if isinstance(node, ast.Call)]

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
        return {node.name: node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}

    def function_at(self, line: int) -> str:
        """The innermost function around a line, as `path:name`; only the path outside of all."""
        kinds = ast.FunctionDef | ast.AsyncFunctionDef  # not `functions`: methods of two classes may have one name
        around = [n for n in self.nodes if isinstance(n, kinds) and n.lineno <= line <= (n.end_lineno or 0)]
        return ":".join([self.path, *[node.name for node in sorted(around, key=lambda node: node.lineno)[-1:]]])

    @property
    def name(self) -> str:
        return ".".join(Path(self.path).with_suffix("").parts).removesuffix(".__init__")

    @property
    def room(self) -> str:
        return Path(self.path).with_suffix("").parts[1]

    @property
    def layer(self) -> int:
        return LAYER_OF.get(self.room, len(LAYERS))

    @cached_property
    def all_imports(self) -> list[Import]:
        return list(_imports(self, self.tree, for_types_only=False))

    @property
    def imports(self) -> list[Import]:
        """Those that happen when the program runs, in functions too."""
        return [found for found in self.all_imports if not found.for_types_only]

    def at(self, line: int, complaint: str) -> str:
        return f"{self.path}:{line}: {complaint}"


Package = list[Module]
Rule: TypeAlias = "Callable[[Package], Iterator[str]]"


def _imports(module: Module, node: ast.AST, *, for_types_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, for_types_only)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(module, node)
        for alias in node.names:
            yield Import(f"{base}.{alias.name}", node.lineno, for_types_only)
    elif isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
        for statement in node.body:
            yield from _imports(module, statement, for_types_only=True)
        for statement in node.orelse:
            yield from _imports(module, statement, for_types_only=for_types_only)
    else:
        if isinstance(node, ast.Call) and _called(node) == "import_module":
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield Import(str(argument.value), node.lineno, for_types_only)
        for child in ast.iter_child_nodes(node):
            yield from _imports(module, child, for_types_only=for_types_only)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = Path(module.path).parts[: -node.level]
    return ".".join([*package, *filter(None, [node.module])])


def _called(node: ast.Call) -> str:
    """The last part of what is called: `create_task` of `group.create_task(...)`."""
    return ast.unparse(node.func).rpartition(".")[2]


def _calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    yield from module.calls


# -- rules: where things stand -----------------------------------------------------------------------------------------


def every_file_has_a_layer(package: Package) -> Iterator[str]:
    for module in package:
        if module.room not in LAYER_OF:
            yield f"{module.path}: `{module.room}` stands in no layer; give it one in LAYERS and in docs/design.md"


def imports_point_up_the_list(package: Package) -> Iterator[str]:
    for module in package:
        for found in module.imports:
            if found.room is not None and LAYER_OF[found.room] > module.layer:
                yield module.at(
                    found.line, f"layer {module.layer} imports {found.target} of layer {LAYER_OF[found.room]}"
                )


def rooms_do_not_import_each_other(package: Package) -> Iterator[str]:
    for module in package:
        for found in module.imports:
            if module.layer == ROOMS and found.room not in (None, module.room) and LAYER_OF[found.room] == ROOMS:
                yield module.at(found.line, f"the room {module.room} imports the room {found.room}")


def nothing_imports_in_a_circle(package: Package) -> Iterator[str]:
    names = {module.name for module in package}

    def file_of(target: str) -> str:
        while target and target not in names:
            target = target.rpartition(".")[0]
        return target

    graph = {module.name: {file_of(found.target) for found in module.imports} - {"", module.name} for module in package}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield "a circle: " + " <- ".join(error.args[1])


def words_and_rules_know_no_event_loop(package: Package) -> Iterator[str]:
    for module in package:
        for found in module.imports:
            if module.layer <= RULES and found.library in (
                "asyncio",
                "aiohttp",
                "aiodns",
                "aiofiles",
                "uvloop",
                "lmdb",
            ):
                yield module.at(found.line, f"layer {module.layer} imports {found.target}")


def rules_do_not_wait_look_at_a_clock_or_roll_dice(package: Package) -> Iterator[str]:
    for module in package:
        if module.layer != RULES or module.room in WAITING_RULES:
            continue
        for node in module.nodes:
            if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith):
                yield module.at(node.lineno, "a rule waits")
        for call, name in _calls(module):
            if re.fullmatch(r"time\.\w+|random\.(?!Random)\w+|(\w+\.)?(datetime|date)\.(now|utcnow|today)", name):
                yield module.at(call.lineno, f"a rule calls {name}(): `now` and `rng` are arguments")


def the_loop_knows_contracts_only(package: Package) -> Iterator[str]:
    for module in package:
        for found in module.imports:
            if module.layer == LOOP and found.library in ("aiohttp", "lmdb", "aiofiles"):
                yield module.at(found.line, f"the loop imports {found.target}")


def only_assembly_names_concrete_parts(package: Package) -> Iterator[str]:
    # Imports for types count here: who names a concrete class in an annotation depends on it all the same.
    for module in package:
        for found in module.all_imports:
            if found.room in ("frontier", "download", "export") and module.room not in (found.room, *CONCRETE_PARTS):
                yield module.at(found.line, f"{found.target} is named outside assemble.py")


# -- rules: what is never done -----------------------------------------------------------------------------------------


def nothing_stored_becomes_code(package: Package) -> Iterator[str]:
    for module in package:
        for found in module.all_imports:
            if found.library in ("pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml"):
                yield module.at(found.line, f"imports {found.library}: what is stored is data, in a closed schema")
        for call, name in _calls(module):
            if name.removeprefix("builtins.") in ("eval", "exec", "compile", "yaml.load", "yaml.unsafe_load"):
                yield module.at(call.lineno, f"calls {name}()")


def names_become_methods_in_one_place(package: Package) -> Iterator[str]:
    for module in package:
        for call, name in _calls(module):
            if name.removeprefix("builtins.") not in ("getattr", "operator.attrgetter", "operator.methodcaller"):
                continue
            of, *named = [*call.args, ast.Constant("")]
            is_spider = re.search(r"(^|[._])spider$", ast.unparse(of)) or module.room == "kinds"
            is_vetted = isinstance(named[0], ast.Constant) or module.function_at(call.lineno) in NAMES_OF_METHODS
            if is_spider and not is_vetted:
                yield module.at(call.lineno, f"{ast.unparse(call)}: a name from elsewhere; `callback_of` vets it")


def no_other_program_is_started(package: Package) -> Iterator[str]:
    started = re.compile(r"os\.(system|popen|fork|exec\w+|spawn\w+|posix_spawnp?)|(\w+\.)?create_subprocess_\w+")
    for module in package:
        for found in module.imports:
            if found.library in ("subprocess", "pty", "multiprocessing"):
                yield module.at(found.line, f"imports {found.library}")
        for call, name in _calls(module):
            if started.fullmatch(name) and module.path not in OTHER_PROGRAMS:
                yield module.at(call.lineno, f"calls {name}()")


def temporary_files_are_made_with_their_names(package: Package) -> Iterator[str]:
    for module in package:
        for call, name in _calls(module):
            if name.rpartition(".")[2] in ("mktemp", "tmpnam", "tempnam"):
                yield module.at(call.lineno, f"{name}(): somebody else may make that file first")


def certificates_are_verified(package: Package) -> Iterator[str]:
    for module in package:
        for node in module.nodes:
            if module.path not in UNVERIFIED and _trusts_anybody(node):
                yield module.at(getattr(node, "lineno", 0), "certificates are not verified")


def _trusts_anybody(node: ast.AST) -> bool:
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        return name in ("CERT_NONE", "_create_unverified_context")
    is_off = isinstance(node, ast.Assign | ast.keyword) and _is_false(node.value)
    if isinstance(node, ast.keyword):
        return is_off and node.arg in ("ssl", "verify_ssl", "verify")
    return is_off and isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith(".check_hostname")


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def xml_is_read_where_it_is_bounded(package: Package) -> Iterator[str]:
    for module in package:
        for found in module.imports:
            if found.library in ("xml", "lxml", "xmlrpc", "html5lib") and module.path not in XML_READERS:
                yield module.at(found.line, f"imports {found.target}: XML is read by listings/xml.py")


def bodies_are_read_to_a_limit(package: Package) -> Iterator[str]:
    for module in package:
        for node in module.nodes:
            if not (isinstance(node, ast.Await) and isinstance(node.value, ast.Call)):
                continue
            call = node.value
            has_limit = any(ast.unparse(argument) not in ("-1", "None") for argument in call.args)
            is_whole = _called(call) in ("read", "text", "json") and not has_limit
            if is_whole and module.function_at(node.lineno) not in READ_WHOLE:
                yield module.at(node.lineno, f"await {ast.unparse(call)}: as much as somebody sends")


def patterns_stand_in_the_source(package: Package) -> Iterator[str]:
    called = re.compile(r"re\.(compile|search|match|fullmatch|sub|subn|split|findall|finditer)")
    for module in package:
        for call, name in _calls(module):
            is_foreign = called.fullmatch(name) and call.args and not _is_written(call.args[0])
            if is_foreign and module.function_at(call.lineno) not in PATTERNS_OF_THE_USER:
                yield module.at(call.lineno, f"{ast.unparse(call)[:80]}: a pattern from elsewhere")


def _is_written(pattern: ast.expr) -> bool:
    """Of literals, constants of the module, `"|".join(...)` of such, and what `re.escape` gave."""
    if isinstance(pattern, ast.Name):
        return pattern.id.isupper()
    if isinstance(pattern, ast.Call):
        if isinstance(pattern.func, ast.Attribute) and pattern.func.attr == "encode":
            return _is_written(pattern.func.value)
        return _called(pattern) == "escape" or (_called(pattern) == "join" and _is_written(pattern.args[0]))
    if isinstance(pattern, ast.GeneratorExp | ast.ListComp):
        return _is_written(pattern.elt)
    if isinstance(pattern, ast.FormattedValue):
        return _is_written(pattern.value)
    inner = [each for each in ast.iter_child_nodes(pattern) if isinstance(each, ast.expr)]
    return isinstance(pattern, ast.Constant | ast.JoinedStr | ast.BinOp) and all(map(_is_written, inner))


def modules_are_named_in_the_source(package: Package) -> Iterator[str]:
    for module in package:
        for call, name in _calls(module):
            if name.rpartition(".")[2] in ("import_module", "__import__") and module.room not in DYNAMIC_IMPORTS:
                yield module.at(call.lineno, f"{name}(): a module chosen at run time")


def every_task_has_an_owner(package: Package) -> Iterator[str]:
    for module in package:
        for call, name in _calls(module):
            if name.rpartition(".")[2] in ("create_task", "ensure_future") and module.room not in OWN_TASKS:
                yield module.at(call.lineno, f"{name}() outside {', '.join(OWN_TASKS)}")


def no_error_is_swallowed(package: Package) -> Iterator[str]:
    for module in package:
        for node in module.nodes:
            if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _tells(module, node.body):
                if module.function_at(node.lineno) not in BROAD_EXCEPTS:
                    yield module.at(node.lineno, "a broad except that neither raises, logs nor counts")
            elif isinstance(node, ast.Call) and _called(node) == "suppress" and any(map(_is_broad, node.args)):
                yield module.at(node.lineno, "suppresses every error")


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    return caught is None or ast.unparse(caught).removeprefix("builtins.") in ("Exception", "BaseException")


def _tells(module: Module, body: list[ast.stmt], asked: frozenset[str] = frozenset()) -> bool:
    """Whether it raises, logs, counts, or hands the error on: here, or in a function of this file that it calls."""
    telling = {"exception", "error", "warning", "critical", "log", "count", "increment", "inc", "set_exception"}
    for node in (inner for statement in body for inner in ast.walk(statement)):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add)):
            return True
        if isinstance(node, ast.Call):
            name = _called(node)
            if name in telling:
                return True
            called = module.functions.get(ast.unparse(node.func).removeprefix("self."))
            if called is not None and name not in asked and _tells(module, called.body, asked | {name}):
                return True
    return False


# -- rules: what has grown too large -----------------------------------------------------------------------------------


def functions_fit_a_screen(package: Package) -> Iterator[str]:
    for module in package:
        for node in module.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60 and f"{module.path}:{node.name}" not in LONG_FUNCTIONS:
                    yield module.at(node.lineno, f"{node.name} has {lines} lines")


def files_have_one_subject(package: Package) -> Iterator[str]:
    for module in package:
        lines = module.source.count("\n")
        if lines > 500 and module.path not in LONG_FILES:
            yield f"{module.path}: {lines} lines"


def nothing_is_left_for_later(package: Package) -> Iterator[str]:
    for module in package:
        for number, line in enumerate(module.source.splitlines(), 1):
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
                yield module.at(number, line.strip())


# -- the package keeps the rules, and the rules can see ----------------------------------------------------------------

BAD: dict[Rule, list[dict[str, str]]] = {
    every_file_has_a_layer: [{"utils.py": ""}, {"common/text.py": ""}],
    imports_point_up_the_list: [
        {"url.py": "from crawler.engine import Engine"},
        {"url.py": "import crawler.robots"},
        {"url.py": "def f():\n    from crawler import stats"},
        {"stats.py": "from . import engine"},
        {"frontier/disk.py": "from ..engine import Engine"},
        {"engine.py": "from crawler import Spider"},
        {"engine.py": "if TYPE_CHECKING:\n    import crawler.cli\nelse:\n    import crawler.cli"},
        {"stats.py": "import importlib\nimportlib.import_module('crawler.cli')"},
    ],
    rooms_do_not_import_each_other: [
        {"frontier/disk.py": "from crawler.stats import Stats"},
        {"download/body.py": "def f():\n    import crawler.export.lines"},
        {"log.py": "from crawler import pipelines"},
    ],
    nothing_imports_in_a_circle: [
        {"url.py": "from crawler.links import a", "links.py": "from crawler import url"},
        {
            "frontier/disk.py": "from . import heap",
            "frontier/heap.py": "def f():\n    from crawler.frontier.disk import x",
        },
        {"export/__init__.py": "from crawler.export.lines import x", "export/lines.py": "from crawler.export import y"},
    ],
    words_and_rules_know_no_event_loop: [
        {"url.py": "import asyncio"},
        {"spider.py": "def f():\n    from aiohttp import ClientSession"},
        {"response.py": "import aiohttp.web as web"},
    ],
    rules_do_not_wait_look_at_a_clock_or_roll_dice: [
        {"robots.py": "import time\ndef f():\n    return time.time()"},
        {"retry.py": "import random\ndef f():\n    return random.uniform(0, 1)"},
        {"retry.py": "import datetime as dt\nx = dt.datetime.now(dt.UTC)"},
        {"guard.py": "async def f(g):\n    await g()"},
    ],
    the_loop_knows_contracts_only: [
        {"engine.py": "import aiohttp"},
        {"page.py": "def f():\n    from lmdb import E"},
    ],
    only_assembly_names_concrete_parts: [
        {"engine.py": "from crawler.frontier.disk import DiskFrontier"},
        {"page.py": "if TYPE_CHECKING:\n    from crawler import export"},
    ],
    nothing_stored_becomes_code: [
        {"frontier/disk.py": "import pickle"},
        {"download/cookies.py": "def f():\n    from marshal import loads"},
        {"settings.py": "import shelve as s"},
        {"cli.py": "eval('1')"},
        {"cli.py": "def f(x):\n    exec(x)"},
        {"cli.py": "import builtins\nbuiltins.exec('1')"},
        {"settings.py": "import yaml\nyaml.load('')"},
        {"settings.py": "def f():\n    from yaml import safe_load"},
    ],
    names_become_methods_in_one_place: [
        {"visit.py": "def f(self, request):\n    getattr(self._spider, request.callback)()"},
        {"engine.py": "def f(spider, name):\n    return getattr(spider, name, None)"},
        {"kinds/feed.py": "def f(self, response):\n    getattr(self, response.meta['to'])(response)"},
    ],
    no_other_program_is_started: [
        {"pipelines.py": "import subprocess"},
        {"download/save.py": "def f(url):\n    import os\n    os.system('curl ' + url)"},
        {"export/file.py": "import asyncio\nasync def f():\n    await asyncio.create_subprocess_shell('x')"},
    ],
    temporary_files_are_made_with_their_names: [
        {"download/save.py": "import tempfile\npath = tempfile.mktemp()"},
        {"export/spool.py": "from tempfile import mktemp\npath = mktemp(dir='x')"},
    ],
    certificates_are_verified: [
        {"download/ways.py": "import ssl\ncontext = ssl._create_unverified_context()"},
        {"download/route.py": "from ssl import CERT_NONE\ncontext.verify_mode = CERT_NONE"},
        {"download/connect.py": "def f(context):\n    context.check_hostname = False"},
        {"download/session.py": "async def f(session):\n    await session.get('x', ssl=False)"},
    ],
    xml_is_read_where_it_is_bounded: [
        {"kinds/feed.py": "from xml.etree import ElementTree"},
        {"listings/sitemap.py": "import xml.sax"},
        {"kinds/sitemap.py": "def f():\n    from lxml import etree"},
    ],
    bodies_are_read_to_a_limit: [
        {"download/session.py": "async def f(answer):\n    return await answer.read()"},
        {"download/robots.py": "async def f(answer):\n    return await answer.content.read(-1)"},
        {"kinds/feed.py": "async def f(answer):\n    return await answer.text(errors='replace')"},
    ],
    patterns_stand_in_the_source: [
        {"robots.py": "import re\ndef f(rule):\n    return re.compile(rule)"},
        {"directives.py": "import re\ndef f(name, text):\n    return re.search(f'{name}=(.*)', text)"},
        {"encoding.py": "import re\ndef f(label, text):\n    return re.sub(label + '$', '', text)"},
    ],
    modules_are_named_in_the_source: [
        {"item.py": "import importlib\ndef f(name):\n    importlib.import_module(name)"},
        {"item.py": "__import__('os')"},
    ],
    every_task_has_an_owner: [
        {"download/connect.py": "import asyncio\nasyncio.create_task(f())"},
        {"stats.py": "import asyncio\nasyncio.ensure_future(f())"},
        {"log.py": "async def f(group):\n    group.create_task(g())"},
    ],
    no_error_is_swallowed: [
        {"engine.py": "try:\n    f()\nexcept Exception:\n    pass"},
        {"engine.py": "try:\n    f()\nexcept:\n    return_code = 1"},
        {"engine.py": "try:\n    f()\nexcept (ValueError, BaseException) as e:\n    print(e)"},
        {"engine.py": "def g():\n    g()\ntry:\n    f()\nexcept Exception:\n    g()"},
        {"log.py": "import contextlib\nwith contextlib.suppress(Exception):\n    f()"},
    ],
    functions_fit_a_screen: [
        {"url.py": "def f():\n" + "    x = 1\n" * 60},
        {"url.py": "async def f():\n" + "    x = 1\n" * 60},
    ],
    files_have_one_subject: [{"url.py": "x = 1\n" * 501}],
    nothing_is_left_for_later: [{"url.py": "x = 1  # " + "TO" + "DO: more"}, {"url.py": "# FIX" + "ME"}],
}

EXCEPTIONS: list[tuple[Rule, dict[str, str]]] = [
    (no_other_program_is_started, OTHER_PROGRAMS),
    (rules_do_not_wait_look_at_a_clock_or_roll_dice, WAITING_RULES),
    (every_task_has_an_owner, OWN_TASKS),
    (modules_are_named_in_the_source, DYNAMIC_IMPORTS),
    (only_assembly_names_concrete_parts, CONCRETE_PARTS),
    (no_error_is_swallowed, BROAD_EXCEPTS),
    (names_become_methods_in_one_place, NAMES_OF_METHODS),
    (xml_is_read_where_it_is_bounded, XML_READERS),
    (certificates_are_verified, UNVERIFIED),
    (bodies_are_read_to_a_limit, READ_WHOLE),
    (patterns_stand_in_the_source, PATTERNS_OF_THE_USER),
    (files_have_one_subject, LONG_FILES),
    (functions_fit_a_screen, LONG_FUNCTIONS),
]

GOOD = {
    "url.py": "if TYPE_CHECKING:\n    import aiohttp\n    import crawler.engine\nfrom crawler import __version__",
    "links.py": "from crawler import url as urls\nfrom crawler.errors import InvalidURL",
    "retry.py": "from random import Random\nimport random\ndef f(rng: Random, now):\n    return rng.random() + now",
    "frontier/__init__.py": "from crawler.frontier.disk import x",
    "frontier/disk.py": "import lmdb\nfrom crawler.frontier.heap import x\nfrom . import heap",
    "frontier/heap.py": "def f():\n" + "    x = 1\n" * 59,
    "engine.py": (
        "import asyncio\nasync def f(group):\n    try:\n        group.create_task(g())\n"
        "    except Exception:\n        logger.exception('callback')\n"
        "    try:\n        pass\n    except ValueError:\n        pass\n"
        "    try:\n        pass\n    except Exception as error:\n        self.failed(error)\n"
        "def failed(self, error):\n    self.failures += 1"
    ),
    "assemble.py": "from crawler.frontier.disk import DiskFrontier\nfrom crawler.engine import Engine",
    "cli.py": "from crawler import Spider\nimport re\nre.compile('evaluate')\nx.eval()" + "\n" * 490,
    "directives.py": (
        "import re\n_A = 'a'\n_B = re.compile(rf'{_A}*')\n_C = re.compile('|'.join(re.escape(x) for x in _A))\n"
        "async def f(content, spider):\n    return await content.read(10), getattr(spider, 'name', '')"
    ),
    "__init__.py": "import importlib\ndef __getattr__(name):\n    return importlib.import_module(name)",
}


def _sources(sources: dict[str, str]) -> Package:
    return [Module(f"crawler/{path}", source) for path, source in sources.items()]


@pytest.fixture(scope="module")
def package() -> Package:
    files = sorted((ROOT / "crawler").rglob("*.py"))
    return [Module(str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.hostile("S20", "S38")
@pytest.mark.parametrize("rule", BAD, ids=lambda rule: rule.__name__)
def test_in_this_package(rule: Rule, package: Package) -> None:
    assert len(package) > 1
    complaints = list(rule(package))
    assert not complaints, "\n".join(["", *complaints])


@pytest.mark.hostile("S20", "S38")
@pytest.mark.parametrize(
    ("rule", "sources"),
    [
        pytest.param(rule, sources, id=f"{rule.__name__}-{n}")
        for rule, bad in BAD.items()
        for n, sources in enumerate(bad)
    ],
)
def test_a_breach_is_seen(rule: Rule, sources: dict[str, str]) -> None:
    assert list(rule(_sources(sources)))


@pytest.mark.parametrize("rule", BAD, ids=lambda rule: rule.__name__)
def test_good_code_is_left_alone(rule: Rule) -> None:
    assert list(rule(_sources(GOOD))) == []


def test_every_rule_stands_in_the_table() -> None:
    defined = {
        node.name
        for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and [argument.arg for argument in node.args.args] == ["package"]
    }
    assert {rule.__name__ for rule in BAD} == {name for name in defined if not name.startswith("test_")}


@pytest.mark.parametrize(("rule", "table", "key"), [(rule, table, key) for rule, table in EXCEPTIONS for key in table])
def test_no_exception_outlives_its_reason(
    rule: Rule, table: dict[str, str], key: str, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_it = len(list(rule(package)))
    monkeypatch.delitem(table, key)
    assert len(list(rule(package))) > with_it, f"{key} is excepted from {rule.__name__} without need"
