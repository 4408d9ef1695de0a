"""The pages of an LMDB file, read without LMDB: what is damaged, and what can still be read.

LMDB trusts its file. It has no checksums, and most of what a page says is followed without a look: a child's number
becomes an address in the map (beyond the file: SIGBUS), a node's offset and sizes become pointers (SIGSEGV, or somebody
else's bytes), a wrong count of keys hides rows, a wrong separator hides them from a look-up though not from a cursor,
and a page that is in use and also in the list of free pages is overwritten by a later transaction. None of that is an
error that could be caught, so it is looked for here, before LMDB opens the file.

A file is an array of pages. The first two are metas; the one of the higher transaction names the newest snapshot by the
roots of two trees: the free pages (transaction -> page numbers) and the main one (name -> record of a database). A
record says how deep its tree is and how many pages and entries it has. A page has a header (its own number, its kind,
where its free space begins and ends), then the offsets of its nodes, which fill it from the end without gaps.

    branch     nodes (page number, smallest key that may be behind it; for the first node that key is implied)
    leaf       nodes (key, value): the value itself, or the first of several overflow pages, or the record of a tree
    leaf2      values of one size side by side, without nodes: the duplicates of `seen`, in a small page inside a leaf's
               node or, when they outgrow it, in a tree of their own; each counts as an entry of the database

The quick form looks at all that can crash LMDB on its way to a leaf or hide rows from it: every header, every branch
page node by node, both ends of every leaf against the separators above, each page used once and by one owner, and the
counts. It is linear in pages: what is inside a leaf costs nothing, except for `seen`, whose leaves are roots again. The
thorough form reads every node. Neither sees a changed byte within a value, or in a key that stays in order: rows that
must be surer carry a checksum.

A file may be shorter than its last page number says: LMDB does not write a page that was taken and given back in one
transaction. So what counts is that each page in use is there. Numbers are little-endian and of 8 bytes, as LMDB writes
them on the machines we run on; a file of another kind of machine has no valid meta here.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

__all__ = ["Damage", "check", "salvage"]

_HEADER = struct.Struct("<QHHHH")  # number, size of a value (leaf2), kind, free space from, to (overflow: count)
_LEAF_HEADER = struct.Struct("<Q2xHHHH")  # the same with the first node's offset
_NODE = struct.Struct("<Q")  # in a leaf: data size u32, flags u16, key size u16; in a branch: page u48, key size u16
_RECORD = struct.Struct("<IHHQQQQQ")
_META = struct.Struct("<IIQQ48s48sQQ")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE, _LEAF2 = 1, 2, 4, 8, 32  # kinds of pages
_BIG, _TREE, _DUPLICATES = 1, 2, 4  # flags of nodes
_PLAIN, _INTEGER_KEYS, _FIXED, _SORTED_FIXED, _NAMES = 0, 0x08, 0x10, 0x14, -1  # flags of trees; the last is ours
_NODES_OF = {
    _PLAIN: (0, _BIG),
    _INTEGER_KEYS: (0, _BIG),
    _SORTED_FIXED: (0, _DUPLICATES, _DUPLICATES | _TREE),
    _NAMES: (_TREE,),
}
_COUNTS = ("depth", "overflows", "entries", "branches", "leaves")
_NO_ROOT = 2**64 - 1
_USED, _FREE = 1, 2

_Span: TypeAlias = "tuple[int, bytes, bytes | None]"
"""A page and the keys that it may hold: from one, below the other."""
_Node: TypeAlias = "tuple[bytes, int, int, int]"
"""Key, flags (in a branch the page), where in the file its data begin, their size."""
_Row: TypeAlias = "tuple[bytes, int, int, int]"
"""Key, where in the file its first value begins, the size of each, how many there are side by side."""


class Damage(NamedTuple):
    """One finding; `str` makes a sentence of it."""

    database: str
    """Its name; `(free)` and `(main)` are LMDB's own, `(file)` is the file as a whole."""
    page: int
    what: str

    def __str__(self) -> str:
        return f"{self.database}, page {self.page}: {self.what}"


