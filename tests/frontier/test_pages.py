"""What `check` finds and what `salvage` saves, on files that LMDB wrote and that were then damaged on purpose."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import lmdb
import pytest
from lmdb import verify

from crawler.frontier.pages import Damage, check, salvage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLAIN = ("hosts", "queue", "deferred", "values", "ends")
NAMES = (*PLAIN, "seen")
BRANCH, LEAF, OVERFLOW, LEAF2 = 1, 2, 4, 0x22

READ = """
import hashlib, json, lmdb, sys
env = lmdb.open(sys.argv[1], max_dbs=16, readonly=True, lock=False)
said = {}
for name in sys.argv[2:]:
    db = env.open_db(name.encode(), create=False)
    with env.begin(db=db) as txn, txn.cursor() as rows, txn.cursor() as look_up:
        digest = hashlib.sha256()
        for key, value in rows:
            assert look_up.set_key_dup(key, value) if name == "seen" else txn.get(key) == value
            digest.update(b"%d %d " % (len(key), len(value)) + key + value)
        said[name] = [digest.hexdigest(), txn.stat(db)["entries"]]
print(json.dumps(said))
"""


def content(folder: Path) -> object:
    """All that LMDB reads, each row also by look-up; in a process of its own, which may crash."""
    done = subprocess.run([sys.executable, "-c", READ, str(folder), *NAMES], capture_output=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.returncode


@dataclass
class Image:
    """A file, and what its newest snapshot uses, found by a reader that knows nothing of damage."""

    data: bytes
    size: int = 4096
    kinds: dict[int, int] = field(default_factory=dict)
    """Kind by page, without the later pages of big values."""
    rows: dict[int, tuple[str, list[tuple[bytes, bytes]]]] = field(default_factory=dict)
    """What would be lost with a page: database and rows."""
    free: list[int] = field(default_factory=list)
    """The last list of free pages, from `free_at` on."""
    free_at: int = 0
    main_root: int = 0

    def __post_init__(self) -> None:
        self.size = int.from_bytes(self.data[40:44], "little")
        meta = max((0, self.size), key=lambda at: self.u64(at + 144))
        self.main_root = self.u64(meta + 128)
        for _, at, value in self._tree("(free)", self.u64(meta + 80), []):
            self.free = [*struct.unpack(f"<{len(value) // 8 - 1}Q", value[8:])]
            self.free_at = at + 8
        for key, _, record in list(self._tree("(main)", self.main_root, [])):
            list(self._tree(key.decode(), int.from_bytes(record[40:], "little"), []))

    def u64(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 8], "little")

    def u16(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 2], "little")

    def nodes(self, page: int) -> list[int]:
        at = page * self.size
        return [at + self.u16(at + place) for place in range(16, self.u16(at + 12), 2)]

    def _tree(self, name: str, page: int, above: list[int], key: bytes = b"") -> Iterator[tuple[bytes, int, bytes]]:
        if page == 2**64 - 1:
            return
        at, path = page * self.size, [*above, page]
        self.kinds[page] = kind = self.u16(at + 10)
        self.rows.setdefault(page, (name, []))
        if kind == LEAF2:
            values = self.data[at + 16 : at + 16 + (self.u16(at + 12) - 16) * 4]
            self._lost(path, [(key, values[i : i + 8]) for i in range(0, len(values), 8)])
        for node in self.nodes(page) if kind in (BRANCH, LEAF) else ():
            low, flags, key_size = struct.unpack_from("<IHH", self.data, node)
            if kind == BRANCH:
                yield from self._tree(name, low | flags << 32, path, key)
                continue
            data = node + 8 + key_size
            own, value = self.data[node + 8 : data], self.data[data : data + low]
            if flags & 1:
                first = self.u64(data)
                self.kinds[first] = OVERFLOW
                value = self.data[first * self.size + 16 : first * self.size + 16 + low]
                self.rows[first] = (name, [(own, value)])
            if flags == 6:
                list(self._tree(name, int.from_bytes(value[40:], "little"), path, own))
            elif flags == 4:
                values = value[16 : 16 + (int.from_bytes(value[12:14], "little") - 16) * 4]
                self._lost(path, [(own, values[i : i + 8]) for i in range(0, len(values), 8)])
            else:
                self._lost(path, [(own, value)])
                yield own, data, value

    def _lost(self, pages: list[int], rows: list[tuple[bytes, bytes]]) -> None:
        for page in pages:
            self.rows[page][1].extend(rows)

    def pages(self, *kinds: int, of: str = "") -> list[int]:
        wanted = [page for page, kind in self.kinds.items() if kind in (kinds or (BRANCH, LEAF, LEAF2, OVERFLOW))]
        return [page for page in sorted(wanted) if not of or self.rows[page][0] == of]

    def changed(self, page: int, offset: int, new: bytes) -> bytes:
        return self.put(page * self.size + offset, new)

    def put(self, at: int, new: bytes) -> bytes:
        return self.data[:at] + new + self.data[at + len(new) :]

    def bumped(self, at: int, by: int) -> bytes:
        return self.put(at, struct.pack("<H", self.u16(at) + by))

    def flipped(self, bits: list[tuple[int, int]]) -> bytes:
        data = bytearray(self.data)
        for at, bit in bits:
            data[at] ^= 1 << bit
        return bytes(data)


@dataclass
class Job:
    """An environment as the frontier makes it, and a folder in which its file is damaged."""

    image: Image
    content: object
    rows: dict[str, list[tuple[bytes, bytes]]]
    folder: Path
    written: bytes = b""

    def damaged(self, data: bytes) -> Path:
        """The folder with a file of `data`; writes the pages that differ from the last time."""
        size = self.image.size
        with (self.folder / "data.mdb").open("r+b" if self.written else "wb") as file:
            for at in range(0, len(data), size):
                if data[at : at + size] != self.written[at : at + size]:
                    file.seek(at)
                    file.write(data[at : at + size])
            file.truncate(len(data))
        self.written = data
        return self.folder


def opened(folder: Path) -> tuple[lmdb.Environment, dict[str, object]]:
    folder.mkdir(exist_ok=True)
    env = lmdb.open(str(folder), map_size=1 << 30, max_dbs=16, sync=False, metasync=False)
    databases = {name: env.open_db(name.encode()) for name in PLAIN}
    return env, {**databases, "seen": env.open_db(b"seen", dupsort=True, dupfixed=True)}


def fill(env: lmdb.Environment, databases: dict[str, object], rng: Random, rows: int, names: int = 40) -> None:
    """One transaction: requests come and go, some hosts have many duplicates, some values are big."""
    queue, seen, values = databases["queue"], databases["seen"], databases["values"]
    with env.begin(write=True) as txn:
        for number in range(rows):
            host = rng.choice((1, 2, rng.randrange(60)))
            txn.put(
                struct.pack(">IIHQ", host, 0, 3, rng.getrandbits(20)), rng.randbytes(rng.randrange(130, 180)), db=queue
            )
            txn.put(struct.pack(">I", host), struct.pack(">Q", rng.getrandbits(64)), db=seen)
            if number % 10 == 0:
                txn.put(b"host%d.test:80" % rng.randrange(1000), b"\0\0\0\1", db=databases["hosts"])
            if number % 50 == 0:
                txn.put(b"value%d" % rng.randrange(names), rng.randbytes(rng.randrange(9000)), db=values)
        with txn.cursor(queue) as cursor:
            for _ in range(rows // 3):
                if cursor.set_range(struct.pack(">I", rng.randrange(30))):
                    cursor.delete()


def read(env: lmdb.Environment, databases: dict[str, object]) -> dict[str, list[tuple[bytes, bytes]]]:
    with env.begin() as txn:
        return {name: list(txn.cursor(db)) for name, db in databases.items()}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    env, databases = opened(folder)
    rng = Random(4)
    for rows_added in (3000, 60, 60):
        fill(env, databases, rng, rows_added, 10**6)
    rows = read(env, databases)
    env.close()
    image = Image((folder / "data.mdb").read_bytes())
    assert set(image.kinds.values()) == {BRANCH, LEAF, OVERFLOW, LEAF2}
    assert len(image.free) > 10
    assert len(image.pages(BRANCH, of="queue")) > 2, "branches of branches"
    return Job(image, content(folder), rows, tmp_path_factory.mktemp("damaged"))


def both(folder: Path) -> list[Damage]:
    return check(folder) + check(folder, thorough=True)


# -- nothing is wrong ------------------------------------------------------------------------------------------------


def test_a_sound_file_has_no_damage_and_all_its_rows_are_saved(job: Job) -> None:
    folder = job.damaged(job.image.data)
    assert check(folder, expected=NAMES) == check(folder, thorough=True, expected=NAMES) == []
    assert {name: list(salvage(folder, name)) for name in NAMES} == job.rows


@pytest.mark.parametrize("shape", ["new", "empty", "one row", "one big value", "two duplicates", "emptied", "dropped"])
def test_small_shapes_are_sound(tmp_path: Path, shape: str) -> None:
    if shape == "new":
        lmdb.open(str(tmp_path), max_dbs=1).close()
        assert both(tmp_path) == []
        return
    env, databases = opened(tmp_path)
    with env.begin(write=True) as txn:
        if shape in ("one row", "emptied"):
            txn.put(b"key", b"", db=databases["queue"])
        elif shape == "one big value":
            txn.put(b"key", bytes(100_000), db=databases["values"])
        elif shape == "two duplicates":
            txn.put(b"key", b"12345678", db=databases["seen"])
            txn.put(b"key", b"abcdefgh", db=databases["seen"])
    if shape == "dropped":
        fill(env, databases, Random(1), 500)
        with env.begin(write=True) as txn:
            txn.drop(databases["queue"], delete=False)
    if shape == "emptied":
        with env.begin(write=True) as txn:
            txn.delete(b"key", db=databases["queue"])
    assert both(tmp_path) == []
    assert {name: list(salvage(tmp_path, name)) for name in NAMES} == read(env, databases)
    env.close()


def test_every_commit_of_a_busy_job_is_sound(tmp_path: Path) -> None:
    env, databases = opened(tmp_path)
    rng = Random(11)
    for rows in (1, 2, 30, 400, 3, 900, 1, 250, 5):
        fill(env, databases, rng, rows)
        assert [str(damage) for damage in both(tmp_path)] == []
    env.close()


def test_a_file_may_be_shorter_than_its_last_page_says(tmp_path: Path) -> None:
    env, databases = opened(tmp_path)
    for number in range(4):
        with env.begin(write=True) as txn:
            txn.put(b"key", b"%d" % number, db=databases["values"])
    with env.begin(write=True) as txn:
        txn.put(b"key", b"4", db=databases["values"])
        txn.put(b"big", bytes(100_000), db=databases["values"])
        txn.delete(b"big", db=databases["values"])  # its pages were taken and given back, and never written
    pages = env.info()["last_pgno"] + 1
    env.close()
    assert (tmp_path / "data.mdb").stat().st_size < pages * 4096
    assert both(tmp_path) == []


def test_a_key_that_goes_with_its_tree_of_duplicates_is_no_damage(tmp_path: Path) -> None:
    env, databases = opened(tmp_path)
    fill(env, databases, Random(2), 3000)
    with env.begin(write=True) as txn:
        txn.delete(struct.pack(">I", 1), db=databases["seen"])  # LMDB then miscounts the pages of the rest
    assert both(tmp_path) == []
    env.close()


# -- damage ----------------------------------------------------------------------------------------------------------


def zeroed(image: Image, rng: Random) -> bytes:
    return image.changed(rng.choice(image.pages()), 0, bytes(image.size))


def branch_flipped(image: Image, rng: Random) -> bytes:
    page = rng.choice(image.pages(BRANCH)) * image.size
    inside = [*range(16, image.u16(page + 12)), *range(image.u16(page + 14), image.size)]
    return image.flipped([(page + rng.choice(inside), rng.randrange(8)) for _ in range(rng.choice((1, 1, 2, 64)))])


def header_flipped(image: Image, rng: Random) -> bytes:
    at = rng.choice(image.pages()) * image.size + rng.choice((0, 1, 2, 7, 10, 11, 12, 13, 14, 15))
    return image.flipped([(at, rng.randrange(8))])


def swapped(image: Image, rng: Random) -> bytes:
    one, other = (page * image.size for page in rng.sample(image.pages(), 2))
    data = bytearray(image.data)
    data[one : one + image.size] = image.data[other : other + image.size]
    data[other : other + image.size] = image.data[one : one + image.size]
    return bytes(data)


def copied(image: Image, rng: Random) -> bytes:
    source, target = rng.sample(image.pages(), 2)
    return image.changed(target, 0, image.data[source * image.size : (source + 1) * image.size])


def truncated(image: Image, rng: Random) -> bytes:
    return image.data[: -rng.randrange(1, 40) * image.size + rng.choice((0, 0, 100))]


def leaf_flipped(image: Image, rng: Random) -> bytes:
    """Where nodes are, how long they are, and of what kind."""
    page = rng.choice(image.pages(LEAF))
    at = page * image.size
    places = [*range(at + 16, at + image.u16(at + 12)), *(n + i for n in image.nodes(page) for i in range(8))]
    return image.flipped([(rng.choice(places), rng.randrange(8))])


DAMAGES = [zeroed, branch_flipped, header_flipped, swapped, copied, truncated, leaf_flipped]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found_or_changes_nothing(job: Job, damage: Callable[[Image, Random], bytes]) -> None:
    for seed in range(6):
        folder = job.damaged(damage(job.image, Random(seed)))
        thorough, quick = check(folder, thorough=True), check(folder)
        assert thorough or not quick
        if not thorough or (not quick and damage is not leaf_flipped):
            assert content(folder) == job.content, seed


def test_what_the_binding_calls_damage_is_damage(job: Job) -> None:
    assert verify.verify(str(job.damaged(job.image.data))) == []
    for seed in range(5):
        folder = job.damaged(leaf_flipped(job.image, Random(1000 + seed)))
        assert bool(check(folder, thorough=True)) >= bool(verify.verify(str(folder))), seed


def test_the_quick_form_finds_every_page_that_is_gone(job: Job) -> None:
    pages = job.image.pages()
    for page in Random(3).sample(pages, 25):
        found = check(job.damaged(job.image.changed(page, 0, bytes(job.image.size))))
        assert page in {damage.page for damage in found}
        assert {damage.database for damage in found} == {job.image.rows[page][0]}


def page_of(image: Image, kind: int, name: str) -> int:
    return image.pages(kind, of=name)[-1] * image.size


def record_of(image: Image, name: bytes) -> int:
    return image.data.index(name, image.main_root * image.size) + len(name)


def separator(image: Image, change: int) -> bytes:
    """The third key of a branch, a little higher or lower; it is the first of a leaf."""
    node = image.nodes(page_of(image, BRANCH, "queue") // image.size)[2]
    return image.put(node + 8, (int.from_bytes(image.data[node + 8 : node + 26]) + change).to_bytes(18))


def below_the_leaf_before(image: Image) -> bytes:
    branch = page_of(image, BRANCH, "queue") // image.size
    before = image.nodes(branch)[1]
    key, _ = image.rows[image.u64(before) & (2**48 - 1)][1][-1]
    return image.put(image.nodes(branch)[2] + 8, key)


def offsets_swapped(image: Image) -> bytes:
    at = page_of(image, LEAF, "queue") + 16
    return image.put(at, image.data[at + 2 : at + 4] + image.data[at : at + 2])


def children_swapped(image: Image) -> bytes:
    one, other = image.nodes(page_of(image, BRANCH, "queue") // image.size)[1:3]
    data = image.put(one, image.data[other : other + 6])
    return data[:other] + image.data[one : one + 6] + data[other + 6 :]


def value_outgrows_its_pages(image: Image) -> bytes:
    node = next(at for leaf in image.pages(LEAF, of="values") for at in image.nodes(leaf) if image.u16(at + 4) == 1)
    return image.bumped(node + 2, 1)  # by 65,536 bytes


def size_of_duplicates(image: Image) -> bytes:
    node = next(at for leaf in image.pages(LEAF, of="seen") for at in image.nodes(leaf) if image.u16(at + 4) == 6)
    return image.put(node + 12, b"\x09")


def free_numbers_swapped(image: Image) -> bytes:
    return image.put(image.free_at, struct.pack("<2Q", *image.free[1::-1]))


def last_page_lowered(image: Image) -> bytes:
    data = bytearray(image.data)
    data[136:144] = data[image.size + 136 : image.size + 144] = struct.pack("<Q", 20)
    return bytes(data)


SEEN_BY_BOTH: list[tuple[str, Callable[[Image], bytes]]] = [
    ("keys do not belong", lambda image: separator(image, 1)),
    ("keys do not belong", below_the_leaf_before),
    ("keys do not belong", children_swapped),
    ("header is that of page 7", lambda image: image.put(page_of(image, BRANCH, "queue"), struct.pack("<Q", 7))),
    ("header is that of page 7", lambda image: image.put(page_of(image, LEAF, "queue"), struct.pack("<Q", 7))),
    (
        "not the first of the overflow pages",
        lambda image: image.put(page_of(image, OVERFLOW, "values"), struct.pack("<Q", 7)),
    ),
    ("not the first of the overflow pages", value_outgrows_its_pages),
    ("neither a branch nor a leaf", lambda image: image.put(page_of(image, LEAF, "queue") + 10, b"\x12")),
    ("free space is from", lambda image: image.bumped(page_of(image, LEAF, "queue") + 12, 1)),
    ("overlap, or leave gaps", lambda image: image.bumped(page_of(image, LEAF, "queue") + 14, -2)),
    ("no nodes", lambda image: image.bumped(page_of(image, LEAF, "queue") + 14, 2)),
    ("values of one size", lambda image: image.bumped(page_of(image, LEAF2, "seen") + 14, -2)),
    ("values of one size", lambda image: image.bumped(page_of(image, LEAF2, "seen") + 8, 1)),
    ("values of 8 bytes in a tree for 9", size_of_duplicates),
    ("at depth 3 of 4", lambda image: image.bumped(record_of(image, b"queue") + 6, 1)),
    ("depth: its tree should have 1, and has 0", lambda image: image.bumped(record_of(image, b"ends") + 6, 1)),
    ("branches: its tree", lambda image: image.bumped(record_of(image, b"queue") + 8, 1)),
    ("leaves: its tree", lambda image: image.bumped(record_of(image, b"queue") + 16, 1)),
    ("overflows: its tree", lambda image: image.bumped(record_of(image, b"values") + 24, 1)),
    ("entries: its tree", lambda image: image.bumped(record_of(image, b"seen") + 32, 1)),
    ("record of the database", lambda image: image.bumped(record_of(image, b"queue") + 4, 4)),
    ("the list of transaction", free_numbers_swapped),
    ("the file has no such page, it has 21", last_page_lowered),
]


@pytest.mark.parametrize(("what", "damage"), SEEN_BY_BOTH, ids=[f"{n} {w}" for n, (w, _) in enumerate(SEEN_BY_BOTH)])
def test_a_small_change_is_named_by_both_forms(job: Job, what: str, damage: Callable[[Image], bytes]) -> None:
    folder = job.damaged(damage(job.image))
    for thorough in (False, True):
        found = [str(one) for one in check(folder, thorough=thorough)]
        assert any(what in one for one in found), (thorough, found)


def test_rows_out_of_order_in_a_leaf_are_found_by_the_thorough_form(job: Job) -> None:
    (damage,) = check(job.damaged(offsets_swapped(job.image)), thorough=True)
    assert damage.what in ("its keys are not in order", "its keys do not belong between those of the page above")


def test_a_node_far_outside_of_a_short_file_is_found(tmp_path: Path) -> None:
    env, databases = opened(tmp_path)
    with env.begin(write=True) as txn:
        txn.put(b"big", bytes(10_000), db=databases["values"])
        for number in range(100):
            txn.put(b"value%03d" % number, bytes(100), db=databases["values"])
    env.close()
    image = Image((tmp_path / "data.mdb").read_bytes())
    (tmp_path / "data.mdb").write_bytes(image.put(page_of(image, LEAF, "values") + 20, b"\xff\xff"))
    assert [damage.what for damage in check(tmp_path)] == ["1 of its nodes are no nodes"]


def test_a_page_that_is_used_twice_or_in_a_circle_is_found(job: Job) -> None:
    page = job.image.pages(BRANCH, of="queue")[-1]
    first, second = (node - page * job.image.size for node in job.image.nodes(page)[:2])
    at = page * job.image.size + second
    twice = job.damaged(job.image.changed(page, first, job.image.data[at : at + 6]))
    assert any("used twice" in damage.what for damage in check(twice))
    circle = job.damaged(job.image.changed(page, first, page.to_bytes(6, "little")))
    assert any("used twice" in damage.what for damage in check(circle))
    assert len(list(salvage(circle, "queue"))) < len(job.rows["queue"])


def test_a_page_in_use_that_is_listed_as_free_is_found(job: Job) -> None:
    page = job.image.pages(BRANCH, of="queue")[-1]
    node = job.image.nodes(page)[1] - page * job.image.size
    stale = next(free for free in job.image.free if job.image.u64(free * job.image.size) == free)
    folder = job.damaged(job.image.changed(page, node, stale.to_bytes(6, "little")))
    assert ("queue", stale, "it is in use, and in the list of free pages") in check(folder)


def test_a_page_beyond_the_file_is_found_by_its_number(job: Job) -> None:
    page = job.image.pages(BRANCH, of="queue")[-1]
    node = job.image.nodes(page)[1] - page * job.image.size
    (damage,) = check(job.damaged(job.image.changed(page, node, b"\xff" * 6)))
    assert str(damage) == (
        f"queue, page {2**48 - 1}: the file has no such page, it has {len(job.image.data) // job.image.size}"
    )


def test_a_database_that_is_missing_is_damage_where_it_is_expected(job: Job) -> None:
    at = job.image.data.index(b"queue", job.image.main_root * job.image.size)
    folder = job.damaged(job.image.changed(0, at, b"quark"))
    assert check(folder) == []
    assert [damage.what for damage in check(folder, expected=NAMES)] == ["there is no database queue"]


def test_without_a_valid_meta_there_is_one_damage_and_no_row(tmp_path: Path) -> None:
    for data in (b"", b"no", bytes(100_000)):
        (tmp_path / "data.mdb").write_bytes(data)
        assert [str(damage) for damage in check(tmp_path)] == ["(file), page 0: there is no valid meta page"]
        assert list(salvage(tmp_path, "queue")) == []


def test_the_older_meta_is_read_where_the_newer_is_torn(tmp_path: Path) -> None:
    env, databases = opened(tmp_path)
    for number in range(2):
        with env.begin(write=True) as txn:
            txn.put(b"key", b"%d" % number, db=databases["values"])
    env.close()
    data = (tmp_path / "data.mdb").read_bytes()
    newer = max((0, 4096), key=lambda at: int.from_bytes(data[at + 144 : at + 152], "little"))
    (tmp_path / "data.mdb").write_bytes(data[: newer + 16] + bytes(8) + data[newer + 24 :])
    assert both(tmp_path) == []
    assert list(salvage(tmp_path, "values")) == [(b"key", b"0")]


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check(tmp_path)
    with pytest.raises(FileNotFoundError):
        list(salvage(tmp_path, "queue"))


def test_whatever_stands_in_the_file_the_walk_ends_and_nothing_is_raised(job: Job) -> None:
    size = job.image.size
    for seed in range(6):
        rng = Random(seed)
        data = bytearray(job.image.data)
        for _ in range(rng.choice((20, 300, 3000))):
            page = rng.randrange(0 if rng.random() < 0.05 else 2, len(data) // size)
            data[page * size + rng.choice((rng.randrange(32), rng.randrange(size)))] = rng.choice(
                (0, 1, 255, rng.randrange(256))
            )
        folder = job.damaged(bytes(data[: rng.choice((len(data), rng.randrange(len(data))))]))
        assert all(str(damage) for damage in both(folder))
        for name in ("queue", "seen", "values"):
            assert all(len(pair) == 2 for pair in salvage(folder, name))


# -- salvage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (LEAF, "queue"),
        (BRANCH, "queue"),
        (LEAF, "hosts"),
        (LEAF, "seen"),
        (LEAF2, "seen"),
        (BRANCH, "seen"),
        (OVERFLOW, "values"),
    ],
)
def test_exactly_the_rows_of_a_lost_page_are_lost(job: Job, kind: int, name: str) -> None:
    pages = job.image.pages(kind, of=name)
    for page in Random(5).sample(pages, min(3, len(pages))):
        folder = job.damaged(job.image.changed(page, 0, bytes(job.image.size)))
        lost = set(job.image.rows[page][1])
        assert lost
        assert list(salvage(folder, name)) == [row for row in job.rows[name] if row not in lost]
        other = "hosts" if name != "hosts" else "values"
        assert list(salvage(folder, other)) == job.rows[other]


def test_rows_at_a_place_that_is_not_theirs_are_not_saved(job: Job) -> None:
    branch = job.image.pages(BRANCH, of="queue")[-1]
    misplaced = {
        row for node in job.image.nodes(branch)[1:3] for row in job.image.rows[job.image.u64(node) & (2**48 - 1)][1]
    }
    folder = job.damaged(children_swapped(job.image))
    assert list(salvage(folder, "queue")) == [row for row in job.rows["queue"] if row not in misplaced]


def test_a_damaged_list_of_free_pages_hides_no_rows(job: Job) -> None:
    used = max(job.image.pages(LEAF, of="queue"))
    assert used > job.image.free[2]
    folder = job.damaged(job.image.put(job.image.free_at, struct.pack("<2Q", 2**40, used)))
    assert ("(free)", 2**40, f"it is listed, but the last one is {len(job.image.data) // 4096 - 1}") in check(folder)
    assert list(salvage(folder, "queue")) == job.rows["queue"]


def test_a_big_value_with_a_page_that_is_listed_as_free_is_not_saved(job: Job) -> None:
    page = max(page for page in job.image.pages(OVERFLOW) if len(job.image.rows[page][1][0][1]) > 4096)
    assert page > job.image.free[1]
    folder = job.damaged(job.image.put(job.image.free_at, struct.pack("<Q", page + 1)))
    assert ("values", page + 1, "it is in use, and in the list of free pages") in check(folder)
    assert list(salvage(folder, "values")) == [row for row in job.rows["values"] if row not in job.image.rows[page][1]]


def test_a_node_that_is_lost_takes_no_other_with_it(job: Job) -> None:
    page = job.image.pages(LEAF, of="queue")[3]
    node = job.image.nodes(page)[1] - page * job.image.size
    folder = job.damaged(job.image.changed(page, node, b"\xff" * 8))
    assert list(salvage(folder, "queue")) == [row for row in job.rows["queue"] if row != job.image.rows[page][1][1]]


def test_damage_elsewhere_invents_no_rows(job: Job) -> None:
    rows = {name: set(job.rows[name]) for name in ("queue", "seen", "values")}
    for seed, damage in enumerate(DAMAGES[:-1]):
        folder = job.damaged(damage(job.image, Random(seed)))
        for name, known in rows.items():
            assert known.issuperset(salvage(folder, name)), (damage, name)


def test_only_good_rows_are_saved(job: Job) -> None:
    folder = job.damaged(job.image.data)
    saved = salvage(folder, "queue", is_good=lambda key, value: key[:4] == struct.pack(">I", 2) and len(value) > 150)
    assert list(saved) == [(k, v) for k, v in job.rows["queue"] if k[:4] == struct.pack(">I", 2) and len(v) > 150]


def test_a_database_that_is_not_there_has_no_rows(job: Job) -> None:
    assert list(salvage(job.damaged(job.image.data), "nothing")) == []
