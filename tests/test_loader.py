"""Spiders are found by name, by module and by file, and what stands in the way is said with file and line."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crawler.errors import SpiderNotFound, UsageError
from crawler.loader import check_arguments, find_spiders, item_types, load_spider, misspelled
from crawler.spider import Spider

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def spiders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty `spiders/` below the working directory; what it makes Python import is forgotten afterwards."""
    folder = tmp_path / "spiders"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    # Neither the project's own spiders/, which an editable install makes importable, nor what other tests imported.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry and not (Path(entry) / "spiders").is_dir()])
    for name in [name for name in sys.modules if name.partition(".")[0] == "spiders"]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)) or name == "spiders":
            del sys.modules[name]


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


def a_spider(name: str, class_name: str = "Found") -> str:
    return f'from crawler import Spider\n\nclass {class_name}(Spider):\n    """It is {name}."""\n    name = "{name}"\n'


# -- by name -----------------------------------------------------------------------------------------------------------


def test_a_name_means_the_spider_of_that_name_whatever_its_file_is_called(spiders: Path) -> None:
    write(spiders / "anything.py", a_spider("books"))
    write(spiders / "deeper" / "other.py", a_spider("papers"))
    assert load_spider("books", spiders).__name__ == "Found"
    assert load_spider("papers", spiders).name == "papers"


def test_an_unknown_name_is_told_with_all_names_and_the_nearest(spiders: Path) -> None:
    write(spiders / "books.py", a_spider("books"))
    write(spiders / "covers.py", a_spider("covers"))
    with pytest.raises(SpiderNotFound, match=r"no spider 'boks' .* there is books, covers. Did you mean 'books'\?"):
        load_spider("boks", spiders)
    with pytest.raises(SpiderNotFound) as nothing_near:
        load_spider("zzz", spiders)
    assert "Did you mean" not in str(nothing_near.value)


def test_a_name_in_an_empty_folder_and_without_a_folder_is_told(spiders: Path) -> None:
    with pytest.raises(SpiderNotFound, match="there is none"):
        load_spider("books", spiders)
    with pytest.raises(SpiderNotFound, match="there is no folder nowhere/ here"):
        load_spider("books", Path("nowhere"))


def test_a_name_that_two_spiders_have_is_refused_with_what_to_type_for_each(spiders: Path) -> None:
    first = write(spiders / "one.py", a_spider("books", "First"))
    second = write(spiders / "two.py", a_spider("books", "Second"))
    with pytest.raises(SpiderNotFound) as told:
        load_spider("books", spiders)
    for path, class_name in ((first, "First"), (second, "Second")):
        assert f"{path}:{class_name}" in str(told.value)
        assert load_spider(f"{path}:{class_name}", spiders).__name__ == class_name


def test_copies_that_editors_make_and_private_files_are_no_spiders(spiders: Path) -> None:
    write(spiders / "books.py", a_spider("books"))
    for copy in (".ipynb_checkpoints/books-checkpoint.py", "__pycache__/books.py", "_drafts/books.py", "_books.py"):
        write(spiders / copy, a_spider("books"))
    assert [found.path.name for found in find_spiders(spiders)] == ["books.py"]
    assert load_spider("books", spiders).name == "books"


def test_a_spider_without_a_name_and_one_that_was_only_imported_are_not_found(spiders: Path) -> None:
    write(spiders / "base.py", "from crawler import Spider\nclass Base(Spider): pass\n")
    write(spiders / "books.py", a_spider("books"))
    write(spiders / "more.py", "from spiders.books import Found\nclass More(Found):\n    name = 'more'\n")
    assert [[spider.name for spider in found.spiders] for found in find_spiders(spiders)] == [[], ["books"], ["more"]]


# -- by file and by module ---------------------------------------------------------------------------------------------


def test_a_file_with_one_spider_needs_no_class_name(spiders: Path) -> None:
    path = write(spiders.parent / "shop.py", a_spider("shop"))
    assert load_spider(str(path), Path("nowhere")).name == "shop"
    assert load_spider("shop.py", Path("nowhere")).name == "shop"
    assert load_spider("shop.py:Found", Path("nowhere")).name == "shop"


def test_of_a_file_with_several_spiders_one_has_to_be_named(spiders: Path) -> None:
    write(spiders.parent / "shop.py", a_spider("one", "One") + a_spider("two", "Two"))
    with pytest.raises(SpiderNotFound, match=r"several spiders; say which: shop.py:One, shop.py:Two"):
        load_spider("shop.py", spiders)
    assert load_spider("shop.py:Two", spiders).name == "two"
    with pytest.raises(SpiderNotFound, match="no Spider subclass with a name called Three"):
        load_spider("shop.py:Three", spiders)


def test_a_file_that_is_not_there_or_has_no_spider_is_told(spiders: Path) -> None:
    with pytest.raises(SpiderNotFound, match=r"there is no file missing\.py"):
        load_spider("missing.py", spiders)
    write(spiders.parent / "empty.py", "x = 1\n")
    with pytest.raises(SpiderNotFound, match=r"empty\.py has no Spider subclass with a name"):
        load_spider("empty.py", spiders)


def test_a_module_of_the_working_directory_is_found_without_installing_it(spiders: Path) -> None:
    write(spiders.parent / "our_project_for_tests" / "shops.py", a_spider("shop", "Shop"))
    assert load_spider("our_project_for_tests.shops:Shop", spiders).name == "shop"
    with pytest.raises(SpiderNotFound, match="has no Spider subclass Nothing"):
        load_spider("our_project_for_tests.shops:Nothing", spiders)
    with pytest.raises(SpiderNotFound, match="cannot import module no_such_module_at_all: ModuleNotFoundError"):
        load_spider("no_such_module_at_all:Shop", spiders)


