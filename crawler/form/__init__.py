"""HTML forms: found on a page, filled in, and made into the request that a browser would send.

The rules are those of the HTML Standard, "Form control infrastructure" and "Form submission" (section 4.10.17 to
4.10.22), for a visitor without scripts: which controls a form has, what each contributes, how the whole is encoded.
`controls` reads them from the tree, `owners` tells whose they are where the tree alone does not, `entries` makes the
list of names and values, `submission` encodes it.

Where it differs from a browser, on purpose: a disabled default button is passed over, since on a live page a script
would enable it; a submit `<input>` without a value is worth `Submit`, which is the label that Chromium sends (the
Standard has an empty text); and a file that the form's encoding could not carry is an error instead of its bare name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crawler.errors import InvalidURL
from crawler.form.controls import BUTTONS, Control, Page
from crawler.form.entries import choices_of, current, entries, listed, shortened
from crawler.form.owners import FORM
from crawler.form.submission import charset_of, encoding_of, submission
from crawler.request import Request
from crawler.url import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from selectolax.lexbor import LexborHTMLParser, LexborNode

    from crawler.response import Response

__all__ = ["Form"]

_SHOWN = 20
_SECRET = ("hidden", "password")


class Form:
    """One form of a page; `response.form(css)` finds it, `fill` makes the request.

        yield response.form("#login").fill(user="ada", password="…", callback=self.parse_account)

    Hidden fields, such as tokens, go along by themselves, and so does what the page has filled in or checked.

    For who knows Scrapy's `FormRequest.from_response`: `formdata` is what `fill` takes, with None for a field that is
    to be left out; `formname`, `formid` and `formcss` are the selector (`form[name=x]`, `#id`), `formnumber` is the
    `index`; `clickdata` is `click`, and `dont_click=True` is `click=False`.
    """

    __slots__ = ("_controls", "_encoding", "_response", "_tree", "attributes")

    def __init__(self, response: Response, page: Page, node: LexborNode) -> None:
        self.attributes: dict[str, str] = {name: value or "" for name, value in node.attributes.items() if name != FORM}
        """Those of the element; one without a value has `""`."""
        self._response = response
        self._tree: LexborHTMLParser = page.tree
        self._controls = page.controls(node)
        self._encoding = encoding_of(self.attributes.get("accept-charset", ""), response.encoding)

    @classmethod
    def find(cls, response: Response, css: str = "form", index: int = 0) -> Form:
        """The form that `css` selects, or the form of the element that it selects: the first, or the one at `index`.

        Raises ValueError, which lists the forms of the page, where there is none.
        """
        from crawler.selector import Selector

        page = Page(response)
        forms: dict[int, LexborNode] = {}
        for selected in Selector.from_html(page.tree).css(css):
            form = None if isinstance(selected.root, str) else page.form_of(selected.root)
            if form is not None:
                forms.setdefault(form.mem_id, form)
        try:
            node = list(forms.values())[index]
        except IndexError:
            known = "\n  ".join(map(_described, page.forms[:_SHOWN]))
            raise ValueError(
                f"{redact(response.url)} has no form at index {index} for {css!r}; "
                + (f"its forms are:\n  {known}" if page.forms else "it has no forms at all")
            ) from None
        return cls(response, page, node)

    # -- what it says --------------------------------------------------------------------------------------------------

    @property
    def action(self) -> str:
        """Where it is sent to: an absolute URL, or what the page says where that is none that a crawler fetches."""
        try:
            return self._address(None)
        except InvalidURL:
            return self.attributes.get("action", "")

    @property
    def method(self) -> str:
        """`"GET"`, `"POST"` or `"DIALOG"`."""
        return self._said("method", None, ("post", "dialog"), "get").upper()

    @property
    def enctype(self) -> str:
        """How a POST is encoded: `application/x-www-form-urlencoded`, `multipart/form-data` or `text/plain`."""
        return self._enctype(None)

    @property
    def fields(self) -> dict[str, str | list[str] | None]:
        """The names that can be filled in, in the order of the page, and what would be sent as it stands.

        None for a field that would send nothing (an unchecked box), a list where several values may be; buttons are
        not among them.
        """
        groups: dict[str, list[Control]] = {}
        for control in self._controls:
            if control.name and control.is_field:
                groups.setdefault(control.name, []).append(control)
        return {name: current(group) for name, group in groups.items()}

    @property
    def buttons(self) -> list[tuple[str, str]]:
        """Name and value of each button that submits; for one without a value its text."""
        return [(control.name, control.value or control.label) for control in self._controls if control.kind in BUTTONS]

    def choices(self, name: str) -> list[str]:
        """The values that a list, a group of radio buttons or check boxes offers. Raises ValueError for other names."""
        controls = [control for control in self._controls if control.name == name and control.is_field]
        offered = choices_of(controls)
        if not offered:
            raise ValueError(f"{name!r} of {self!r} offers no choice")
        return offered

    def __repr__(self) -> str:
        secret = {control.name for control in self._controls if control.kind in _SECRET}
        fields = (
            name if name in secret or value is None else f"{name}={shortened(value)}"
            for name, value in self.fields.items()
        )
        return f"<Form {self.method} {redact(self.action)} {listed(fields, ' ')}".rstrip() + ">"

    # -- the request ---------------------------------------------------------------------------------------------------

    def fill(
        self,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        click: str | bool | None = None,
        extra: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        callback: Any = None,
        request: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> Request:
        """The request of this form with these fields filled in; what is not named stays as the page has it.

        Fields are named as keywords, or in a mapping for names that are no identifiers. A value is a text or a number;
        True and False check and uncheck a box; a list gives several values; None leaves the field out; a file field
        takes `FilePath(path)`. `extra` adds fields that the form does not have, `request` further arguments of
        `Request`; its session is that of the page.

        `click` is the button to press: its name, its value, its text, or a CSS selector. By default it is the first
        button that submits, as when Enter is pressed; False presses none. A button brings its own name and value, and
        its `formaction`, `formmethod` and `formenctype` win.

        Raises ValueError for a field that the form does not have (with the names it has), a value that a list or radio
        button does not offer, a button that is not there or not the only one, and a form that cannot be sent: its
        method is `dialog`, or its action is no http(s) URL (`InvalidURL`). TypeError for a value of another type.
        """
        button = self._button(click)
        method = self._said("method", button, ("post", "dialog"), "get")
        if method == "dialog":
            raise ValueError(f"{self!r} has the method dialog: it closes a dialog, and sends nothing")
        pairs = entries(self._controls, {**(fields or {}), **named}, button, extra, charset_of(self._encoding))
        arguments = submission(self._address(button), method, self._enctype(button), pairs, self._encoding)
        own = dict(request or {})
        if "headers" in arguments and own.get("headers"):
            headers = own["headers"]
            pairs_given = list(headers.items() if hasattr(headers, "items") else headers)
            named_headers = {name.lower() for name, _ in pairs_given}
            kept = [pair for pair in arguments["headers"] if pair[0].lower() not in named_headers]
            own["headers"] = [*kept, *pairs_given]
        session = self._response.request.session  # a form's tokens belong to the visitor who was shown it
        return Request(**{"session": session, **arguments, "callback": callback, **own})

    def _button(self, click: str | bool | None) -> Control | None:
        buttons = [control for control in self._controls if control.kind in BUTTONS]
        if click is False:
            return None
        if click is None or click is True:
            return next((button for button in buttons if not button.is_disabled), None)
        found = (
            [button for button in buttons if button.name == click]
            or [button for button in buttons if click in (button.value, button.label)]
            or self._selected(click, buttons)
        )
        if len(found) == 1:
            return found[0]
        many = "several buttons" if found else "no button"
        known = listed(f"{name or '-'}={shortened(value)}" for name, value in self.buttons)
        raise ValueError(f"{many} of {self!r} for click={click!r}; its buttons are: {known}")

    def _selected(self, css: str, buttons: list[Control]) -> list[Control]:
        from crawler.selector import Selector

        try:
            found = Selector.from_html(self._tree).css(css)
        except ValueError:  # it was a text
            return []
        ids = {selected.root.mem_id for selected in found if not isinstance(selected.root, str)}
        return [button for button in buttons if button.mem_id in ids]

    def _said(self, name: str, button: Control | None, known: tuple[str, ...], default: str) -> str:
        """What the button says of the submission, else the form."""
        own = button.attributes.get(f"form{name}") if button is not None else None
        said = (self.attributes.get(name, "") if own is None else own).lower()
        return said if said in known else default

    def _enctype(self, button: Control | None) -> str:
        known = ("multipart/form-data", "text/plain")
        return self._said("enctype", button, known, "application/x-www-form-urlencoded")

    def _address(self, button: Control | None) -> str:
        own = button.attributes.get("formaction") if button is not None else None
        action = self.attributes.get("action", "") if own is None else own
        return self._response.urljoin(action) if action else self._response.url


def _described(form: LexborNode) -> str:
    attributes = form.attributes
    telling = [name for name in ("id", "name", "class", "method", "action") if name in attributes]
    return " ".join(["<form", *(f"{name}={shortened(redact(attributes[name] or ''))}" for name in telling)]) + ">"
