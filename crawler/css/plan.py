"""A plan: a query as steps for lexbor, and how they are run.

Where one call of lexbor gives what parsel would, `run` makes that call and only takes text or attributes from its
answer. What lexbor has no word for is worked out here, step by step over its answers:

- `::text` and `::attr()`, alone or mixed in one query, in document order;
- queries below an element: parsel looks for the whole chain inside it, lexbor lets the chain begin outside
  (`card.css("body p")` is empty with parsel, and here);
- `:contains()`, `:lang()` and `:scope`, anywhere in a query.

Two `LexborNode` objects stand for one node of the tree when their `mem_id` is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, Literal, NamedTuple

from selectolax.lexbor import LexborNode

_identity = attrgetter("mem_id")
Keep = Callable[[list[LexborNode]], list[LexborNode]]


class Step(NamedTuple):
    """One compound selector: what lexbor finds for `css`, less what a filter takes away."""

    combinator: str
    """To the step before. Empty at the start, but for the argument of `:has()`."""
    css: str
    keep: tuple[Keep, ...] = ()
    scope: bool = False

    @property
    def bare(self) -> bool:
        return self.css == "*" and not self.keep and not self.scope


Steps = tuple[Step, ...]


class Branch(NamedTuple):
    """What stands between two commas."""

    steps: Steps
    """Empty: the node that is asked itself."""
    take: Literal["node", "text", "all text", "attribute"]
    """`all text`: of the descendants too."""
    attribute: str = ""


class Plan(NamedTuple):
    """A query, ready to be run on any page."""

    branches: tuple[Branch, ...]
    css: str
    """All branches in lexbor's words, or empty where it has none for them or they do not take the same thing."""
    chained: bool
    """There are combinators, so lexbor may take the beginning of a chain from outside the element asked."""
    first: str
    """The beginnings of the chains, where that is all that can be outside: there is no `+` or `~`."""


class Beginnings:
    """What is known of one page about where chains can begin; shared by all queries on it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, dict[int, bool]] = {}

    def of(self, css: str, node: LexborNode) -> dict[int, bool]:
        """The elements of the page that match; what `_below` learns about them is kept too."""
        known = self._known.get(css)
        if known is None:
            top = node.parser.root
            known = {} if top is None else {match.mem_id: True for match in top.css(css)}
            self._known[css] = known
        return known


def run(plan: Plan, scope: LexborNode, beginnings: Beginnings) -> Sequence[LexborNode | str]:
    """What a plan finds in `scope` or below, each once and in document order: elements, or strings for `::text` and
    `::attr()`. `beginnings` are those of the page that `scope` is part of."""
    branch = plan.branches[0]
    if plan.css and not (plan.chained and _leaks(plan, scope, beginnings)):
        nodes = scope.css(plan.css)
        if len(plan.branches) > 1:
            nodes = list({node.mem_id: node for node in nodes}.values())
    elif len(plan.branches) == 1:
        nodes = find(branch.steps, scope)
    else:
        return _merge(plan.branches, scope)
    if branch.take == "node":
        return nodes
    if branch.take == "attribute":
        name = branch.attribute
        return [attributes[name] or "" for node in nodes if name in (attributes := node.attributes)]
    if branch.take == "text":
        return _texts(nodes)
    if len(nodes) == 1:
        return [text for part in nodes[0].traverse(include_text=True) if (text := part.text_content)]
    return [part.text_content or "" for part in _text_nodes(nodes, deep=True)]


UNSURE: Final = object()
"""`first` does not know."""


def first(plan: Plan, scope: LexborNode, beginnings: Beginnings) -> LexborNode | str | object | None:
    """The first of what `run` finds, None where that is nothing, `UNSURE` where one look does not tell. A query costs
    the walk through the page, and this one stops at the first match."""
    branch = plan.branches[0]
    if len(plan.branches) > 1 or not plan.css or (plan.chained and _leaks(plan, scope, beginnings)):
        return UNSURE
    node = scope.css_first(plan.css)
    if node is None or branch.take == "node":
        return node
    if branch.take == "attribute":
        attributes = node.attributes
        return attributes[branch.attribute] or "" if branch.attribute in attributes else UNSURE
    if branch.take == "text":
        child = node.first_child
        while child is not None and not child.is_element_node:  # in an element there may be another match
            if text := child.text_content:
                return text
            child = child.next
    return UNSURE


def _leaks(plan: Plan, scope: LexborNode, beginnings: Beginnings) -> bool:
    """Whether a chain could begin above `scope`. Lexbor's calls cost more than what they do, so one is worth saving."""
    parent = scope.parent
    if parent is None or parent.is_document_node:
        return False
    return not plan.first or _below(scope, beginnings.of(plan.first, scope))


def find(steps: Steps, scope: LexborNode) -> list[LexborNode]:
    """The nodes at the end of a chain that begins in `scope`. With `+` and `~` it may end beside it, as in parsel."""
    space = _space(steps, scope)
    found = [scope]
    for step in steps:
        if step.combinator:
            found = _related(step.combinator, found, space.css(step.css))
        elif step.scope:
            found = [node for node in scope.css(step.css)[:1] if node.mem_id == scope.mem_id]
        else:
            found = scope.css(step.css)
        for keep in step.keep:
            found = keep(found)
        if not found:
            break
    return found


