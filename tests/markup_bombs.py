"""Pages that take a parser quadratic time, or more memory than they have bytes: shape by shape, in any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _repeated(piece: bytes, before: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: before + piece * ((size - len(before)) // len(piece))


def _numbered(piece: str, before: bytes = b"", after: bytes = b"") -> Callable[[int], bytes]:
    def bomb(size: int) -> bytes:
        pieces, room = [], size - len(before) - len(after)
        while room > 0:
            pieces.append((piece % len(pieces)).encode())
            room -= len(pieces[-1])
        return before + b"".join(pieces) + after

    return bomb


def _reopened(size: int) -> bytes:
    half = size // 2
    return _numbered("<b a%d>")(half) + b"<p>" * (half // 3)


def _ends_of_others(size: int) -> bytes:
    half = size // 2
    return b"<div>" * (half // 5) + b"</main>" * (half // 7)


BOMBS: dict[str, Callable[[int], bytes]] = {
    "div": _repeated(b"<div>"),
    "div in upper case": _repeated(b"<DIV>"),
    "div with junk ends": _repeated(b"<div></x>"),
    "div and ends of others": _ends_of_others,
    "div around what is closed": _repeated(b"<div><b>x</b>"),
    "div put together": _repeated(b"<di<b>x</b>v>x</div>"),
    "div out of quotes": _repeated(b'<p x="<b>x</b>><div y="z">x</div></p>'),
    "p in button scope": _repeated(b"<p><button>"),
    "li": _repeated(b"<ul><li>"),
    "dd": _repeated(b"<dl><dd>"),
    "a and div": _repeated(b"<a><div>"),
    "formatting, different": _numbered("<b a%d>"),
    "formatting, opened again": _reopened,
    "tables": _repeated(b"<table><tr><td>"),
    "svg": _repeated(b"<g>", b"<svg>"),
    "unknown": _repeated(b"<x-y>"),
    "options": _repeated(b"<option>", b"<select>"),
    "attributes": _numbered(" a%d", b"<p", b">"),
    "attributes with quoted ends": _numbered(" a%d='>'", b"<p", b">"),
    "attributes of body": _numbered("<body a%d>"),
}
