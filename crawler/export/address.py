"""Which table of which PostgreSQL a target names, and as what it may be shown."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from crawler.errors import UsageError
from crawler.redaction import redact

__all__ = ["Address", "is_database", "parse_address"]

_SCHEMES: Final = ("postgresql://", "postgres://")
_TABLE: Final = "items"
"""As SQLite's."""
POSITIONS: Final = "crawler_positions"
_MAX_NAME_BYTES: Final = 63
"""What PostgreSQL keeps of a name."""


@dataclass(frozen=True)
class Address:
    shown: str
    """The target without user and password."""
    dsn: str = field(repr=False)
    """What the driver is given: with them, without the table."""
    schema: str | None
    """None: the first of the search path."""
    table: str
    password: str = field(repr=False)
    """To be kept out of messages; empty: none is in the target."""
    needs_tls: bool
    """The server is on another machine, and nobody said that it may be spoken to in clear."""

    @property
    def name(self) -> str:
        """The table as SQL names it."""
        return self.qualified(self.table)

    @property
    def positions(self) -> str:
        """The table beside it that says how far each writer came."""
        return self.qualified(POSITIONS)

    def qualified(self, table: str) -> str:
        return quoted(table) if self.schema is None else f"{quoted(self.schema)}.{quoted(table)}"


def is_database(target: str) -> bool:
    """Whether a target, or a path as outputs show it, is a PostgreSQL address."""
    return target.lower().startswith(_SCHEMES)


def parse_address(target: str) -> Address:
    """`postgresql://USER@HOST:PORT/DATABASE?table=NAME`, where each part may be left away; `NAME` may be `SCHEMA.NAME`.
    Other parameters are libpq's (`sslmode=verify-full`). Where neither they nor `PGSSLMODE` name an `sslmode`, it is
    `require` for a server on another machine: libpq's `prefer` would send password and items in clear to whoever says
    that he has no TLS. Raises `UsageError`, in which no password stands."""
    shown = redact(target)
    try:
        parts = urlsplit(target)
        given = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
        password = parts.password
        if "," not in parts.netloc:  # of several hosts each has its own
            _ = parts.port
    except ValueError:  # its text may quote the password
        raise UsageError(f"output {shown!r}: not a valid address; expected {_EXPECTED}") from None
    tables = [value for name, value in given if name == "table"]
    if len(tables) > 1:
        raise UsageError(f"output {shown!r}: it names {len(tables)} tables; name one")
    schema, dot, table = (tables[0] if tables else _TABLE).rpartition(".")
    for name in [table, *([schema] if dot else [])]:
        if not name or "." in name or "\0" in name or len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
            raise UsageError(
                f"output {shown!r}: {tables[0]!r} is no name of a table; expected NAME or SCHEMA.NAME, "
                f"each of 1 to {_MAX_NAME_BYTES} bytes"
            )
    if table == POSITIONS:
        raise UsageError(f"output {shown!r}: {POSITIONS} is the table that says how far outputs came; name another")
    others = [(name, value) for name, value in given if name != "table"]
    needs_tls = _is_remote(parts.netloc, others) and not ("sslmode" in dict(others) or os.environ.get("PGSSLMODE"))
    if needs_tls:
        others.append(("sslmode", "require"))
    dsn = parts._replace(scheme="postgresql", query=urlencode(others), fragment="").geturl()
    secret = unquote(password or "") or next((value for name, value in others if name == "password"), "")
    return Address(shown, dsn, schema if dot else None, table, secret, needs_tls)


def _is_remote(netloc: str, parameters: list[tuple[str, str]]) -> bool:
    """Whether one of the hosts may be another machine. None is the socket of this one."""
    named = ",".join(
        [netloc.rpartition("@")[2], *(value for name, value in parameters if name in ("host", "hostaddr"))]
    )
    hosts = [host for host in named.split(",") if host] or os.environ.get("PGHOST", "").split(",")
    return any(not _is_here(unquote(host)) for host in hosts)


def _is_here(host: str) -> bool:
    name = (
        host[1:].partition("]")[0] if host.startswith("[") else host if host.count(":") > 1 else host.partition(":")[0]
    )
    if name.startswith(("/", "@")) or name in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


_EXPECTED: Final = "postgresql://HOST/DATABASE?table=NAME"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
