"""The controls of a page's forms, as plain values in the order of the tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from crawler.form.owners import FORM, OWNER, marked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from selectolax.lexbor import LexborHTMLParser, LexborNode

    from crawler.response import Response

__all__ = ["BUTTONS", "Control", "Option", "Page"]

_CONTROLS = "input, select, textarea, button"
_LINE_BREAKS = str.maketrans("", "", "\r\n")
_WHITESPACE = "\t\n\f\r "

BUTTONS = frozenset({"submit", "image"})
"""The kinds of control that submit."""
_INERT = frozenset({"reset", "button"})
_KINDS = frozenset({"hidden", "password", "checkbox", "radio", "file", "email", "url", "number", "range", "color"})


class Option(NamedTuple):
    """One line of a `<select>`."""

    value: str
    is_selected: bool
    is_disabled: bool


class Control(NamedTuple):
    """What one element can contribute."""

    kind: str
    """`select`, `textarea`, `submit`, `image`, an input's own type where it matters, else `text`."""
    name: str
    value: str
    is_disabled: bool
    is_checked: bool
    is_multiple: bool
    options: tuple[Option, ...]
    label: str
    """The text of a `<button>`."""
    direction: str
    """`ltr` or `rtl`, for `dirname`."""
    mem_id: int
    attributes: Mapping[str, str | None]

    @property
    def is_field(self) -> bool:
        return self.kind not in BUTTONS


class _Surroundings(NamedTuple):
    """What holds for everything inside an element."""

    form: LexborNode | None
    is_disabled: bool
    is_suggestion: bool
    """In a `<datalist>`: never sent."""
    direction: str


class Page:
    """Forms and controls of one page. Each element's surroundings are worked out once, however deep it lies."""

    def __init__(self, response: Response) -> None:
        self.tree: LexborHTMLParser = response.html
        self._surroundings: dict[int, _Surroundings] = {}
        self._is_marked = False
        if self.tree.css_first("form") is not None and any(map(self._is_astray, self.tree.css(_CONTROLS))):
            from selectolax.lexbor import LexborHTMLParser

            self.tree = LexborHTMLParser(marked(response.text))
            self._surroundings = {}
            self._is_marked = True
        self.forms = self.tree.css("form")
        self._numbered = {form.attributes.get(FORM): form for form in self.forms}
        self._named: dict[str, LexborNode] | None = None

    def form_of(self, node: LexborNode) -> LexborNode | None:
        """The form that an element is, belongs to or lies in."""
        if node.tag == "form":
            return node
        attributes = node.attributes
        if node.tag in _CONTROLS.split(", "):
            if "form" in attributes:
                return self._by_id(attributes["form"] or "")
            if self._is_marked and OWNER in attributes:
                return self._numbered.get(attributes[OWNER])
        parent = node.parent
        return self._around(parent).form if parent is not None else None

    def controls(self, form: LexborNode) -> list[Control]:
        """Those of one form, in the order of the page."""
        found = []
        for node in self.tree.css(_CONTROLS):
            owner = self.form_of(node)
            if owner is not None and owner.mem_id == form.mem_id and (control := self._control(node)) is not None:
                found.append(control)
        return found

    def _control(self, node: LexborNode) -> Control | None:
        around = self._around(node.parent) if node.parent is not None else _NOWHERE
        attributes = node.attributes
        kind = _kind(node.tag or "", (attributes.get("type") or "").lower())
        if kind in _INERT or around.is_suggestion:
            return None
        options: tuple[Option, ...] = ()
        is_multiple = "multiple" in attributes
        if kind == "select":
            options = _options(node, is_multiple=is_multiple, size=attributes.get("size") or "")
        return Control(
            kind,
            attributes.get("name") or "",
            _value(node, kind),
            is_disabled=around.is_disabled or "disabled" in attributes,
            is_checked="checked" in attributes,
            is_multiple=is_multiple,
            options=options,
            label=_collapsed(node.text()) if node.tag == "button" else "",
            direction=_direction(attributes, around.direction),
            mem_id=node.mem_id,
            attributes=attributes,
        )

    def _is_astray(self, node: LexborNode) -> bool:
        """Whether the tree has no form for it: then it has none, or the tree does not tell."""
        parent = node.parent
        return "form" not in node.attributes and (parent is None or self._around(parent).form is None)

    def _by_id(self, name: str) -> LexborNode | None:
        if self._named is None:
            self._named = {}
            for node in self.tree.css("[id]"):
                self._named.setdefault(node.attributes["id"] or "", node)
        found = self._named.get(name) if name else None
        return found if found is not None and found.tag == "form" else None

    def _around(self, node: LexborNode) -> _Surroundings:
        """What holds inside `node`; a loop and not a recursion, as a page may be nested ten thousand deep."""
        chain: list[LexborNode] = []
        here: LexborNode | None = node
        while here is not None and here.mem_id not in self._surroundings:
            chain.append(here)
            here = here.parent
        around = _NOWHERE if here is None else self._surroundings[here.mem_id]
        outer = _NOWHERE  # of the parent: for a legend, which is not in what its fieldset disables
        if here is not None and here.parent is not None:
            outer = self._surroundings[here.parent.mem_id]
        for inner in reversed(chain):
            around, outer = self._inside(inner, around, outer), around
            self._surroundings[inner.mem_id] = around
        return around

    def _inside(self, node: LexborNode, around: _Surroundings, outer: _Surroundings) -> _Surroundings:
        tag = node.tag
        attributes = node.attributes
        is_disabled = around.is_disabled
        if tag == "fieldset" and "disabled" in attributes:
            is_disabled = True
        elif tag == "legend" and _is_first_legend(node):
            is_disabled = outer.is_disabled
        return _Surroundings(
            node if tag == "form" else around.form,
            is_disabled,
            around.is_suggestion or tag == "datalist",
            _direction(attributes, around.direction),
        )


