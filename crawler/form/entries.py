"""The entry list: names and values in the order in which they are sent (section 4.10.22.4 of the HTML Standard), those
of the page and those filled in."""

from __future__ import annotations

from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from crawler.body import FilePath
from crawler.form.controls import BUTTONS
from crawler.item import type_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from crawler.form.controls import Control

__all__ = ["NO_FILE", "Entry", "choices_of", "current", "entries", "listed", "shortened"]

NO_FILE: Final = FilePath("")
"""What a file field sends while no file is chosen."""
Entry: TypeAlias = tuple[str, "str | FilePath"]

_CHOICES = frozenset({"checkbox", "radio", "select"})
_SHOWN = 20
_SHOWN_CHARS = 40


def entries(
    controls: Sequence[Control],
    given: Mapping[str, Any],
    button: Control | None,
    extra: Mapping[str, Any] | Iterable[tuple[str, Any]] | None,
    charset: str,
) -> list[Entry]:
    """What a form sends. Raises ValueError for a field or a choice that it does not have, TypeError for a value of a
    wrong type."""
    names = {control.name for control in controls if control.name and control.is_field}
    filled: dict[int, list[str | FilePath]] = {}
    for name, value in given.items():
        if name not in names:
            raise ValueError(_unknown(name, names, controls))
        group = [control for control in controls if control.name == name and control.is_field]
        filled.update(_filled(name, group, value))
    sent: list[Entry] = []
    for control in controls:
        if not control.is_field:
            sent += _pressed(control) if button is not None and control.mem_id == button.mem_id else []
            continue
        values: list[str | FilePath] = []
        if control.mem_id in filled:
            values = filled[control.mem_id]
        elif control.name and not control.is_disabled:
            is_charset = control.kind == "hidden" and control.name.lower() == "_charset_"
            values = [charset] if is_charset else _own(control)
        sent += [(control.name, value) for value in values]
        if values and control.kind not in _CHOICES and (directed := control.attributes.get("dirname")):
            sent.append((directed, control.direction))
    pairs = (extra.items() if hasattr(extra, "items") else extra) if extra is not None else ()
    return sent + [(name, value) for name, values in pairs for value in _values(name, values)]


def current(group: Sequence[Control]) -> str | list[str] | None:
    """What the fields of one name send as they stand."""
    values = [
        value.path if isinstance(value, FilePath) else value
        for control in group
        if not control.is_disabled
        for value in _own(control)
        if value is not NO_FILE
    ]
    if _is_single(group):
        return values[0] if values else None
    return values or None


def choices_of(group: Sequence[Control]) -> list[str]:
    """The values that a visitor could choose, each once."""
    offered = []
    for control in _enabled(group):
        if control.kind == "select":
            offered += [option.value for option in control.options if not option.is_disabled]
        elif control.kind in _CHOICES:
            offered.append(control.value)
    return list(dict.fromkeys(offered))


def _own(control: Control) -> list[str | FilePath]:
    """What an enabled field sends by itself."""
    if control.kind == "select":
        return [option.value for option in control.options if option.is_selected and not option.is_disabled]
    if control.kind in ("checkbox", "radio"):
        return [control.value] if control.is_checked else []
    return [NO_FILE] if control.kind == "file" else [control.value]


def _pressed(button: Control) -> list[Entry]:
    if button.kind == "image":
        prefix = f"{button.name}." if button.name else ""
        return [(f"{prefix}x", "0"), (f"{prefix}y", "0")]
    return [(button.name, button.value)] if button.name else []


def _is_single(group: Sequence[Control]) -> bool:
    """Whether at most one value can be sent under their name."""
    return all(control.kind == "radio" for control in group) or (len(group) == 1 and not group[0].is_multiple)


def _enabled(group: Sequence[Control]) -> Sequence[Control]:
    """Those that can be filled in; all of them where all are disabled, since then a script is to enable them."""
    return [control for control in group if not control.is_disabled] or group


# -- filling in --------------------------------------------------------------------------------------------------------


