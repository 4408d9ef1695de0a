"""The Dockerfile and docker-compose.yml say what the documentation promises, and the crawl they describe does it.

There is no container here: the compose file's own commands run in processes of their own, with the environment of the
two files and nothing else, and temporary folders for /app, /data and /run/secrets.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from crawler.cli import main
from crawler.demo import Shop, serve
from crawler.settings import environment_layer, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

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


@pytest.fixture(scope="module")
def image() -> list[Instruction]:
    """The last stage of the Dockerfile: what is in the image."""
    return stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))[-1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


OURS = ("init", "worker", "crawl")
ALL = ("engine", *OURS)


@pytest.fixture
def service(compose: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    """The one that the test is parametrized with; else the one in a single process."""
    found = compose["services"][getattr(request, "param", "crawl")]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `make secrets` makes, by the names of docker-compose.yml."""
    folder = tmp_path_factory.mktemp("secrets")
    shutil.copy(ROOT / "Makefile", folder)
    subprocess.run(["make", "secrets", f"PYTHON={sys.executable}"], cwd=folder, check=True, timeout=60)
    named = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["secrets"]
    return {name: folder / of["file"] for name, of in named.items()}


def with_secrets(environment: dict[str, str], secrets: dict[str, Path]) -> dict[str, str]:
    """The variables of a service, where the files are that they name."""
    return {
        name: str(secrets[Path(value).name]) if value.startswith("/run/secrets/") else value
        for name, value in environment.items()
    }


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


# -- the services ------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("S55")
@pytest.mark.parametrize(
    ("service", "user"), [(name, "10001:10001") for name in OURS] + [("engine", "999:1000")], indirect=["service"]
)
def test_no_service_has_rights_that_it_does_not_need(service: dict[str, Any], user: str) -> None:
    assert service["user"] == user
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert not {"privileged", "cap_add", "network_mode", "pid", "ports", "devices", "container_name"} & service.keys()


@pytest.mark.hostile("S55")
@pytest.mark.parametrize(
    ("service", "volume"), [(name, "data") for name in OURS] + [("engine", "engine")], indirect=["service"]
)
def test_only_its_volume_and_tmp_can_be_written(service: dict[str, Any], volume: str, compose: dict[str, Any]) -> None:
    assert service["tmpfs"] == ["/tmp"]
    assert service["volumes"] == [f"{volume}:/data"]
    assert volume in compose["volumes"]
    command = service["command"]
    for option in {"--job", "-O", "-o"} & set(command):
        assert command[command.index(option) + 1].startswith("/data/")


@pytest.mark.parametrize("service", ["worker", "crawl"], indirect=True)
def test_an_interrupted_crawl_is_continued_but_a_wrong_setting_not_for_ever(service: dict[str, Any]) -> None:
    assert re.fullmatch(r"on-failure:\d+", service["restart"])
    assert "--fresh" not in service["command"]


@pytest.mark.parametrize("service", OURS, indirect=True)
def test_the_environment_is_made_of_settings_that_exist(
    service: dict[str, Any], image: list[Instruction], secrets: dict[str, Path]
) -> None:
    environment = {**environment_of(image), **with_secrets(service["environment"], secrets)}
    settings = load([environment_layer(environment)]).settings  # raises SettingsError for any that is not
    assert settings.crawl.concurrency == 64
    assert settings.status.listen == "0.0.0.0:9090"
    shares = "CRAWLER_FRONTIER__URL_FILE" in environment
    assert shares == (service.get("profiles") is None)
    assert settings.frontier.url == (secrets["frontier_url"].read_text().strip() if shares else None)
    assert settings.status.token == (secrets["status_token"].read_text().strip() if shares else None)


@pytest.mark.parametrize("service", OURS, indirect=True)
def test_the_container_is_given_longer_to_stop_than_the_crawl_takes_to_drain(
    service: dict[str, Any], secrets: dict[str, Path]
) -> None:
    settings = load([environment_layer(with_secrets(service["environment"], secrets))]).settings
    grace = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
    assert grace
    assert int(grace[1]) >= settings.crawl.drain_seconds + 5


