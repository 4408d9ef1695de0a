"""The words of a command, as the program behind it would find them in its argument list, and their quoting.

Three ways of writing are told apart by what ends a line and escapes a quote:

- POSIX shells, as of browsers and documentation: '…', "…", $'…' (bash's ANSI-C quoting), a backslash at the end of a
  line. A prompt `$ ` before the command and a pipe or redirection behind it are left out, and an `&` within an
  unquoted URL belongs to the URL, which is what was meant.
- cmd.exe, known by `^"` or by a `^` that ends the first line. Every program that writes such commands doubles all
  backslashes, though curl.exe would only halve those before a quote; here all are halved, which is what was meant.
- PowerShell, known by a backtick that ends a line; the rest is read as POSIX.

A word is a str in which each byte that is not UTF-8 stands as a surrogate (PEP 383), as in `sys.argv`: a body keeps its
bytes (`to_bytes`), and where only text can stand they are read as Latin-1 (`to_text`), which is how old browsers meant
their `\\xe9`.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_text", "quote", "shown", "split", "to_bytes", "to_text"]

_SHOWN_CHARS: Final = 80

_CMD_SHELL = re.compile(r"""[^"']*\^" | (?:(?![ \t]\$?')[^\n])*[ \t]\^[ \t]*\r?\n""", re.VERBOSE)
_BACKTICKS = re.compile(r"[ \t]`[ \t]*\r?\n")
_BACKSLASHES = re.compile(r"\\[ \t]*\r?\n")


def split(command: str) -> list[str]:
    """Raises ValueError for an unclosed quote, for what the shell would replace, and for a second curl command."""
    text = re.sub(r"\A\$\s+", "", command.encode("utf-8", "replace").decode().strip())
    if _CMD_SHELL.match(text):
        return _cmd_words(text)
    if not _BACKSLASHES.search(text):
        text = _BACKTICKS.sub(" ", text)
    return [word.decode("utf-8", "surrogateescape") for word in _posix_words(text)]


def to_bytes(word: str) -> bytes:
    """The bytes that a word stands for."""
    return word.encode("utf-8", "surrogateescape")


def to_text(word: str) -> str:
    """The word, or its bytes read as Latin-1 where they are not UTF-8."""
    return word if is_text(word) else to_bytes(word).decode("latin-1")


def is_text(word: str) -> bool:
    """Whether its bytes are UTF-8."""
    return word.isascii() or not any("\udc80" <= character <= "\udcff" for character in word)


def shown(text: str) -> str:
    """For a message."""
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")


def quote(text: str | bytes) -> str:
    """One word for bash: plain, in '…', or in $'…' where those cannot hold it. Raises ValueError for a NUL."""
    word = text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
    if "\0" in word:
        raise ValueError("no argument of a command can hold a NUL")
    if _PLAIN(word):
        return word
    if "'" not in word and word.isprintable():
        return f"'{word}'"
    return "$'" + "".join(map(_escaped, word)) + "'"


# -- POSIX -------------------------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"[\w@%+=:,./\-]+", re.ASCII).fullmatch
_TOKEN = re.compile(
    r"""
      (?P<continued> \\[ \t]*\r?\n )
    | (?P<gap> [ \t\r\n]+ | (?<!\S)\#[^\n]* )
    | (?P<end> [|&;]+(?=\s|\Z) | (?<!\S)(?:\d?>|&>|<) )
    | \$'(?P<ansi>[^'\\]*+(?:\\.[^'\\]*+)*+)'
    | '(?P<single>[^']*+)'
    | \$?"(?P<double>[^"\\]*+(?:\\.[^"\\]*+)*+)"
    | \\(?P<escaped>.)
    | (?P<bare> [^\s'"\\|&;$]+ | \$(?!['"])[^\s'"\\|&;]* | [|&;] )
    """,
    re.VERBOSE | re.DOTALL,
)
_EXPANSION = re.compile(r"(?<!\\)(?:\\\\)*(\$(?:\w+|\{[^}]*\}?|\([^)]*\)?)|`[^`]*`?)")
_HEX = "[0-9a-fA-F]"
_ANSI = re.compile(
    rf"\\(?:u([dD][89abAB]{_HEX}{{2}})\\u([dD][c-fC-F]{_HEX}{{2}})|u({_HEX}{{1,4}})|U({_HEX}{{1,8}})|x({_HEX}{{1,2}})"
    r"|([0-7]{1,3})|c(.)|(.))",
    re.DOTALL,
)
_ANSI_LETTERS: Final = {
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
}
_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", "'": r"\'", "!": r"\x21"}


def _posix_words(text: str) -> list[bytes]:
    words: list[bytes] = []
    word: list[bytes] | None = None
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"a quote is never closed: {shown(text[at:])}")
        at = token.end()
        kind = token.lastgroup or ""
        if kind == "end":
            _check_rest(text[at:])
            break
        if kind != "gap":
            word = word or ([] if kind == "continued" else [b""])
            word += [] if kind == "continued" else [_unquoted(kind, token[kind])]
        if kind == "gap" and word:
            words.append(b"".join(word))
            word = None
    return [*words, b"".join(word)] if word else words


def _unquoted(kind: str, text: str) -> bytes:
    if kind == "ansi":
        # Bytes stand as surrogates until all are there: two `\x` may be one character.
        return to_bytes(_ANSI.sub(_ansi_character, text))
    if kind in ("double", "bare") and (expansion := _EXPANSION.search(text)):
        raise ValueError(f"the shell would replace {shown(expansion[1])}: write what it stands for, or quote with '…'")
    if kind == "double":
        text = re.sub(r'\\(?:([$`"\\])|\r?\n)', lambda escape: escape[1] or "", text)
    return text.encode()


def _ansi_character(escape: re.Match[str]) -> str:
    high, low, short, long, byte, octal, control, other = escape.groups()
    if high:
        return bytes.fromhex(high + low).decode("utf-16-be")
    if short or long:
        code = int(short or long, 16)
        return "\ufffd" if 0xD800 <= code < 0xE000 or code > 0x10FFFF else chr(code)
    if byte or octal:
        return bytes([int(byte or octal, 16 if byte else 8) & 255]).decode("ascii", "surrogateescape")
    return chr(ord(control) & 31) if control else _ANSI_LETTERS.get(other, other)


def _escaped(character: str) -> str:
    if character in _ESCAPES:  # an interactive bash would replace the `!`
        return _ESCAPES[character]
    return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in to_bytes(character))


def _check_rest(text: str) -> None:
    """Of a pipe or redirection a request knows nothing; but another request must not get lost."""
    if re.search(r"(?<![\w.-])curl(\.exe)?\s", text):
        raise ValueError("several curl commands: give them one by one")


# -- cmd.exe -----------------------------------------------------------------------------------------------------------

_CARETS = re.compile(
    r"""
      \^(?:\r?\n)?(?P<escaped>\r?\n|.)?
    | (?P<quoted> "[^"]*"? )
    | (?P<end> (?<!\S)[&|<>]+(?=\s|\Z) )
    | (?P<plain> [^"^&|<>]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_ARGUMENT = re.compile(
    r"""
      (?P<gap> \s+ )
    | "(?P<quoted> (?:[^"\\]|\\.|"")*+ )"?
    | \\(?P<escaped> ["\\] )
    | (?P<bare> [^\s"\\]+ | \\ )
    """,
    re.VERBOSE | re.DOTALL,
)


def _cmd_words(text: str) -> list[str]:
    """First what cmd.exe does with carets, then what the C runtime does with quotes."""
    plain = []
    for token in _CARETS.finditer(text):
        if token.lastgroup == "end":
            _check_rest(text[token.end() :])
            break
        plain.append(token[token.lastgroup] if token.lastgroup else "")
    words: list[str] = []
    word: list[str] | None = None
    for token in _ARGUMENT.finditer("".join(plain)):
        kind = token.lastgroup or ""
        if kind == "gap":
            words += [] if word is None else ["".join(word)]
            word = None
        else:
            piece = re.sub(r'\\(["\\])|"(")', r"\1\2", token[kind]) if kind == "quoted" else token[kind]
            word = [*(word or ()), piece]
    return words if word is None else [*words, "".join(word)]
