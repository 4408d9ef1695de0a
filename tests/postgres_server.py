"""A PostgreSQL server of the tests' own: Debian's, in a temporary folder, behind a Unix socket.

It does without syncing the disk, but for that it is as it comes: it can be stopped, killed and started again. As root
it runs as another user, since PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "hunter2~sëcret/@:"
_START_SECONDS = 60
_TRUSTED = "local all owner trust\nlocal all all scram-sha-256\n"


def missing() -> str | None:
    """Why there can be no server on this machine, in words for a test's skip; None where there can."""
    if _folder() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`"
    return None


class Server:
    """Databases are made by `database`, each test its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._data = home / "data"
        self._made = 0

    def database(self) -> str:
        """A new one; its address, without a table."""
        self._made += 1
        name = f"test{self._made}"
        self.sql(f"CREATE DATABASE {name}", "postgres")
        return self.address(name)

    def address(self, database: str, user: str = "owner", password: str = "", **more: str) -> str:
        userinfo = f"{user}:{quote(password, safe='')}" if password else user
        return f"postgresql://{userinfo}@/{database}?{urlencode({'host': str(self.home), **more})}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints."""
        return _output("psql", "-h", str(self.home), "-U", "owner", "-d", database, "-XAtq", "-c", statement)

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self.home} -c fsync=off -c max_connections=50"
        self._control("start", "-l", str(self.home / "log"), "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """`fast` ends sessions; `immediate` is what a crash does."""
        self._control("stop", "-m", mode)

    def _control(self, *arguments: str) -> None:
        _output("pg_ctl", "-D", str(self._data), "-w", "-t", str(_START_SECONDS), *arguments)

    def _create(self) -> None:
        _output("initdb", "-D", str(self._data), "-U", "owner", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        (self._data / "pg_hba.conf").write_text(_TRUSTED)


@contextmanager
def serve() -> Iterator[Server]:
    """Running when the block begins, gone when it ends. Raises `RuntimeError` with what PostgreSQL said if not."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:  # a socket's path is 107 bytes at most
        if os.geteuid() == 0:
            os.chown(folder, _identity()["user"], -1)
        server = Server(Path(folder))
        server._create()
        server.start()
        try:
            yield server
        finally:
            if (server._data / "postmaster.pid").exists():
                server.stop("immediate")


def _folder() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    on_path = shutil.which("initdb")
    return found[-1] if found else None if on_path is None else Path(on_path).resolve().parent


def _user() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None


def _identity() -> dict[str, Any]:
    user = _user() if os.geteuid() == 0 else None
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _output(program: str, *arguments: str) -> str:
    folder = _folder()
    assert folder is not None, missing()
    # A file and not a pipe: the server inherits it, and a pipe would stay open as long as it runs.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [str(folder / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            check=False,
            **_identity(),
        )
        said.seek(0)
        text = said.read().decode(errors="replace").strip()
    if done.returncode:
        raise RuntimeError(f"{program} failed: {text}")
    return text