def check(path: Path, *, thorough: bool = False, expected: Collection[str] = ()) -> list[Damage]:
    """Walk every reachable page of the newest snapshot of `path`/data.mdb; an empty list where nothing is wrong.

    `thorough` also reads every node of every leaf. A database of `expected` that is not there is damage: LMDB would
    make it anew, empty. Nobody may write meanwhile. Damage never raises; `OSError` where the file cannot be read.
    """
    with _opened(path) as snapshot:
        if snapshot is None:
            return [Damage("(file)", 0, "there is no valid meta page")]
        return snapshot.check(thorough, expected)


def salvage(
    path: Path, database: str, *, is_good: Callable[[bytes, bytes], bool] = lambda key, value: True
) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value) of a named database that can still be read from the newest snapshot, where `is_good` agrees.

    In the order of the tree; each duplicate is a pair of its own. Left out is what is behind a damaged page or one that
    is listed as free, and a key that its place in the tree does not allow: an old row that comes back is as wrong as a
    lost one. `OSError` where the file cannot be read.
    """
    with _opened(path) as snapshot:
        if snapshot is not None:
            yield from (pair for pair in snapshot.salvage(database) if is_good(*pair))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Snapshot | None]:
    with (path / "data.mdb").open("rb") as file:
        if not file.seek(0, 2):
            yield None  # nothing to map
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # The second meta begins where the first one's page ends, wherever that is.
            metas = [meta for at in (0, *(1 << bits for bits in range(8, 17))) if (meta := _meta(data, at))]
            yield _Snapshot(data, max(metas, key=lambda meta: meta.transaction)) if metas else None


class _Tree(NamedTuple):
    """LMDB's record of a database."""

    value_size: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int


class _Meta(NamedTuple):
    page_size: int
    free: _Tree
    main: _Tree
    last_page: int
    transaction: int


def _meta(data: mmap.mmap, at: int) -> _Meta | None:
    if at + _HEADER.size + _META.size > len(data):
        return None
    kind = _HEADER.unpack_from(data, at)[2]
    magic, version, _, _, *records, last_page, transaction = _META.unpack_from(data, at + _HEADER.size)
    free, main = (_Tree(*_RECORD.unpack(record)) for record in records)
    size = free.value_size
    if (magic, version) != (_MAGIC, _VERSION) or not kind & _META_PAGE or at not in (0, size):
        return None
    if not 256 <= size <= 1 << 16 or size & (size - 1):
        return None
    return _Meta(size, free._replace(flags=_INTEGER_KEYS), main._replace(flags=_NAMES), last_page, transaction)


@functools.cache
def _offsets(count: int) -> Callable[[mmap.mmap, int], tuple[int, ...]]:
    return struct.Struct(f"<{count}H").unpack_from


