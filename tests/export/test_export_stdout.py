"""Standard output takes every format, keeps no position and never hangs the end of a crawl."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from crawler.errors import OutputError
from crawler.export import make_exporter

if TYPE_CHECKING:
    from crawler.export.output import Output


async def written(exporter: Output, *numbers: int, position: bytes | None = None) -> bytes:
    await exporter.open(position)
    for n in numbers:
        exporter.append(exporter.encode({"n": n}))
    position = await exporter.flush()
    await exporter.close()
    return position


class Pipe:
    """`sys.stdout` as a pipe, as a shell makes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w")
        monkeypatch.setattr(sys, "stdout", self.stream)

    def read(self) -> str:
        self.stream.close()
        with os.fdopen(self.reader) as reader:
            return reader.read()


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("-", '{"n":1}\n{"n":2}\n'),
        ("-:csv", "n\r\n1\r\n2\r\n"),
        ("-:json", '[\n{"n":1},\n{"n":2}\n]\n'),
    ],
)
async def test_items_go_to_standard_output_in_the_format_asked_for(
    monkeypatch: pytest.MonkeyPatch, target: str, text: str
) -> None:
    pipe = Pipe(monkeypatch)
    print("printed before", end="|")
    await written(make_exporter(target, overwrite=False), 1, 2)
    print("|after", end="")
    pipe.stream.flush()
    pipe.stream.reconfigure(newline="")
    with os.fdopen(pipe.reader, newline="") as reader:
        pipe.stream.close()
        assert reader.read() == f"printed before|{text}|after"


async def test_a_position_is_accepted_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe(monkeypatch)
    exporter = make_exporter("-:json", overwrite=False)
    position = await written(exporter, 1)
    await written(exporter, 2, position=position)
    assert exporter.snapshot().items == 2
    assert pipe.read() == '[\n{"n":1}\n]\n[\n{"n":2}\n]\n'


@pytest.mark.parametrize("stream", [io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")])
async def test_a_replaced_stream_without_descriptor_is_written_to(
    monkeypatch: pytest.MonkeyPatch, stream: io.TextIOBase
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    await written(make_exporter("-", overwrite=False), 1)
    stream.seek(0)
    assert json.loads(stream.read()) == {"n": 1}


async def test_more_than_a_pipe_holds_is_written_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe(monkeypatch)
    os.set_blocking(pipe.stream.fileno(), False)

    def read() -> str:
        with os.fdopen(pipe.reader) as reader:
            return reader.read()

    reading = asyncio.create_task(asyncio.to_thread(read))
    await written(make_exporter("-", overwrite=False), *range(30_000))
    pipe.stream.close()
    assert [json.loads(line)["n"] for line in (await reading).splitlines()] == list(range(30_000))


async def test_a_reader_that_went_away_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe(monkeypatch)
    os.close(pipe.reader)
    exporter = make_exporter("-:json", overwrite=False)
    await exporter.open(None)
    exporter.append(exporter.encode({"n": 1}))
    for _ in range(2):
        with pytest.raises(OutputError, match="standard output cannot be written: Broken pipe"):
            await exporter.flush()
    await exporter.close()
    pipe.stream.close()


async def test_a_cancelled_flush_to_a_reader_that_stopped_reading_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe(monkeypatch)
    exporter = make_exporter("-:json", overwrite=False)
    await exporter.open(None)
    exporter.append(exporter.encode({"n": "x" * 1_000_000}))
    flushing = asyncio.create_task(exporter.flush())
    await asyncio.sleep(0)  # now it has begun, and a pipe holds less than the item
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    await asyncio.wait_for(exporter.close(), 20)
    with pytest.raises(OutputError, match="its reader has stopped reading"):
        await exporter.flush()
    assert not pipe.stream.closed
    pipe.read()


@pytest.mark.parametrize("closed", [True, False])
async def test_a_closed_standard_output_is_refused(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stdout", stream if closed else None)
    with pytest.raises(OutputError, match="standard output is closed"):
        await make_exporter("-", overwrite=False).open(None)


def test_a_broken_pipe_leaves_the_interpreter_nothing_to_complain_about() -> None:
    code = """
import asyncio, sys
from crawler.errors import OutputError
from crawler.export import make_exporter
async def main():
    out = make_exporter("-", False)
    await out.open(None)
    out.append(out.encode({"n": 1}))
    sys.stdin.read()
    try:
        await out.flush()
    except OutputError as error:
        sys.stderr.write(str(error))
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, errors = process.communicate("")
    assert (process.returncode, errors) == (0, "standard output cannot be written: Broken pipe.")
