"""What the copies of LMDB's meta pages are for: torn meta pages, lost power, a way back."""

from __future__ import annotations

import random
import shutil
from random import Random

import pytest

from crawler.contracts import Entry, Outcome, Verdict
from crawler.errors import JobDamaged
from crawler.frontier import snapshots
from crawler.frontier.disk import DiskStore
from crawler.frontier.local import LocalFrontier
from crawler.politeness import HostRule

NOW = 1_000_000.0
PAGE = 4096


def frontier_in(folder):
    rule = HostRule(delay=0.0, jitter=0.0, concurrency=1000)
    return LocalFrontier(DiskStore(folder), rule=lambda host: rule, rng=Random(1))


async def nothing():
    pass


async def write_epochs(folder, first, last, *, sync_after=None):
    """One entry an epoch, numbered; some of the earlier ones done, so that LMDB has pages to use again."""
    async with frontier_in(folder) as frontier:
        frontier.resume(NOW)
        for number in range(first, last + 1):
            frontier.add([Entry(f"host-{number % 7}:80", number, b"%d" % number)], NOW)
            if number % 3 == 0:
                (lease,) = (await frontier.lease(1, NOW)).leases
                frontier.complete([Outcome(lease, Verdict.DONE)], NOW)
            await frontier.commit({"epoch": b"%d" % number}, NOW)
            if number == sync_after:
                await frontier.sync(nothing)


async def epoch_of(folder):
    async with frontier_in(folder) as frontier:
        frontier.resume(NOW)
        found = frontier.get("epoch")
        known = sum(frontier.seen(f"host-{number % 7}:80", number) for number in range(1, 200))
        waiting = frontier.counts().queued
        epoch = 0 if found is None else int(found)
        assert known == epoch, "what is known is of this epoch, all of it"
        assert waiting == epoch - epoch // 3
        return epoch


@pytest.fixture
def as_if_restarted(monkeypatch):
    """The machine, after a power failure."""

    def restart():
        monkeypatch.setattr(snapshots, "_boot", lambda: b"another boot....")

    return restart


# -- torn meta pages ---------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-07")
@pytest.mark.parametrize("damage", ["zeroed", "flipped", "the other page's"])
async def test_a_torn_meta_page_is_put_right_and_nothing_is_lost(tmp_path, damage):
    await write_epochs(tmp_path / "frontier", 1, 20)
    chance = random.Random(damage)
    for number in range(40):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(tmp_path / "frontier", copy)
        data = bytearray((copy / "data.mdb").read_bytes())
        page, offset = chance.randrange(2) * PAGE, chance.randrange(200)
        if damage == "zeroed":
            data[page + offset : page + PAGE] = bytes(PAGE - offset)
        elif damage == "flipped":
            for _ in range(chance.randrange(1, 9)):
                data[page + chance.randrange(200)] ^= chance.randrange(1, 256)
        else:
            other = PAGE - page
            data[page + offset : page + PAGE] = data[other + offset : other + PAGE]
        (copy / "data.mdb").write_bytes(data)
        assert await epoch_of(copy) == 20
        shutil.rmtree(copy)


async def test_a_commit_whose_copy_was_not_written_never_happened(tmp_path):
    folder = tmp_path / "frontier"
    await write_epochs(folder, 1, 10)
    before = (folder / "snapshots").read_bytes()
    await write_epochs(folder, 11, 11)
    (folder / "snapshots").write_bytes(before)
    assert await epoch_of(folder) == 10
    await write_epochs(folder, 11, 15)
    assert await epoch_of(folder) == 15


@pytest.mark.hostile("R-07")
async def test_a_torn_copy_costs_its_epoch_alone(tmp_path):
    folder = tmp_path / "frontier"
    await write_epochs(folder, 1, 10)
    content = (folder / "snapshots").read_bytes()
    async with frontier_in(folder) as frontier:
        await frontier.commit({"epoch": b"11"}, NOW)
    changed = (folder / "snapshots").read_bytes()
    at = next(i for i, (a, b) in enumerate(zip(content.ljust(len(changed), b"\0"), changed, strict=True)) if a != b)
    (folder / "snapshots").write_bytes(changed[: at + 20] + b"\xff" * 8 + changed[at + 28 :])
    assert await epoch_of(folder) == 10