def _filled(name: str, group: Sequence[Control], value: Any) -> dict[int, list[str | FilePath]]:
    """What each control of one name sends, by its `mem_id`; one that is not there sends what the page has in it."""
    if value is None:
        return {control.mem_id: [] for control in group}
    enabled = _enabled(group)
    choices = [control for control in enabled if control.kind in _CHOICES]
    if isinstance(value, bool):
        return _ticked(name, choices, is_on=value)
    values = _values(name, value)
    for one in values:
        if isinstance(one, FilePath) is not any(control.kind == "file" for control in enabled):
            kind = "takes FilePath(path)" if not isinstance(one, FilePath) else "takes no file"
            raise TypeError(f"the form field {name!r} {kind}")
    if not choices:
        return _typed(enabled, values)
    return _chosen(name, group, choices, values)


def _typed(controls: Sequence[Control], values: list[str | FilePath]) -> dict[int, list[str | FilePath]]:
    """One value for each; what is left goes with the last."""
    last = len(controls) - 1
    return {control.mem_id: values[at:] if at == last else values[at : at + 1] for at, control in enumerate(controls)}


def _ticked(name: str, choices: Sequence[Control], *, is_on: bool) -> dict[int, list[str | FilePath]]:
    boxes = [control for control in choices if control.kind == "checkbox"]
    if len(boxes) != len(choices) or not boxes:
        raise TypeError(f"True and False are for check boxes, and the form field {name!r} is none")
    if is_on and len(boxes) > 1:
        raise ValueError(f"the form has {len(boxes)} boxes {name!r}: name the values to check")
    return {box.mem_id: [box.value] if is_on else [] for box in boxes}


def _chosen(
    name: str, group: Sequence[Control], choices: Sequence[Control], values: list[str | FilePath]
) -> dict[int, list[str | FilePath]]:
    """Boxes are checked and lines selected; a hidden field of the name, which stands for "not checked", stays."""
    offered = choices_of(choices)
    hidden = [control.value for control in group if control.kind not in _CHOICES]
    for value in values:
        if value not in offered and value not in hidden:
            raise ValueError(
                f"the form field {name!r} does not offer {value!r}, but {listed(map(shortened, offered)) or 'nothing'}"
                f"; to send it nevertheless, {name}=None and extra={{{name!r}: {value!r}}}"
            )
    if len(values) > 1 and _is_single(choices):
        raise ValueError(f"the form field {name!r} takes one value, not {len(values)}")
    left = list(values)
    sent: dict[int, list[str | FilePath]] = {}
    for control in choices:
        sent[control.mem_id] = []
        for offer in choices_of([control]):
            if offer in left:
                left.remove(offer)
                sent[control.mem_id].append(offer)
    return sent


def _values(name: str, given: Any) -> list[str | FilePath]:
    several = given if isinstance(given, list | tuple | set | frozenset) else [given]
    return [_value(name, value) for value in several]


def _value(name: str, value: Any) -> str | FilePath:
    if isinstance(value, str | FilePath):
        return value
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"the form field {name!r} takes a text, a number, a list of those or None, not {type_name(value)}")


def _unknown(name: str, names: Iterable[str], controls: Iterable[Control]) -> str:
    from difflib import get_close_matches

    known = sorted(names)
    if any(control.name == name for control in controls if control.kind in BUTTONS):
        return f"{name!r} is a button of the form: press it with `click`, by its name or value"
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"the form has no field {name!r}{hint} (it has {listed(known) or 'none'}; `extra` adds others)"


def listed(texts: Iterable[str], separator: str = ", ") -> str:
    """For a message: the first of what may be thousands, and none of them long."""
    first = [
        text if len(text) <= 2 * _SHOWN_CHARS else f"{text[: 2 * _SHOWN_CHARS]}…" for text in islice(texts, _SHOWN + 1)
    ]
    return separator.join([*first[:_SHOWN], "…"] if len(first) > _SHOWN else first)


def shortened(value: str | list[str]) -> str:
    """For a message."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}…"