@pytest.mark.parametrize("service", OURS, indirect=True)
def test_the_command_line_knows_the_command(service: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as help_shown:
        main(["--help"])
    assert help_shown.value.code == 0
    if not re.search(rf"^ +{service['command'][0]} ", capsys.readouterr().out, re.MULTILINE):
        pytest.skip(f"there is no `crawler {service['command'][0]}` yet")
    with pytest.raises(SystemExit) as ended:
        main([*service["command"], "--help"])
    assert ended.value.code == 0


def test_workers_come_after_the_engine_and_the_crawl_and_share_nothing_that_is_written(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["init"]["depends_on"] == {"engine": {"condition": "service_healthy"}}
    assert services["worker"]["depends_on"]["init"] == {"condition": "service_completed_successfully"}
    assert services["worker"]["depends_on"]["engine"] == {"condition": "service_healthy"}
    assert services["init"]["command"][:2] == ["frontier", "create"]
    assert services["init"]["command"][2] == services["worker"]["command"][1]  # the same spider
    assert "/data/jobs/books" in services["worker"]["command"]  # each adds its name; nothing else can be written
    assert [name for name in ALL if "profiles" not in services[name]] == ["engine", "init", "worker"]


def test_the_engine_is_reached_by_workers_alone_and_reaches_nothing(compose: dict[str, Any]) -> None:
    services, networks = compose["services"], compose["networks"]
    assert services["engine"]["networks"] == ["frontier"]
    assert networks["frontier"] == {"internal": True}
    assert {name for name in ALL if "frontier" in services[name].get("networks", [])} == {"engine", "init", "worker"}
    assert "default" in services["worker"]["networks"]  # it has a web to crawl


# -- passwords ---------------------------------------------------------------------------------------------------------


def test_secrets_are_made_once_and_for_the_owner_of_the_folder_alone(secrets: dict[str, Path]) -> None:
    before = {path: path.read_bytes() for path in secrets.values()}
    folder = secrets["engine_conf"].parent
    subprocess.run(["make", "secrets", f"PYTHON={sys.executable}"], cwd=folder.parent, check=True, timeout=60)
    assert {path: path.read_bytes() for path in secrets.values()} == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in before} == {0o644}  # users of containers have other numbers
    assert f"/{folder.name}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_no_secret_stands_in_a_file_an_environment_or_a_command_line(
    compose: dict[str, Any], secrets: dict[str, Path]
) -> None:
    for name in ALL:
        service = compose["services"][name]
        used = set(re.findall(r"/run/secrets/(\w+)", json.dumps(service)))
        assert used == set(service.get("secrets", []))
        for variable in service.get("environment", {}):
            assert not re.search(r"URL$|TOKEN$|PASSWORD$", variable)
    password = secrets["engine_conf"].read_text().split()[1]
    assert len(password) == 64
    assert secrets["frontier_url"].read_text() == f"redis://:{password}@engine:6379/0\n"


# -- the engine --------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(compose: dict[str, Any], secrets: dict[str, Path], tmp_path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """A server with the flags of docker-compose.yml: its port, and the environment that its health check needs."""
    found = next(filter(None, map(shutil.which, ("valkey-server", "redis-server"))), None)
    if found is None:
        pytest.skip("needs valkey-server or redis-server (apt-get install redis-server)")
    program, *flags = compose["services"]["engine"]["command"]
    assert program == "valkey-server"
    flags = [re.sub(r"^/run/secrets/(\w+)$", lambda named: str(secrets[named[1]]), flag) for flag in flags]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    here = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path))
    tools = tmp_path / "tools"
    tools.mkdir()
    client = tools / "valkey-cli"
    client.write_text(f'#!/bin/sh\nexec {found.replace("-server", "-cli")} -p {port} "$@"\n')
    client.chmod(0o755)
    server = subprocess.Popen([found, *flags, *here], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "Ready to accept connections" in line:
                break
        yield port, {"PATH": f"{tools}:{os.environ['PATH']}"}
    finally:
        server.terminate()
        server.communicate(timeout=30)


def test_the_engine_keeps_what_it_has_and_forgets_nothing(
    engine: tuple[int, dict[str, str]], secrets: dict[str, Path]
) -> None:
    from redis import Redis
    from redis.exceptions import AuthenticationError

    password = secrets["engine_conf"].read_text().split()[1]
    with Redis(port=engine[0], password=password, decode_responses=True) as client:
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "set-max-intset-entries": "512",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    with Redis(port=engine[0], retry=None) as client, pytest.raises(AuthenticationError):
        client.ping()


def test_the_engines_health_check_sees_whether_it_answers(
    engine: tuple[int, dict[str, str]], compose: dict[str, Any], secrets: dict[str, Path]
) -> None:
    kind, command = compose["services"]["engine"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    command = command.replace("$$", "$").replace("/run/secrets/engine_conf", str(secrets["engine_conf"]))
    assert subprocess.run(["sh", "-c", command], check=False, env=engine[1], timeout=30).returncode == 0
    wrong = command.replace("s/^requirepass //p", "s/^requirepass ./x/p")
    assert wrong != command
    assert subprocess.run(["sh", "-c", wrong], check=False, env=engine[1], timeout=30).returncode != 0


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
            "CRAWLER_STATUS__LISTEN": "127.0.0.1:0",  # several of these run on one machine
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

    async def check(self, command: list[str], **environment: str) -> int:
        """Another command in the same container: its exit code."""
        assert command[0] == "crawler"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", *command),
            cwd=self._folder,
            env={**self._environment, **environment},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait()

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


@needs_the_command
async def test_the_health_check_of_the_image_is_for_a_crawl_that_runs(
    image: list[Instruction], service: dict[str, Any], tmp_path: Path
) -> None:
    options, _, command = rest_of(image, "HEALTHCHECK").partition(" CMD ")
    assert {option.partition("=")[0] for option in options.split()} >= {"--interval", "--timeout", "--start-period"}
    assert environment_of(image)["CRAWLER_STATUS__LISTEN"] == "0.0.0.0:9090"
    assert rest_of(image, "EXPOSE") == "9090"
    container = Container(image, service, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"0.0.0.0:{taken.getsockname()[1]}"
    slowly = {"CRAWLER_POLITENESS__DELAY_SECONDS": "0.05", "CRAWLER_POLITENESS__ADAPTIVE": "false"}
    async with serve(Shop(books=120, categories=6)) as site, asyncio.timeout(60):
        async with container.run("-a", f"site={site.url}", CRAWLER_STATUS__LISTEN=listen, **slowly) as process:
            while len(site.journal) < 10:
                assert process.returncode is None, container.said
                await asyncio.sleep(0.01)
            assert await container.check(json.loads(command), CRAWLER_STATUS__LISTEN=listen) == 0, container.said
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 75, container.said
        assert await container.check(json.loads(command), CRAWLER_STATUS__LISTEN=listen) == 1