async def test_without_copies_lmdb_is_believed(tmp_path):
    await write_epochs(tmp_path / "frontier", 1, 10)
    (tmp_path / "frontier" / "snapshots").unlink()
    assert await epoch_of(tmp_path / "frontier") == 10


async def test_copies_of_a_frontier_that_is_gone_do_not_harm_the_next_one(tmp_path):
    await write_epochs(tmp_path / "frontier", 1, 10)
    (tmp_path / "frontier" / "data.mdb").unlink()
    await write_epochs(tmp_path / "frontier", 1, 3)
    assert await epoch_of(tmp_path / "frontier") == 3


# -- lost power --------------------------------------------------------------------------------------------------------


@pytest.mark.hostile("R-07")
async def test_after_a_power_failure_what_was_synced_is_there_and_what_was_not_may_be_torn(tmp_path, as_if_restarted):
    folder = tmp_path / "frontier"
    await write_epochs(folder, 1, 60, sync_after=30)
    async with frontier_in(folder) as frontier:
        frontier.resume(NOW)
        await frontier.sync(nothing)
        synced = (folder / "data.mdb").read_bytes()
        for number in range(61, 90):
            frontier.add([Entry(f"host-{number % 7}:80", number, b"%d" % number)], NOW)
            await frontier.commit({"epoch": b"%d" % number}, NOW)
    written = (folder / "data.mdb").read_bytes()
    # Of what was written since the sync, the disk has some pages and not others: here every other one, and both metas.
    mixed = bytearray(written)
    for start in range(2 * PAGE, len(written), 2 * PAGE):
        mixed[start : start + PAGE] = synced[start : start + PAGE].ljust(PAGE, b"\0")
    (folder / "data.mdb").write_bytes(mixed)
    as_if_restarted()
    found = DiskStore(folder).peek()
    assert found is not None
    assert found.lost_epochs == 29
    assert await epoch_of(folder) == 60
    await write_epochs(folder, 61, 70)
    assert await epoch_of(folder) == 70


async def test_a_restart_of_the_machine_after_a_sync_costs_nothing(tmp_path, as_if_restarted):
    await write_epochs(tmp_path / "frontier", 1, 10, sync_after=10)
    as_if_restarted()
    assert await epoch_of(tmp_path / "frontier") == 10


# -- the way back ------------------------------------------------------------------------------------------------------


async def test_the_way_back_goes_epoch_by_epoch_as_far_as_the_last_sync(tmp_path):
    folder = tmp_path / "frontier"
    await write_epochs(folder, 1, 30, sync_after=20)
    async with frontier_in(folder) as frontier:
        for expected in range(29, 19, -1):
            assert await frontier.roll_back()
            assert frontier.get("epoch") == b"%d" % expected
    assert await epoch_of(folder) == 30, "only looked at: nothing is forgotten before the next commit"
    async with frontier_in(folder) as frontier:
        for _ in range(10):
            assert await frontier.roll_back()
        await frontier.commit({}, NOW)
    assert await epoch_of(folder) == 20
    await write_epochs(folder, 21, 24)
    assert await epoch_of(folder) == 24


async def test_where_nothing_is_kept_there_is_no_way_back_and_nothing_changes(tmp_path):
    folder = tmp_path / "frontier"
    await write_epochs(folder, 1, 30, sync_after=30)
    async with frontier_in(folder) as frontier:
        frontier.resume(NOW)
        assert await frontier.roll_back()
        assert frontier.get("epoch") == b"29"
        assert not await frontier.roll_back()
        assert frontier.get("epoch") == b"30"
    assert await epoch_of(folder) == 30


# -- damage that no copy can mend --------------------------------------------------------------------------------------


async def test_a_truncated_file_is_named(tmp_path):
    folder = tmp_path / "frontier"
    await write_epochs(folder, 1, 60)
    with open(folder / "data.mdb", "r+b") as file:
        file.truncate(6 * PAGE)
    with pytest.raises(JobDamaged, match=r"frontier is damaged: .*crawler jobs repair"):
        async with frontier_in(folder):
            pass
