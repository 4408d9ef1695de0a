"""Reading a CSS query into a plan.

Selectors 4, as far as parsel or lexbor go, and parsel's `::text` and `::attr()`. The structure is read here; whether a
compound selector is known is for lexbor to say, which is shown each one. What lexbor understands as parsel does goes
into the plan in its own words, rewritten where the two differ (`:disabled`, `[a!=b]`, `:is(.a) b`); the rest becomes a
filter.

Where the language differs from parsel's, on purpose:

- More is accepted: lists and nesting in `:not()`, combinators in `:is()`, `*:first-of-type`, `:nth-child(2 of .x)`,
  `:any-link` and others of lexbor's. A namespace prefix is an error; there is nothing it could refer to.
- `a ~ * > ::text` and `a ~ * > ::attr(x)` are those of the siblings' children; parsel loses a step there.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from re import Match
from typing import TYPE_CHECKING

from selectolax.lexbor import LexborHTMLParser, SelectolaxError

from crawler.css.plan import Branch, Keep, Plan, Step, Steps, containing, having, matching, speaking

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ESCAPE = r"\\(?:[0-9A-Fa-f]{1,6}(?:\r\n|[ \t\r\n\f])?|[^\r\n\f0-9A-Fa-f])"
_NAME = rf"(?:[A-Za-z0-9_-]|[^\x00-\x7f]|{_ESCAPE})"
_TOKEN = re.compile(
    rf"""(?P<comment>/\*.*?(?:\*/|\Z))
    |(?P<space>[ \t\r\n\f]+)
    |(?P<string>"(?:[^"\\\r\n\f]|\\(?:\r\n|.))*"|'(?:[^'\\\r\n\f]|\\(?:\r\n|.))*')
    |(?P<hash>\#{_NAME}+)
    |(?P<ident>(?:--|-?(?:[A-Za-z_]|[^\x00-\x7f]|{_ESCAPE})){_NAME}*)
    |(?P<delimiter>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(?:([0-9A-Fa-f]{1,6})(?:\r\n|[ \t\r\n\f])?|(\r\n|[\r\n\f])|(.))", re.DOTALL)

_CONTROL = "*:is(button, input, select, textarea)"
_DISABLED = (
    f":is({_CONTROL}[disabled], fieldset[disabled], optgroup[disabled], option[disabled], optgroup[disabled] option,"
    f" fieldset[disabled] {_CONTROL}:not(fieldset[disabled] > legend:first-of-type *))"
)
_PSEUDO_CLASSES = {
    "visited": ":not(*)",
    "target": ":not(*)",
    # HTML Standard 4.16.3; lexbor's own `:disabled` does not look at fieldsets, and its `:enabled` is everything else.
    "disabled": _DISABLED,
    "enabled": f":is({_CONTROL}, fieldset, optgroup, option):not({_DISABLED})",
}
_EMPTY_PAGE = LexborHTMLParser("")
_NTH = frozenset({"nth-child", "nth-last-child", "nth-of-type", "nth-last-of-type"})


@lru_cache(maxsize=1024)
def compile(query: str) -> Plan:
    """The plan for a query; the last 1024 are kept. Raises `ValueError` for a selector that is not valid."""
    branches = tuple(_Reader(query).branches())
    same = len({(branch.take, branch.attribute) for branch in branches}) == 1
    native = same and all(_native(branch.steps) for branch in branches)
    css = ", ".join(_written(branch.steps) for branch in branches) if native else ""
    chains = [branch.steps for branch in branches if len(branch.steps) > 1]
    within = native and not any(step.combinator in ("+", "~") for steps in chains for step in steps)
    return Plan(branches, css, bool(chains), ", ".join(steps[0].css for steps in chains) if within else "")


def _native(steps: Steps) -> bool:
    return bool(steps) and not any(step.keep or step.scope for step in steps)


def _written(steps: Steps) -> str:
    return "".join(f" {step.combinator} {step.css}" for step in steps).strip()


def _unescape(text: str) -> str:
    def character(escape: Match[str]) -> str:
        if escape[1]:
            code = int(escape[1], 16)
            return "\ufffd" if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else chr(code)
        return escape[3] or ""

    return _ESCAPED.sub(character, text)


class _Reader:
    """Recursive descent over Selectors 4 as far as parsel or lexbor go. Each compound selector is shown to lexbor."""

    def __init__(self, query: str) -> None:
        self.query = query
        self.tokens = [(str(m.lastgroup), m[0]) for m in _TOKEN.finditer(query) if m.lastgroup != "comment"]
        self.tokens.append(("end", ""))
        self.at = 0

    def error(self, reason: str) -> ValueError:
        return ValueError(f"invalid CSS selector {self.query!r}: {reason}")

    def unexpected(self, wanted: str) -> ValueError:
        kind, text = self.tokens[self.at]
        return self.error(f"expected {wanted}, not {'its end' if kind == 'end' else repr(text)}")

    def take(self, kind: str, wanted: str) -> str:
        found, text = self.tokens[self.at]
        if found != kind:
            raise self.unexpected(wanted)
        self.at += 1
        return text

    def accept(self, *texts: str) -> str:
        kind, text = self.tokens[self.at]
        if kind != "delimiter" or text not in texts:
            return ""
        self.at += 1
        return text

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.unexpected(repr(text))

    def skip_space(self) -> bool:
        before = self.at
        while self.tokens[self.at][0] == "space":
            self.at += 1
        return self.at > before

    def branches(self) -> Iterator[Branch]:
        while True:
            steps, pseudo = self.chain()
            yield from _branches(steps, pseudo)
            if self.tokens[self.at][0] == "end":
                return
            self.expect(",")

    def chain(self, *, relative: bool = False) -> tuple[Steps, tuple[str, str] | None]:
        """Compound selectors and combinators, up to a comma, a closing parenthesis or the end."""
        steps: list[Step] = []
        self.skip_space()
        combinator = (self.accept(">", "+", "~") or " ") if relative else ""
        while True:
            self.skip_space()
            step, pseudo = self.compound(combinator)
            steps.append(step)
            spaced = self.skip_space()
            kind, text = self.tokens[self.at]
            if kind == "end" or text in (",", ")"):
                return tuple(steps), pseudo
            if pseudo:
                raise self.error(f"::{pseudo[0]} must come last")
            combinator = self.accept(">", "+", "~") or (" " if spaced else "")
            if not combinator:
                raise self.unexpected("a selector")

    def compound(self, combinator: str) -> tuple[Step, tuple[str, str] | None]:
        before = self.at
        css = self.type_selector()
        keep: list[Keep] = []
        scope = False
        pseudo = None
        while pseudo is None:
            kind, text = self.tokens[self.at]
            if kind == "hash":
                css += self.take("hash", "an id")
            elif self.accept("."):
                css += f".{self.take('ident', 'a class name')}"
            elif text == "[":
                css += self.attribute()
            elif not self.accept(":"):
                break
            elif self.accept(":"):
                pseudo = self.pseudo_element()
            elif (name := self.take("ident", "a pseudo-class").lower()) == "scope":
                scope = True
            else:
                css += self.function(name, keep) if self.accept("(") else _PSEUDO_CLASSES.get(name, f":{name}")
        if self.at == before:
            raise self.unexpected("a selector")
        if scope and combinator:
            raise self.error(":scope must come first")
        if css[:1] in ("", ":"):
            css = f"*{css}"  # lexbor 3 forgets to look further up for `:is(.a) b` where `*:is(.a) b` is right
        self.check(css)
        return Step(combinator, css, tuple(keep), scope), pseudo

    def check(self, css: str) -> None:
        try:
            _EMPTY_PAGE.css_first(css)
        except (SelectolaxError, UnicodeEncodeError):
            raise self.error(f"{css!r} is not known") from None

    def type_selector(self) -> str:
        kind, text = self.tokens[self.at]
        name = ""
        if kind == "ident" or text == "*":
            self.at += 1
            name = text
        if not self.accept("|"):
            return name
        if name not in ("", "*"):
            raise self.error(f"the namespace {name!r} is not declared")
        return self.accept("*") or self.take("ident", "an element name")

    def attribute(self) -> str:
        self.expect("[")
        self.skip_space()
        if self.accept("*"):
            self.expect("|")
        else:
            self.accept("|")
        name = self.take("ident", "an attribute name")
        self.skip_space()
        if self.accept("]"):
            return f"[{name}]"
        operator = self.accept("=", "~", "|", "^", "$", "*", "!")
        if operator != "=":
            self.expect("=")
        self.skip_space()
        kind, value = self.tokens[self.at]
        if kind not in ("ident", "string"):
            raise self.unexpected("a name or a quoted string")
        self.at += 1
        self.skip_space()
        flag = self.take("ident", "i or s") if self.tokens[self.at][0] == "ident" else ""
        if flag.lower() not in ("", "i", "s"):
            raise self.error(f"{flag!r} is neither i nor s")
        self.skip_space()
        self.expect("]")
        if operator != "!":
            return f"[{name}{operator.rstrip('=')}={value} {flag}]"
        # cssselect's `!=` holds without the attribute too, but not when compared with the empty string.
        without = f":not([{name}={value} {flag}])"
        return f"[{name}]{without}" if value in ('""', "''") else without

    def function(self, name: str, keep: list[Keep]) -> str:
        """The argument of a functional pseudo-class: CSS for lexbor, or a filter that is added to `keep`."""
        if name in ("contains", "lang"):
            keep.append(partial(containing if name == "contains" else speaking, self.argument(name)))
            return ""
        if name in _NTH or name == "lexbor-contains":
            return f":{name}({self.raw()})"
        if name not in ("not", "is", "where", "matches", "has"):
            raise self.error(f"':{name}()' is not known")
        arguments: list[Steps] = []
        while True:
            steps, pseudo = self.chain(relative=name == "has")
            if pseudo or any(step.scope for step in steps):
                raise self.error(f"{f'::{pseudo[0]}' if pseudo else ':scope'} cannot be used in :{name}()")
            arguments.append(steps)
            if not self.accept(","):
                break
        self.expect(")")
        if all(_native(steps) for steps in arguments):
            written = ", ".join(_written(steps) for steps in arguments)
            return f":{'is' if name == 'matches' else name}({written})"
        keep.append(partial(having, arguments) if name == "has" else partial(matching, arguments, name != "not"))
        return ""

    def argument(self, name: str) -> str:
        self.skip_space()
        kind, text = self.tokens[self.at]
        if kind not in ("ident", "string"):
            raise self.unexpected(f"one name or quoted string in {name}()")
        self.at += 1
        self.skip_space()
        self.expect(")")
        return _unescape(text[1:-1] if kind == "string" else text)

    def raw(self) -> str:
        depth = 1
        text = ""
        while self.tokens[self.at][0] != "end":
            if self.accept(")"):
                depth -= 1
                if not depth:
                    return text
                text += ")"
            else:
                depth += self.tokens[self.at] == ("delimiter", "(")
                text += self.tokens[self.at][1]
                self.at += 1
        raise self.unexpected("')'")

    def pseudo_element(self) -> tuple[str, str]:
        name = self.take("ident", "text or attr(name)").lower()
        if name == "attr" and self.accept("("):
            return name, self.argument(name)
        if name != "text":
            raise self.error(f"::{name} is neither ::text nor ::attr(name)")
        return name, ""


def _branches(steps: Steps, pseudo: tuple[str, str] | None) -> Iterable[Branch]:
    """In `a ::text` and `a ::attr(x)` parsel's unwritten (or written) `*` stands for `a` itself too."""
    if pseudo is None:
        return [Branch(steps, "node")]
    name, attribute = pseudo
    everything = steps[-1].bare and steps[-1].combinator in ("", " ")
    if name == "text":
        return [Branch(steps[:-1], "all text") if everything else Branch(steps, "text")]
    itself = [Branch(steps[:-1], "attribute", attribute)] if everything and len(steps) > 1 else []
    return [*itself, Branch(steps, "attribute", attribute)]
