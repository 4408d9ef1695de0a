"""Where the elements of a page point to."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from crawler.item import type_name
from crawler.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["attribute_of", "reference_of", "references_of"]

_LINK_ATTRIBUTES = {"a": "href", "area": "href", "link": "href", "base": "href"}
_WORDS = re.compile(r"[\w\s.#>+~,\[\]-]+")
_TYPE = re.compile(r"[a-z]+(?![\w-])")


@lru_cache(maxsize=256)
def attribute_of(query: str) -> str | None:
    """Where all elements that this query finds have their address, if its words tell without asking each: mostly the
    query ends in `a`."""
    if not _WORDS.fullmatch(query):
        return None
    subjects = [re.split(r"[\s>+~]+", part.strip())[-1] for part in query.split(",")]
    types = [_TYPE.match(subject) for subject in subjects]
    found = {"" if type is None else _LINK_ATTRIBUTES.get(type[0], "src") for type in types}
    return None if "" in found or len(found) > 1 else found.pop()


def reference_of(node: Any) -> str | None:
    """The address an element points to: `href` of links, else `src`; the text of an attribute selector itself.

    Raises TypeError for what is none of these."""
    if isinstance(node, str):
        return node
    if isinstance(node, Selector):
        if isinstance(node.root, str):
            return node.root
        node = node.root
    attributes = getattr(node, "attributes", None)
    if attributes is None:
        raise TypeError(f"a link is a reference, a selector of one element, or an element, not a {type_name(node)}")
    found = attributes.get(_LINK_ATTRIBUTES.get(node.tag, "src"))
    return found if isinstance(found, str) else None


def references_of(nodes: Iterable[Any]) -> list[str]:
    return [reference for node in nodes if (reference := reference_of(node)) is not None]
