"""The columns of a table that several workers write to: read, added, made wider, and filled.

A column that another worker has just added or widened must not be added again, and one that is being widened must not
be written to. So all that changes columns holds an advisory lock (PostgreSQL manual, 13.3.5) alone, all that writes
rows holds it together with others, and each takes it as the first thing of its transaction: nobody waits for it while
others wait for them. The columns are read anew under the lock.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from crawler.export.address import quoted
from crawler.export.column_types import ColumnType, as_json, converted, fits, joined, rewriting, type_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import asyncpg

    from crawler.export.column_types import Cell

__all__ = ["MORE", "NUMBER", "OWN", "WRITER", "Group", "Layout", "lock_alone", "lock_together"]

logger = logging.getLogger("crawler.postgresql")

WRITER: Final = "_writer"
NUMBER: Final = "_number"
MORE: Final = "_more"
OWN: Final = {WRITER: ColumnType.BIGINT, NUMBER: ColumnType.BIGINT, MORE: ColumnType.JSONB}

_MAX_COLUMNS: Final = 400
"""Pages can decide on names. A row has to fit into a page of 8 KiB, where each text takes 18 bytes if not less."""
_MAX_NAME_BYTES: Final = 63
_COLUMNS: Final = """
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""


class Group(NamedTuple):
    """Rows that go in with one COPY."""

    columns: list[str]
    records: list[tuple[Any, ...]]


class Layout:
    """The columns that `table`, a name for SQL, has now; `types` tells None of a type that is somebody else's."""

    def __init__(self, table: str, columns: Iterable[tuple[str, str]]) -> None:
        self.table = table
        known = frozenset(ColumnType)
        self.types = {name: ColumnType(type) if type in known else None for name, type in columns}

    @classmethod
    async def read(cls, connection: asyncpg.Connection[Any], table: str) -> Layout:
        return cls(table, [(name, type) for name, type in await connection.fetch(_COLUMNS, table)])

    @property
    def is_ours(self) -> bool:
        return all(self.types.get(name) is type for name, type in OWN.items())

    def needs(self, rows: Iterable[Mapping[str, Cell]]) -> dict[str, ColumnType]:
        """The type that each column has to have for these rows, where the table's is not enough."""
        found: dict[str, ColumnType] = {}
        types: dict[str, ColumnType | None] = dict(self.types)
        for row in rows:
            for name, value in row.items():
                if value is None:
                    continue
                if name not in types:
                    types[name] = found[name] = type_of(value)
                    continue
                type = types[name]
                if type is not None and name not in OWN and not fits(type, value):
                    types[name] = found[name] = joined(type, type_of(value))
        return found

    def lacking(self, needs: Mapping[str, ColumnType]) -> tuple[dict[str, ColumnType], dict[str, ColumnType]]:
        """What has to be added, as far as there is room, and what has to become wider."""
        added: dict[str, ColumnType] = {}
        wider: dict[str, ColumnType] = {}
        for name, type in needs.items():
            if name not in self.types:
                if _is_possible(name) and len(self.types) + len(added) < _MAX_COLUMNS:
                    added[name] = type
                continue
            there = self.types[name]
            if there is not None and name not in OWN and joined(there, type) is not there:
                wider[name] = joined(there, type)
        return added, wider

    async def widen(self, connection: asyncpg.Connection[Any], needs: Mapping[str, ColumnType]) -> None:
        """In a transaction that holds the lock alone, with columns read under it."""
        added, wider = self.lacking(needs)
        changes = [f"ADD COLUMN {quoted(name)} {type}" for name, type in added.items()]
        for name, type in wider.items():
            there = self.types[name]
            assert there is not None
            logger.info("%s: the column %.80r is %s, and becomes %s", self.table, name, there, type)
            changes.append(f"ALTER COLUMN {quoted(name)} TYPE {type} USING {rewriting(quoted(name), there, type)}")
        if changes:
            await connection.execute(f"ALTER TABLE {self.table} {', '.join(changes)}")

    def group(self, writer: int, first: int, rows: Sequence[Mapping[str, Cell]]) -> Group:
        """Rows numbered from `first`, as they go in."""
        names = {
            name: type
            for name in dict.fromkeys(name for row in rows for name in row)
            if name not in OWN and (type := self.types.get(name)) is not None
        }
        records = []
        for number, row in enumerate(rows, first):
            cells: list[Any] = []
            taken = 0
            for name, type in names.items():
                value = row.get(name)
                if value is not None and not fits(type, value):
                    cells.append(None)
                    continue
                cells.append(converted(type, value))
                taken += name in row
            more = None if taken == len(row) else _others(row, names)
            records.append((writer, number, *cells, more))
        return Group([WRITER, NUMBER, *names, MORE], records)


def _others(row: Mapping[str, Cell], names: Mapping[str, ColumnType]) -> str | None:
    """The fields without a column, or with one that does not take the value."""
    others = {
        name.replace("\0", "\ufffd"): msgspec.Raw(as_json(value).encode())
        for name, value in row.items()
        if value is not None and not (name in names and fits(names[name], value))
    }
    return msgspec.json.encode(others).decode() if others else None


def _is_possible(name: str) -> bool:
    return 0 < len(name.encode()) <= _MAX_NAME_BYTES and "\0" not in name


async def lock_alone(connection: asyncpg.Connection[Any], name: str) -> None:
    """Until the transaction ends. `name` is a table's, without its schema: two names may be one table."""
    await connection.execute("SELECT pg_advisory_xact_lock($1::bigint)", _lock_key(name))


async def lock_together(connection: asyncpg.Connection[Any], name: str) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock_shared($1::bigint)", _lock_key(name))


def _lock_key(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"crawler").digest()
    return int.from_bytes(digest, "big", signed=True)
