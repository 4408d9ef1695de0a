"""The Dockerfile and docker-compose.yml say what the documentation promises, and the crawl they describe does it.

There is no container here: the compose file's own command runs in a process of its own, with the environment of the two
files and nothing else, and temporary folders for /app and /data.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from crawler.demo import Shop, serve
from crawler.settings import environment_layer, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parent.parent

needs_the_command = pytest.mark.skipif(
    find_spec("crawler.cli") is None or not (ROOT / "spiders" / "books.py").exists(),
    reason="needs crawler/cli.py and spiders/books.py",
)


# -- reading the two files ---------------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, continuation lines joined."""

    word: str
    rest: str


def stages(dockerfile: str) -> list[list[Instruction]]:
    """The instructions of each stage, the FROM first."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.M))
    found: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append(Instruction(word, " ".join(rest.split())))
    return found


def read_yaml(text: str) -> Any:
    """Maps, lists of scalars, comments, quotes and plain words: the part of YAML that docker-compose.yml keeps to.

    Anything else raises `ValueError`, so that the file cannot outgrow this reader unseen.
    """
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in text.splitlines()]
    lines = [(indent, line) for indent, line in lines if line and not line.startswith("#")]
    value, rest = _block(lines, 0)
    if rest:
        raise ValueError(f"cannot read {rest[0][1]!r}")
    return value


def _block(lines: list[tuple[int, str]], indent: int) -> tuple[Any, list[tuple[int, str]]]:
    items: list[Any] = []
    keys: dict[str, Any] = {}
    while lines and lines[0][0] == indent:
        line, lines = lines[0][1], lines[1:]
        if line.startswith("- "):
            items.append(_scalar(line[2:]))
            continue
        found = re.fullmatch(r"([\w.-]+):(?: +(.+))?", line)
        if found is None or found[1] in keys:
            raise ValueError(f"cannot read {line!r}")
        keys[found[1]] = _scalar(found[2]) if found[2] else None
        if found[2] is None and lines and lines[0][0] > indent:
            keys[found[1]], lines = _block(lines, lines[0][0])
    if items and keys:
        raise ValueError("a list and a map in one block")
    return items or keys, lines


def _scalar(text: str) -> str | bool:
    if text.startswith('"'):
        return str(json.loads(text))
    if re.search(r"[\[\]{}&*!|>'%@`#]|: ", text):
        raise ValueError(f"cannot read {text!r}")
    return {"true": True, "false": False}.get(text, text)


@pytest.fixture(scope="module")
def image() -> list[Instruction]:
    """The last stage of the Dockerfile: what is in the image."""
    return stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))[-1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document = read_yaml((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def service(compose: dict[str, Any]) -> dict[str, Any]:
    crawl = compose["services"]["crawl"]
    assert isinstance(crawl, dict)
    return crawl


def rest_of(image: list[Instruction], word: str) -> str:
    """What stands last after this word."""
    return [instruction.rest for instruction in image if instruction.word == word][-1]


def environment_of(image: list[Instruction]) -> dict[str, str]:
    pairs = [pair for instruction in image if instruction.word == "ENV" for pair in shlex.split(instruction.rest)]
    return dict(pair.split("=", 1) for pair in pairs)


# -- the image ---------------------------------------------------------------------------------------------------------


def test_every_stage_starts_from_one_pinned_slim_image() -> None:
    found = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    bases = {stage[0].rest.split(" AS ")[0] for stage in found}
    assert len(found) == 2
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+(\.\d+)?-slim-\w+", bases.pop())


@pytest.mark.hostile("S55")
def test_the_image_runs_as_a_numbered_user_that_is_not_root(image: list[Instruction]) -> None:
    assert rest_of(image, "USER") == "10001:10001"
    assert image.index(Instruction("USER", "10001:10001")) > max(
        place for place, instruction in enumerate(image) if instruction.word == "RUN"
    )


def test_signals_reach_the_crawler_itself(image: list[Instruction]) -> None:
    assert json.loads(rest_of(image, "ENTRYPOINT")) == ["crawler"]  # JSON: no shell in between
    assert isinstance(json.loads(rest_of(image, "CMD")), list)
    assert rest_of(image, "STOPSIGNAL") == "SIGTERM"


@pytest.mark.hostile("S55")
def test_the_final_stage_installs_nothing() -> None:
    build, final = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    tools = re.compile(r"\b(apt-get|apt|pip|gcc|build-essential|curl|wget)\b")
    assert any(tools.search(instruction.rest) for instruction in build)
    assert not [instruction for instruction in final if tools.search(instruction.rest)]
    assert "--only-binary :all:" in " ".join(instruction.rest for instruction in build)


def test_logs_are_not_held_back_and_no_bytecode_is_written(image: list[Instruction]) -> None:
    environment = environment_of(image)
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_what_is_written_goes_to_the_volume(image: list[Instruction]) -> None:
    assert rest_of(image, "WORKDIR") == "/data"
    assert rest_of(image, "VOLUME") == "/data"


def test_every_copied_folder_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for stage in stages((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        for word, rest in stage:
            if word == "COPY" and not rest.startswith("--from="):
                for source in rest.split()[:-1]:
                    name = source.removeprefix("./")
                    assert (ROOT / name).exists(), f"the Dockerfile copies {name}"
                    assert f"!{name}" in ignored, f".dockerignore keeps {name} out"


# -- the service -------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S55")
def test_the_service_has_no_rights_it_does_not_need(service: dict[str, Any], image: list[Instruction]) -> None:
    assert service["user"] == rest_of(image, "USER")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert not {"privileged", "cap_add", "network_mode", "pid", "ports", "devices"} & service.keys()


@pytest.mark.hostile("S55")
def test_only_the_volume_and_tmp_can_be_written(service: dict[str, Any], compose: dict[str, Any]) -> None:
    assert service["tmpfs"] == ["/tmp"]
    assert service["volumes"] == ["data:/data"]
    assert "data" in compose["volumes"]
    command = service["command"]
    for option in ("--job", "-O"):
        assert command[command.index(option) + 1].startswith("/data/")


def test_an_interrupted_crawl_is_continued_but_a_wrong_setting_not_for_ever(service: dict[str, Any]) -> None:
    assert re.fullmatch(r"on-failure:\d+", service["restart"])
    assert "--fresh" not in service["command"]


def test_the_environment_is_made_of_settings_that_exist(service: dict[str, Any]) -> None:
    assert "CRAWLER_CRAWL__CONCURRENCY" in service["environment"]
    load([environment_layer(service["environment"])])  # raises SettingsError for any that is not


def test_the_container_is_given_longer_to_stop_than_the_crawl_takes_to_drain(service: dict[str, Any]) -> None:
    settings = load([environment_layer(service["environment"])]).settings
    grace = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
    assert grace
    assert int(grace[1]) >= settings.crawl.drain_seconds + 5


@pytest.mark.parametrize(
    "text",
    ["a: [1, 2]", "a: &b c", "a: 'b'", "- a\nb: c", "a: b\n  c: d", "a: 1\na: 2", "a b", "- a: b", "a: b # c", "a: |"],
)
def test_yaml_that_the_reader_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_yaml(text)


def test_yaml_is_read_as_written() -> None:
    text = '# x\na:\n  b:\n    - c\n    - "d: e"\n\n  f: true\n  g: 30s\nh:\n'
    assert read_yaml(text) == {"a": {"b": ["c", "d: e"], "f": True, "g": "30s"}, "h": None}


# -- the crawl ---------------------------------------------------------------------------------------------------------


class Container:
    """The service's command in a process, with the surroundings that the image and the service give it."""

    def __init__(self, image: list[Instruction], service: dict[str, Any], folder: Path) -> None:
        self.app, self.data = folder / "app", folder / "data"
        self.data.mkdir()
        for name in ("spiders", "config"):
            shutil.copytree(ROOT / name, self.app / name, ignore=shutil.ignore_patterns("__pycache__"))
        self._command = [self._outside(word) for word in service["command"]]
        self._folder = self._outside(service["working_dir"])
        self._environment = {
            **environment_of(image),
            **service["environment"],
            "PATH": os.defpath,
            "PYTHONPATH": str(ROOT),
            "HOME": "/nonexistent",
        }

    def _outside(self, path: str) -> str:
        return re.sub(r"^/(app|data)(?=/|$)", lambda found: str({"app": self.app, "data": self.data}[found[1]]), path)

    @asynccontextmanager
    async def run(self, *more: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """`docker compose run`, with more options and variables; killed if the block is left before its end."""
        with (self.data.parent / "said").open("ab") as said:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "crawler", *self._command, *more),
                cwd=self._folder,
                env={**self._environment, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    @property
    def said(self) -> str:
        return (self.data.parent / "said").read_text(encoding="utf-8", errors="replace")

    @property
    def items(self) -> list[dict[str, Any]]:
        lines = (self.data / "books.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


@needs_the_command
async def test_stopped_in_the_middle_the_service_ends_with_75_and_then_finishes(
    image: list[Instruction], service: dict[str, Any], tmp_path: Path
) -> None:
    container = Container(image, service, tmp_path)
    slowly = {"CRAWLER_POLITENESS__DELAY_SECONDS": "0.02", "CRAWLER_POLITENESS__ADAPTIVE": "false"}
    async with serve(Shop(books=120, categories=6)) as site, asyncio.timeout(60):
        async with container.run("-a", f"site={site.url}", **slowly) as first:
            while len(site.journal) < 40:  # the site's count says when, not a clock
                assert first.returncode is None, container.said
                await asyncio.sleep(0.01)
            first.send_signal(signal.SIGTERM)
            assert await first.wait() == 75, container.said
        assert 0 < len(container.items) < 120

        async with container.run("-a", f"site={site.url}", CRAWLER_POLITENESS__DELAY_SECONDS="0") as second:
            assert await second.wait() == 0, container.said

    urls = Counter(item["url"] for item in container.items)
    assert len(urls) == 120
    assert set(urls.values()) == {1}


@pytest.mark.hostile("S55")
@needs_the_command
async def test_the_service_writes_to_its_volume_only(
    image: list[Instruction], service: dict[str, Any], tmp_path: Path
) -> None:
    container = Container(image, service, tmp_path)
    before = set(container.app.rglob("*"))
    async with (
        serve(Shop(books=10, categories=2)) as site,
        container.run("-a", f"site={site.url}", CRAWLER_POLITENESS__DELAY_SECONDS="0") as process,
        asyncio.timeout(60),
    ):
        assert await process.wait() == 0, container.said
    assert set(container.app.rglob("*")) == before
    assert (container.data / "jobs" / "books").is_dir()
    assert len(container.items) == 10
