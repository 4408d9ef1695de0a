"""Which regular expressions could take more than linear time, by their shape.

Two runs without a bound (`*`, `+`, `{9,}`) that can both eat what stands between them, and something behind the second
that can fail: then where one ends and the other begins is tried place by place, which is quadratic; and a run in a run
whose rounds can begin inside of it is exponential. A search begins anew at every character, as if `.*` stood in front.
What comes out errs on the side of complaint.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
from dataclasses import dataclass
from re import _compiler, _constants, _parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Expression", "complaints", "expressions"]

_CHARACTERS = [*map(chr, range(0x180)), "\u0661", "\u2028", "\u3042", "\ud800", "\U0001f375"]
_EVERYTHING = frozenset(range(len(_CHARACTERS)))
_UNBOUNDED = 1000
"""So many rounds are as good as endless."""
_MOST_WAYS = 5000
_ANCHORED = {"match", "fullmatch"}


@dataclass(frozen=True)
class Expression:
    """One pattern of a source, and the methods that it is used by."""

    name: str
    pattern: str | bytes
    flags: int
    methods: frozenset[str]


def expressions(source: str, namespace: dict[str, Any]) -> Iterator[Expression]:
    """All that stand in a module, but for those that are made of what a function is given. `namespace`: its globals."""
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for call in ast.walk(tree):
        method = ast.unparse(call.func).removeprefix("re.") if isinstance(call, ast.Call) else ""
        if not isinstance(call, ast.Call) or not ast.unparse(call.func).startswith("re.") or not call.args:
            continue
        if method not in ("compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"):
            continue
        flags = [
            each for each in (*call.args[1:], *(word.value for word in call.keywords)) if "re." in ast.unparse(each)
        ]
        with contextlib.suppress(NameError):
            pattern = _value(call.args[0], namespace)
            above = parents[call]
            name = f"{ast.unparse(call.args[0])[:60]}"
            methods = {method}
            if method == "compile":
                methods = {above.attr} if isinstance(above, ast.Attribute) else set()
                while not isinstance(above, ast.Assign | ast.AnnAssign | ast.stmt):
                    above = parents[above]
                if isinstance(above, ast.Assign | ast.AnnAssign):
                    name = ast.unparse(above.targets[0] if isinstance(above, ast.Assign) else above.target)
                    methods = methods or _methods(name, tree, parents)
            yield Expression(name, pattern, int(_value(flags[0], namespace)) if flags else 0, frozenset(methods))


def _value(node: ast.expr, namespace: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(node), "<pattern>", "eval"), namespace)


def _methods(name: str, tree: ast.Module, parents: dict[ast.AST, ast.AST]) -> set[str]:
    """`"search"` for whatever else is done with it than calling a method."""
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    read = [parents[node] for node in used if isinstance(node.ctx, ast.Load)]
    return {above.attr if isinstance(above, ast.Attribute) else "search" for above in read} or {"search"}


# -- the shape ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    eats: frozenset[int]
    is_run: bool = False
    """Without a bound."""
    may_be_empty: bool = False
    keeps: bool = False
    """Possessive: what it has eaten it does not give back."""
    can_fail: bool = True


def complaints(expression: Expression) -> list[str]:
    """What could take long, in words; empty where nothing can."""
    parsed = _parser.parse(expression.pattern, expression.flags)
    found: list[str] = []
    end = [_Part(frozenset(), may_be_empty=True)] if "fullmatch" in expression.methods else []
    for way in _ways(parsed, parsed.state, found):
        searched = not expression.methods <= _ANCHORED and not _is_anchored(parsed)
        parts = [*([_Part(_EVERYTHING, is_run=True, may_be_empty=True)] if searched else []), *way, *end]
        if fault := _fault(parts, searched=searched):
            found.append(fault)
    return list(dict.fromkeys(found))


def _is_anchored(parsed: Any) -> bool:
    kind, what = parsed[0] if len(parsed) else (None, None)
    return kind is _constants.AT and what in (_constants.AT_BEGINNING_STRING, _constants.AT_BEGINNING)


def _fault(parts: list[_Part], *, searched: bool) -> str | None:
    for first, second in itertools.combinations(range(len(parts)), 2):
        one, two = parts[first], parts[second]
        if not (one.is_run and two.is_run) or one.keeps or not any(part.can_fail for part in parts[second + 1 :]):
            continue
        both = one.eats & two.eats
        if both and all(part.may_be_empty or part.eats & both for part in parts[first + 1 : second]):
            return "a search that runs on from every place" if searched and not first else "two runs that overlap"
    return None


def _ways(items: Any, state: Any, found: list[str]) -> list[list[_Part]]:
    """Each choice of alternatives, flat."""
    ways: list[list[_Part]] = [[]]
    for item in items:
        more = _of(item, state, found)
        ways = [[*way, *other] for way in ways for other in more]
        assert len(ways) <= _MOST_WAYS, "too many alternatives to look at: write the pattern otherwise"
    return ways


def _of(item: Any, state: Any, found: list[str]) -> list[list[_Part]]:
    kind, what = item
    if kind is _constants.SUBPATTERN:
        return _ways(what[-1], state, found)
    if kind is _constants.ATOMIC_GROUP:
        return [[_kept(part) for part in way] for way in _ways(what, state, found)]
    if kind is _constants.BRANCH:
        ways = [way for branch in what[1] for way in _ways(branch, state, found)]
        plain = [way for way in ways if not any(part.is_run for part in way)]
        others = [way for way in ways if any(part.is_run for part in way)]
        return [*([[_together(plain)]] if plain else []), *others]
    if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
        return _repeated(kind, what, state, found)
    if kind in (_constants.ASSERT, _constants.ASSERT_NOT):
        direction, inside = what
        ways = _ways(inside, state, found)
        if kind is _constants.ASSERT and direction < 0:
            return ways  # what stands before was eaten by somebody else, and has to be there all the same
        return [[_Part(frozenset(), may_be_empty=True)]]
    if kind is _constants.AT:
        return [[_Part(frozenset(), may_be_empty=True)]]
    if kind is _constants.GROUPREF:
        return [[_Part(_EVERYTHING, may_be_empty=True)]]
    return [[_Part(_eaten(item, state))]]


def _repeated(kind: Any, what: Any, state: Any, found: list[str]) -> list[list[_Part]]:
    least, most, inside = what
    ways = _ways(inside, state, found)
    keeps = kind is _constants.POSSESSIVE_REPEAT
    if most < _UNBOUNDED:
        if least == most == 1 or not any(part.is_run for way in ways for part in way):
            return [[_together(ways, may_be_empty=least == 0, can_fail=least > 0)]]
        skipped: list[list[_Part]] = [[]] if least == 0 else []
        return [*skipped, *([_kept(part) if keeps else part for part in way] for way in ways)]
    for way in ways:
        for at, part in enumerate(way):
            rest_may_be_empty = all(other.may_be_empty for other in way[at + 1 :])
            varies = part.is_run or part.may_be_empty
            if varies and not (part.keeps or keeps) and rest_may_be_empty and part.eats & _begin(ways):
                found.append("a run in a run")
    if not keeps and _has_choice(inside, state):
        found.append("alternatives that begin alike, in a run")
    eats = frozenset().union(*(part.eats for way in ways for part in way))
    return [[_Part(eats, is_run=True, may_be_empty=least == 0, keeps=keeps, can_fail=least > 0)]]


_AROUND = (_constants.SUBPATTERN, _constants.MAX_REPEAT, _constants.MIN_REPEAT)


def _has_choice(items: Any, state: Any) -> bool:
    """Whether two alternatives anywhere in it can begin with the same character."""
    for kind, what in items:
        if kind is _constants.BRANCH:
            begins = [_begin(_ways(branch, state, [])) for branch in what[1]]
            if any(one & two for one, two in itertools.combinations(begins, 2)):
                return True
            if any(_has_choice(branch, state) for branch in what[1]):
                return True
        elif kind in _AROUND and _has_choice(what[-1], state):
            return True
    return False


def _begin(ways: list[list[_Part]]) -> frozenset[int]:
    begin: frozenset[int] = frozenset()
    for way in ways:
        for part in way:
            begin |= part.eats
            if not part.may_be_empty:
                break
    return begin


def _together(ways: list[list[_Part]], *, may_be_empty: bool = False, can_fail: bool = True) -> _Part:
    eats = frozenset().union(*(part.eats for way in ways for part in way))
    is_empty = may_be_empty or any(all(part.may_be_empty for part in way) for way in ways)
    return _Part(eats, may_be_empty=is_empty, can_fail=can_fail and any(part.can_fail for way in ways for part in way))


def _kept(part: _Part) -> _Part:
    return _Part(part.eats, part.is_run, part.may_be_empty, keeps=True, can_fail=part.can_fail)


def _eaten(item: Any, state: Any) -> frozenset[int]:
    key = (repr(item), state.flags, isinstance(state.str, str))
    if key not in _KNOWN:
        one = _compiler.compile(_parser.SubPattern(state, [item]), 0)
        known = _CHARACTERS if isinstance(state.str, str) else [each.encode("latin-1") for each in _CHARACTERS[:256]]
        _KNOWN[key] = frozenset(number for number, each in enumerate(known) if one.fullmatch(each) is not None)
    return _KNOWN[key]


_KNOWN: dict[tuple[str, int, bool], frozenset[int]] = {}