def test_a_module_s_spider_without_a_name_is_told_what_it_lacks(spiders: Path) -> None:
    write(spiders.parent / "our_nameless_module.py", "from crawler import Spider\nclass Shop(Spider): pass\n")
    with pytest.raises(SpiderNotFound, match="our_nameless_module:Shop needs a name"):
        load_spider("our_nameless_module:Shop", spiders)


def test_spiders_share_code_by_the_name_that_the_folder_has(spiders: Path) -> None:
    write(spiders / "_common.py", "GREETING = 'hello'\n")
    write(spiders / "books.py", "from spiders._common import GREETING\n" + a_spider("books") + "    word = GREETING\n")
    assert load_spider("books", spiders).__dict__["word"] == "hello"


def test_a_file_beside_the_spiders_does_not_stand_in_for_a_library(spiders: Path) -> None:
    write(spiders.parent / "colorsys.py", "raise RuntimeError('this is not the standard library')\n")
    sys.modules.pop("colorsys", None)
    write(spiders / "books.py", "import colorsys\n" + a_spider("books"))
    assert load_spider("books", spiders).name == "books"


# -- files that fail ---------------------------------------------------------------------------------------------------


def test_a_file_that_fails_is_told_with_its_line_and_does_not_hide_the_others(spiders: Path) -> None:
    write(spiders / "books.py", a_spider("books"))
    broken = write(spiders / "broken.py", "from crawler import Spider\n\nimport no_such_module_at_all\n")
    assert load_spider("books", spiders).name == "books"
    with pytest.raises(SpiderNotFound) as told:
        load_spider("broken", spiders)
    assert f"cannot import {broken}, line 3: ModuleNotFoundError: No module named 'no_such" in str(told.value)
    [error] = [found.error for found in find_spiders(spiders) if found.error]
    assert isinstance(error.__cause__, ModuleNotFoundError)


def test_a_syntax_error_is_told_once_with_file_and_line(spiders: Path) -> None:
    path = write(spiders / "bad.py", "from crawler import Spider\n\nclass Bad(Spider)\n    name = 'bad'\n")
    with pytest.raises(SpiderNotFound) as told:
        load_spider(str(path), spiders)
    assert str(told.value) == f"cannot import {path}, line 3: SyntaxError: expected ':'"


def test_an_error_in_a_file_that_a_spider_imports_names_both(spiders: Path) -> None:
    helper = write(spiders / "_helper.py", "x = 1\ny = = 2\n")
    path = write(spiders / "books.py", "import spiders._helper\n" + a_spider("books"))
    with pytest.raises(SpiderNotFound) as told:
        load_spider(str(path), spiders)
    assert f"{path}, line 1: SyntaxError" in str(told.value)
    assert f"({helper}, line 2)" in str(told.value)


@pytest.mark.parametrize("statement", ["raise SystemExit(3)", "exit(3)", "raise KeyError('x')", "1 / 0"])
def test_whatever_a_file_raises_it_does_not_end_the_command(statement: str, spiders: Path) -> None:
    write(spiders / "books.py", a_spider("books"))
    write(spiders / "script.py", statement + "\n")
    assert load_spider("books", spiders).name == "books"
    assert [found.error is None for found in find_spiders(spiders)] == [True, False]


# -- modules and their items -------------------------------------------------------------------------------------------

ITEMS = """
from dataclasses import dataclass
from crawler import Spider

@dataclass
class {item}:
    title: str

class Found(Spider):
    name = "{name}"
"""


def test_two_files_of_one_name_keep_their_own_items(spiders: Path) -> None:
    write(spiders / "one" / "shop.py", ITEMS.format(item="Book", name="first"))
    write(spiders / "two" / "shop.py", ITEMS.format(item="Paper", name="second"))
    first, second = load_spider("first", spiders), load_spider("second", spiders)
    assert set(item_types(first)) == {"Book"}
    assert set(item_types(second)) == {"Paper"}


def test_a_file_is_imported_once(spiders: Path) -> None:
    write(spiders / "books.py", a_spider("books"))
    assert load_spider("books", spiders) is load_spider(str(spiders / "books.py"), spiders)


# -- arguments ---------------------------------------------------------------------------------------------------------


class Shop(Spider):
    name = "shop"
    site = "https://example.com"
    pages: int

    def parse(self, response: Any) -> None: ...


class Own(Spider):
    name = "own"

    def __init__(self, start: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)


@pytest.mark.parametrize("name", ["name", "settings", "logger", "parse", "request", "job", "start"])
def test_an_argument_cannot_replace_a_part_of_the_spider(name: str) -> None:
    with pytest.raises(UsageError, match=f"-a {name}=…: {name} is a part of every spider"):
        check_arguments(Shop, [name])


@pytest.mark.parametrize("name", ["site", "pages", "anything", "start_urls", "allowed_domains"])
def test_other_arguments_are_free(name: str) -> None:
    check_arguments(Shop, [name])


def test_what_a_spider_s_own_constructor_takes_is_its_own_affair() -> None:
    check_arguments(Own, ["start"])


def test_an_argument_that_nearly_has_a_name_of_the_spider_s_is_told() -> None:
    assert list(misspelled(Shop, ["stie", "page", "colour", "site", "pages"])) == [("page", "pages"), ("stie", "site")]
    assert list(misspelled(Own, ["strat"])) == [("strat", "start")]
