"""Book covers: small PNG images (W3C PNG, palette colour) painted row by row, so that a thousand of them cost little.

Linen in four shades of one hue, a darker spine, an emblem, and a label whose bars stand for the title. The weave is
noise, which is why no two seeds give the same bytes and why a cover weighs a few kilobytes, as a photograph would.
"""

from __future__ import annotations

import colorsys
import math
import struct
import zlib
from random import Random

__all__ = ["HEIGHT", "WIDTH", "paint"]

WIDTH, HEIGHT = 96, 136

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WEAVE = bytes(value % 4 for value in range(256))
_SPINE, _EMBLEM, _LABEL, _INK = (bytes([index]) for index in range(4, 8))
_SPINE_WIDTH = 7
_LABEL_TOP, _LABEL_HEIGHT, _LABEL_MARGIN = 22, 26, 8
_EMBLEM_ROW = 94


def paint(seed: int) -> bytes:
    """A whole PNG file, `WIDTH` by `HEIGHT` pixels, 3 to 5 KB. Equal seeds give equal images, others differ."""
    rng = Random(seed)
    palette = _palette(rng)
    radius = rng.randint(14, 28)
    squareness = rng.choice((1.0, 2.0, 2.0, 6.0))  # of the emblem: a diamond, a disc, a rounded square
    bars = [rng.randint(24, WIDTH - _SPINE_WIDTH - 4 * _LABEL_MARGIN) for _ in range(3)]
    cloth = rng.randbytes(WIDTH * HEIGHT).translate(_WEAVE)
    rows = bytearray()
    for y in range(HEIGHT):
        row = cloth[y * WIDTH : (y + 1) * WIDTH]
        row = _over(row, 0, _SPINE, _SPINE_WIDTH)
        if 0 <= y - _LABEL_TOP < _LABEL_HEIGHT:
            row = _label(row, y - _LABEL_TOP, bars)
        rise = abs(y - _EMBLEM_ROW) / radius
        if rise < 1:
            half = round(radius * math.pow(1 - rise**squareness, 1 / squareness))
            row = _over(row, (WIDTH + _SPINE_WIDTH) // 2 - half, _EMBLEM, 2 * half)
        rows += b"\0" + row  # filter type 0 before each row
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
    packer = zlib.compressobj(
        strategy=zlib.Z_RLE
    )  # noise has no repeats to search for: an eighth of the time, and smaller
    pixels = packer.compress(rows) + packer.flush()
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", pixels), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _palette(rng: Random) -> bytes:
    hue = rng.random()
    colours = [
        *((hue, 0.40 + 0.015 * shade, 0.45) for shade in range(4)),
        (hue, 0.22, 0.5),
        ((hue + rng.uniform(0.35, 0.65)) % 1, 0.62, 0.6),
        (0.12, 0.92, 0.4),
        (hue, 0.15, 0.3),
    ]
    return bytes(round(part * 255) for colour in colours for part in colorsys.hls_to_rgb(*colour))


def _label(row: bytes, y: int, bars: list[int]) -> bytes:
    left = _SPINE_WIDTH + _LABEL_MARGIN
    row = _over(row, left, _LABEL, WIDTH - left - _LABEL_MARGIN)
    line, within = divmod(y - 3, 7)
    if 0 <= line < len(bars) and within < 4:
        row = _over(row, left + _LABEL_MARGIN, _INK, bars[line])
    return row


def _over(row: bytes, start: int, colour: bytes, length: int) -> bytes:
    return row[:start] + colour * length + row[start + length :]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