_NOWHERE = _Surroundings(form=None, is_disabled=False, is_suggestion=False, direction="ltr")


def _is_first_legend(node: LexborNode) -> bool:
    parent = node.parent
    if parent is None or parent.tag != "fieldset":
        return False
    before = node.prev
    while before is not None:
        if before.tag == "legend":
            return False
        before = before.prev
    return True


def _kind(tag: str, written: str) -> str:
    if tag == "button":
        return written if written in _INERT else "submit"
    if tag != "input":
        return tag
    return written if written in _KINDS or written in BUTTONS or written in _INERT else "text"


def _direction(attributes: Mapping[str, str | None], inherited: str) -> str:
    said = (attributes.get("dir") or "").lower()
    return said if said in ("ltr", "rtl") else inherited


def _value(node: LexborNode, kind: str) -> str:
    """The value that the page gives, as the value sanitization algorithm of its type leaves it."""
    if kind == "textarea":
        return node.text()
    written = node.attributes.get("value")
    value = written or ""
    if kind in ("checkbox", "radio"):
        return "on" if "value" not in node.attributes else value
    if kind == "submit" and node.tag == "input":
        return "Submit" if "value" not in node.attributes else value
    if kind in ("text", "password"):
        return value.translate(_LINE_BREAKS)
    if kind in ("email", "url"):
        return value.translate(_LINE_BREAKS).strip(_WHITESPACE)
    if kind == "color":
        return value.lower() if re.fullmatch(r"#[0-9a-fA-F]{6}", value) else "#000000"
    if kind == "number":
        return value if _is_number(value) else ""
    return value if kind != "range" or _is_number(value) else "50"


def _is_number(text: str) -> bool:
    """A valid floating-point number (section 2.3.4.3)."""
    return re.fullmatch(r"-?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?", text, re.ASCII) is not None


def _options(select: LexborNode, *, is_multiple: bool, size: str) -> tuple[Option, ...]:
    options = []
    for node in select.css("option"):
        attributes = node.attributes
        group = node.parent
        is_disabled = "disabled" in attributes or (
            group is not None and group.tag == "optgroup" and "disabled" in group.attributes
        )
        value = attributes["value"] or "" if "value" in attributes else _collapsed(node.text())
        options.append(Option(value, "selected" in attributes, is_disabled))
    if is_multiple:
        return tuple(options)
    # "Ask for a reset": one line at most, the last that is marked; a drop-down shows its first line where none is.
    chosen = next((at for at in reversed(range(len(options))) if options[at].is_selected), None)
    is_list = size.strip(_WHITESPACE).isdecimal() and int(size) > 1
    if chosen is None and not is_list:
        chosen = next((at for at, option in enumerate(options) if not option.is_disabled), None)
    return tuple(option._replace(is_selected=at == chosen) for at, option in enumerate(options))


def _collapsed(text: str) -> str:
    return re.sub(rf"[{_WHITESPACE}]+", " ", text).strip(" ")