def _space(steps: Steps, scope: LexborNode) -> LexborNode:
    if not any(step.combinator in ("+", "~") for step in steps):
        return scope
    parent = scope.parent
    return scope if parent is None or parent.is_document_node else parent


def _related(combinator: str, origins: list[LexborNode], candidates: list[LexborNode]) -> list[LexborNode]:
    """Those candidates that stand in this relation to one of the origins; linear in what is walked over."""
    known = {node.mem_id for node in origins}
    if combinator == " ":
        inside = dict.fromkeys(known, True)
        return [node for node in candidates if _below(node, inside)]
    if combinator == ">":
        return [node for node in candidates if (parent := node.parent) is not None and parent.mem_id in known]
    beside: set[int] = set()
    for origin in origins:
        sibling = origin.next
        while sibling is not None and sibling.mem_id not in beside:
            if sibling.is_element_node:
                beside.add(sibling.mem_id)
                if combinator == "+":
                    break
            sibling = sibling.next
    return [node for node in candidates if node.mem_id in beside]


def _below(node: LexborNode, inside: dict[int, bool]) -> bool:
    """Whether an ancestor is known to be inside; what is learnt on the way up is remembered."""
    passed = []
    answer = False
    parent = node.parent
    while parent is not None:
        known = inside.get(parent.mem_id)
        if known is not None:
            answer = known
            break
        passed.append(parent.mem_id)
        parent = parent.parent
    inside.update(dict.fromkeys(passed, answer))
    return answer


def _texts(nodes: list[LexborNode]) -> list[str]:
    """The text directly in these nodes, in document order like the nodes."""
    several = {node.mem_id for node in nodes} if len(nodes) > 1 else set()
    found = []
    for node in nodes:
        child = node.first_child
        while child is not None:
            text = child.text_content
            if text:
                found.append(text)
            elif several and not several.isdisjoint(map(_identity, child.traverse())):
                return [part.text_content or "" for part in _text_nodes(nodes, deep=False)]
            child = child.next
    return found


def _text_nodes(nodes: list[LexborNode], *, deep: bool) -> list[LexborNode]:
    """The same where nodes may be nested, or with `deep` all text below them: walks each outermost one once."""
    known = {node.mem_id for node in nodes}
    walked: set[int] = set()
    found = []
    for outermost in nodes:
        if outermost.mem_id in walked:
            continue
        for node in outermost.traverse(include_text=True):
            if not node.is_text_node:
                walked.add(node.mem_id)
            elif deep or ((parent := node.parent) is not None and parent.mem_id in known):
                found.append(node)
    return found


def _merge(branches: tuple[Branch, ...], scope: LexborNode) -> list[LexborNode | str]:
    """Results of several branches in XPath's order: an element, its attributes, what it contains; each once."""
    space = _space(tuple(step for branch in branches for step in branch.steps), scope)
    place = {node.mem_id: position for position, node in enumerate(space.traverse(include_text=True))}
    found: dict[tuple[int, int], LexborNode | str] = {}
    for branch in branches:
        nodes = find(branch.steps, scope)
        if branch.take == "node":
            found.update({(place[node.mem_id], 0): node for node in nodes})
        elif branch.take == "attribute":
            for node in nodes:
                for position, (name, value) in enumerate(node.attributes.items(), 1):
                    if name == branch.attribute:
                        found[place[node.mem_id], position] = value or ""
        else:
            texts = _text_nodes(nodes, deep=branch.take == "all text")
            found.update({(place[text.mem_id], 0): text.text_content or "" for text in texts})
    return [found[key] for key in sorted(found)]


# -- filters, for what lexbor has no word for --------------------------------------------------------------------------


def containing(text: str, nodes: list[LexborNode]) -> list[LexborNode]:
    """`:contains()`: the text of the element and all below it, taken together, in this very case."""
    return [node for node in nodes if text in node.text_lexbor()]


def speaking(language: str, nodes: list[LexborNode]) -> list[LexborNode]:
    """`:lang()` as cssselect has it: the nearest `lang` attribute is the language or begins with it and a hyphen."""
    found = []
    for node in nodes:
        holder: LexborNode | None = node
        while holder is not None and "lang" not in holder.attributes:
            holder = holder.parent
        if holder is not None and f"{holder.attributes['lang'] or ''}-".lower().startswith(f"{language.lower()}-"):
            found.append(node)
    return found


def matching(arguments: Sequence[Steps], wanted: bool, nodes: list[LexborNode]) -> list[LexborNode]:
    """`:is()` and `:not()` where an argument needs filters. Their chains may begin anywhere on the page."""
    top = nodes[0].parser.root if nodes else None
    matches = {node.mem_id for steps in arguments for node in find(steps, top)} if top is not None else set()
    return [node for node in nodes if (node.mem_id in matches) is wanted]


def having(arguments: Sequence[Steps], nodes: list[LexborNode]) -> list[LexborNode]:
    """`:has()` where an argument needs filters."""
    return [node for node in nodes if any(find(steps, node) for steps in arguments)]
