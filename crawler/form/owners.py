"""Whose a control is, where the tree does not tell.

In the HTML of a page a form begins and ends at its tags, but an element of the tree ends where its parent does. In
`<table><form><tr><td><input>` the parser closes the form at once, since no form may stand in a table there, and in
`<div><form></div><input></form>` together with the `div`. For both the Standard keeps a "form element pointer" (section
13.2.4.4): a control belongs to the form whose tag was read last and whose end tag was not. The tree shows nothing of
that pointer, so such a page is read once more with each tag's form written into it, as an attribute.
"""

from __future__ import annotations

import re

__all__ = ["FORM", "OWNER", "marked"]

FORM = "data-crawler-form"
"""The number of a form, on the form."""
OWNER = "data-crawler-owner"
"""The number of its form, on a control."""

# Attributes as the tokenizer has them: a quote counts right after `=` alone, and what is never closed runs to the end.
# Every repetition is possessive, so the time is linear in the page.
_ATTRIBUTES = r"""(?:=[\s]*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))|[^>])*+(?:>|\Z)"""
_MARKUP = re.compile(
    rf"""
      <!--(?:>|->|.*?(?:--!?>|\Z))
    | <(?P<raw>script|style|textarea|title|xmp|iframe|noembed|noframes)(?=[\s/>])(?P<inside>{_ATTRIBUTES}
        .*?(?:</(?P=raw)(?=[\s/>])|\Z))
    | <(?P<name>/?(?:form|template)|input|select|button)(?=[\s/>])(?P<rest>{_ATTRIBUTES})
    | </?[a-z]{_ATTRIBUTES}
    | <[!?/][^>]*+
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def marked(html: str) -> str:
    """The page with `FORM` and `OWNER` on its forms and controls; a `<form>` that the parser would drop has none."""
    forms = 0
    pointer: int | None = None
    templates = 0

    def mark(tag: re.Match[str]) -> str:
        nonlocal forms, pointer, templates
        name = (tag["name"] or tag["raw"] or "").lower()
        if name.endswith("template"):
            templates = templates + 1 if name == "template" else max(0, templates - 1)
        elif templates or not name:
            pass
        elif name == "/form":
            pointer = None
        elif name == "form":
            if pointer is None:
                forms += 1
                pointer = forms
                return f'<{tag["name"]} {FORM}="{forms}"{tag["rest"]}'
        elif pointer is not None and name in ("input", "select", "button", "textarea"):
            return f'<{tag["name"] or tag["raw"]} {OWNER}="{pointer}"{tag["rest"] or tag["inside"]}'
        return tag[0]

    return _MARKUP.sub(mark, html)