class _Snapshot:
    """A walk over the pages of one snapshot. Damage is noted and walked around, never raised."""

    def __init__(self, data: mmap.mmap, meta: _Meta) -> None:
        self._data = data
        self._meta = meta
        self._size = meta.page_size
        self._pages = min(len(data) // meta.page_size, meta.last_page + 1)
        self._marks = bytearray(self._pages)
        self._damages: list[Damage] = []
        self._thorough = True

    def check(self, thorough: bool, expected: Collection[str]) -> list[Damage]:
        self._thorough = thorough
        self._mark_free_pages()
        databases = self._databases()
        for name, tree in databases.items():
            for _ in self._rows(name, tree):
                pass
        for name in sorted(set(expected) - set(databases)):
            self._note("(main)", self._meta.main.root, f"there is no database {name}")
        return self._damages

    def salvage(self, database: str) -> Iterator[tuple[bytes, bytes]]:
        self._mark_free_pages()
        if self._damages:
            self._marks = bytearray(self._pages)  # a damaged list of free pages must not hide good ones
        tree = self._databases().get(database)
        for key, first, size, count in self._rows(database, tree) if tree else ():
            for number in range(count):
                at = first + number * size
                yield key, self._data[at : at + size]

    def _mark_free_pages(self) -> None:
        """A list is a count, then page numbers in falling order; some room may be left."""
        for key, at, size, _ in self._rows("(free)", self._meta.free):
            count, *numbers = struct.unpack_from(f"<{size // 8}Q", self._data, at) or (1,)
            listed = numbers[:count]
            if count != len(listed) or any(map(int.__le__, listed, listed[1:])):
                self._note("(free)", at // self._size, f"the list of transaction {key[::-1].hex()} is none")
                continue
            for page in listed:
                if not 1 < page <= self._meta.last_page:
                    self._note("(free)", page, f"it is listed, but the last one is {self._meta.last_page}")
                elif page < self._pages:
                    self._claim("(free)", page, _FREE)

    def _databases(self) -> dict[str, _Tree]:
        found = {}
        for key, at, size, _ in self._rows("(main)", self._meta.main):
            tree = self._record(at, size)
            if tree is None or tree.flags not in (_PLAIN, _SORTED_FIXED):
                self._note("(main)", at // self._size, f"the record of the database {key!r} is none")
            else:
                found[key.decode("utf-8", "backslashreplace")] = tree
        return found

    def _record(self, at: int, size: int) -> _Tree | None:
        return _Tree(*_RECORD.unpack_from(self._data, at)) if size == _RECORD.size else None

    def _note(self, name: str, page: int, what: str) -> None:
        self._damages.append(Damage(name, page, what))

    # -- trees -------------------------------------------------------------------------------------------------------

    def _rows(self, name: str, tree: _Tree) -> Iterator[_Row]:
        """What a tree holds, in order; in the quick form without the leaves that a glance could count."""
        before, tally = len(self._damages), dict.fromkeys(_COUNTS, 0)
        tally["depth"] = tree.depth if tree.root != _NO_ROOT else 0
        for span in self._leaves(name, tree, tally):
            for row in self._leaf(name, tree, span, tally):
                tally["entries"] += row[3]
                yield row
        if len(self._damages) > before:
            return  # what is missing would be told twice
        # LMDB loses count of the pages of duplicates when a key goes with its tree; each of those has its own record.
        for what in _COUNTS[:3] if tree.flags == _SORTED_FIXED else _COUNTS:
            if getattr(tree, what) != tally[what]:
                self._note(
                    name, tree.root, f"{what}: its tree should have {getattr(tree, what)}, and has {tally[what]}"
                )

    def _leaves(self, name: str, tree: _Tree, tally: dict[str, int]) -> Iterator[_Span]:
        """A page is what its kind says, even where the depth says otherwise, so that a salvage goes on."""
        leaf = _LEAF | _LEAF2 if tree.flags == _FIXED else _LEAF
        waiting: list[tuple[_Span, int]] = [((tree.root, b"", None), tree.depth)] if tree.root != _NO_ROOT else []
        while waiting:
            span, depth = waiting.pop()
            kind = self._header(name, span[0])
            if kind not in (leaf, _BRANCH):
                if kind is not None:
                    self._note(name, span[0], f"its kind is {kind:#x}, neither a branch nor a leaf of this tree")
                continue
            if (depth == 1) != (kind == leaf):
                self._note(name, span[0], f"it is of kind {kind:#x} at depth {tree.depth - depth + 1} of {tree.depth}")
            if kind == leaf:
                tally["leaves"] += 1
                yield span
                continue
            tally["branches"] += 1
            children = self._children(name, tree, span)
            if depth == 2 and tree.flags == _PLAIN and not self._thorough:
                children = self._glance(children, tree, tally)
            waiting.extend((child, depth - 1) for child in reversed(children))

    def _header(self, name: str, page: int) -> int | None:
        """The kind of a page that nothing else uses."""
        if not self._claim(name, page, _USED):
            return None
        number, _, kind, lower, upper = _HEADER.unpack_from(self._data, page * self._size)
        if number != page:
            self._note(name, page, f"its header is that of page {number}")
        elif not 16 < lower <= upper <= self._size or lower & 1:
            self._note(name, page, f"its free space is from {lower} to {upper}")
        else:
            return int(kind)
        return None

    def _claim(self, name: str, page: int, mark: int) -> bool:
        if not 1 < page < self._pages:
            self._note(name, page, f"the file has no such page, it has {self._pages}")
        elif self._marks[page]:
            free = _FREE in (mark, self._marks[page])
            self._note(name, page, "it is in use, and in the list of free pages" if free else "it is used twice")
        else:
            self._marks[page] = mark
            return True
        return False

    def _children(self, name: str, tree: _Tree, span: _Span) -> list[_Span]:
        page, low, high = span
        nodes = self._nodes(name, page, ())
        keys = [low, *_keys(tree, nodes[1:])]
        if not self._in_order(name, keys, span):
            return [(node[1], low, high) for node in nodes]
        return [(node[1], key, above) for node, key, above in zip(nodes, keys, [*keys[1:], high], strict=False)]

    def _glance(self, spans: list[_Span], tree: _Tree, tally: dict[str, int]) -> list[_Span]:
        """Count the leaves that look right from outside; the others need a closer look."""
        data, page_size, pages, marks = self._data, self._size, self._pages, self._marks
        unpack, entries, sure = _LEAF_HEADER.unpack_from, 0, False
        others: list[_Span] = []
        for page, low, high in reversed(spans):
            if 1 < page < pages and not marks[page]:
                at = page * page_size
                number, kind, lower, upper, offset = unpack(data, at)
                key = at + offset + 8
                if (
                    number == page
                    and kind == _LEAF
                    and 16 < lower <= upper <= offset <= page_size - 8
                    and not lower & 1
                    and data[at + 14 : at + 16] in data[at + 16 : at + lower]
                    and low <= (first := data[key : key + len(low)])
                    and (sure or high is None or self._last(at, lower, len(high)) < high)
                    and not (tree.overflows and self._has_big(at, lower))
                ):
                    sure = low == first  # then it is above all to its left, as it was when it split off
                    marks[page] = _USED
                    entries += lower - 16
                    continue
            sure = False
            others.append((page, low, high))
        tally["leaves"] += len(spans) - len(others)
        tally["entries"] += entries >> 1
        return others[::-1]

    def _last(self, at: int, lower: int, size: int) -> bytes:
        key = at + 8 + (self._data[at + lower - 2] | self._data[at + lower - 1] << 8)
        return self._data[key : key + size]

    def _has_big(self, at: int, lower: int) -> bool:
        offsets = _offsets((lower - 16) >> 1)(self._data, at + 16)
        return max(offsets) > self._size - 8 or any(self._data[at + offset + 4] for offset in offsets)

    def _in_order(self, name: str, keys: list[bytes], span: _Span) -> bool:
        if keys and not (_within(keys[0], span) and _within(keys[-1], span)):
            self._note(name, span[0], "its keys do not belong between those of the page above")
        elif any(map(bytes.__ge__, keys, keys[1:])):
            self._note(name, span[0], "its keys are not in order")
        else:
            return True
        return False

    def _nodes(self, name: str, page: int, allowed: tuple[int, ...]) -> list[_Node]:
        """The sound nodes of a page with a sound header: of a leaf those with `allowed` flags; a branch allows none."""
        base, end, data = page * self._size, self._size, self._data
        *_, lower, upper = _HEADER.unpack_from(data, base)
        offsets = _offsets((lower - 16) >> 1)(data, base + 16)
        nodes: list[_Node] = []
        ends: list[tuple[int, int]] = []
        for at in offsets:
            if not upper <= at <= end - 8:
                continue
            (word,) = _NODE.unpack_from(data, base + at)
            start = stop = at + 8 + (word >> 48)
            flags, size = word & 0xFFFF_FFFF_FFFF, 0
            if allowed:
                flags, size = flags >> 32, word & 0xFFFF_FFFF
                stop += 8 if flags & _BIG else size
                if flags not in allowed:
                    continue
            if stop <= end:
                nodes.append((data[base + at + 8 : base + start], flags, base + start, size))
                ends.append((at, stop + (stop & 1)))
        if len(nodes) < len(offsets):
            self._note(name, page, f"{len(offsets) - len(nodes)} of its nodes are no nodes")
        else:
            starts, stops = zip(*sorted(ends), strict=True)
            if (*starts, end) != (upper, *stops):
                self._note(name, page, "its nodes overlap, or leave gaps")
        return nodes

    # -- leaves ------------------------------------------------------------------------------------------------------

    def _leaf(self, name: str, tree: _Tree, span: _Span, tally: dict[str, int]) -> Iterator[_Row]:
        page = span[0]
        if tree.flags == _FIXED:
            yield from self._fixed(name, span, page * self._size, self._size, b"")
            return
        nodes = self._nodes(name, page, _NODES_OF[tree.flags])
        keys = _keys(tree, nodes)
        self._in_order(name, keys, span)
        for (key, flags, at, size), comparable in zip(nodes, keys, strict=True):
            if not _within(comparable, span):
                continue
            if flags & _BIG:
                yield from self._overflow(name, key, at, size, tally)
            elif flags == _DUPLICATES:
                yield from self._fixed(name, (page, b"", None), at, size, key)
            elif flags & _DUPLICATES:
                yield from self._duplicates(name, key, at, size)
            else:
                yield key, at, size, 1

    def _duplicates(self, name: str, key: bytes, at: int, size: int) -> Iterator[_Row]:
        tree = self._record(at, size)
        if tree is None or tree.flags != _FIXED:
            self._note(name, at // self._size, "the record of a key's duplicates is none")
            return
        for _, first, width, count in self._rows(name, tree):
            if width != tree.value_size:
                self._note(name, first // self._size, f"values of {width} bytes in a tree for {tree.value_size}")
            yield key, first, width, count

    def _fixed(self, name: str, span: _Span, at: int, room: int, key: bytes) -> Iterator[_Row]:
        """The values of a leaf2 whose header is at `at`."""
        if room >= _HEADER.size:
            _, width, kind, lower, upper = _HEADER.unpack_from(self._data, at)
            count = (lower - 16) >> 1
            # Two bytes of each value are in `lower`, which counts as if there were offsets, and the rest in `upper`.
            if 16 < lower <= upper == room - count * (width - 2) and kind & _LEAF2 and not lower & 1:
                places = range(at + 16, at + 16 + count * width, width)
                looked = places if self._thorough else places[:: max(1, count - 1)]  # both ends
                self._in_order(name, [self._data[place : place + width] for place in looked], span)
                yield key, at + 16, width, count
                return
        self._note(name, span[0], "its values of one size are not where its header says")

    def _overflow(self, name: str, key: bytes, at: int, size: int, tally: dict[str, int]) -> Iterator[_Row]:
        (page,) = _NODE.unpack_from(self._data, at)
        if not self._claim(name, page, _USED):
            return
        number, _, kind, low, high = _HEADER.unpack_from(self._data, page * self._size)
        count = low | high << 16
        if number != page or kind != _OVERFLOW or count * self._size < _HEADER.size + size:
            self._note(name, page, f"it is not the first of the overflow pages of a value of {size} bytes")
            return
        tally["overflows"] += count
        rest = [self._claim(name, other, _USED) for other in range(page + 1, min(page + count, self._pages + 1))]
        if all(rest):
            yield key, page * self._size + _HEADER.size, size, 1


def _keys(tree: _Tree, nodes: list[_Node]) -> list[bytes]:
    """As bytes that sort as LMDB sorts them: numbers are little-endian."""
    return [node[0][::-1] for node in nodes] if tree.flags == _INTEGER_KEYS else [node[0] for node in nodes]


def _within(key: bytes, span: _Span) -> bool:
    return span[1] <= key and (span[2] is None or key < span[2])
