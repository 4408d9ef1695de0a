"""URLs, and texts that may have some in them, as they may be shown: without what lets somebody in.

Hidden are user and password, and the values of parameters that are known to carry secrets. Names are compared whole:
`token` is one, `tokenizer` is not, and neither is `key`, which on the open web is mostly the number of a page. Records
of a job hold URLs with their parameters, since a page is looked up by them; they are for the job's owner alone, and
pass through here when they are shown.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["redact", "redact_refused", "redact_text", "without_userinfo"]

_BEFORE_USERINFO = r"\A([\x00-\x20]*+(?:[A-Za-z][A-Za-z0-9+.\-]*+:)?+[/\\]*+)"
_USERINFO: Final = re.compile(_BEFORE_USERINFO + r"[^/\\?#]*@")
_UP_TO_LAST_AT: Final = re.compile(_BEFORE_USERINFO + r".*@", re.DOTALL)
_HIDDEN = r"\1***@"
_TAB_OR_NEWLINE: Final = str.maketrans("", "", "\t\n\r")
# OAuth (RFC 6750, section 2.3; RFC 6749), signed links of AWS, Google, Azure and Alibaba, and what APIs call it.
_NAMES = (
    "access[_-]?token|api[_-]?key|api[_-]?secret|app[_-]?secret|apikey|auth|auth[_-]?token|authorization|bearer|"
    "client[_-]?secret|credentials?|csrf[_-]?token|id[_-]?token|jwt|pass|passwd|password|private[_-]?key|"
    "private[_-]?token|pwd|refresh[_-]?token|secret|secret[_-]?key|security[_-]?token|session[_-]?token|sig|signature|"
    "sslpassword|subscription[_-]?key|token|awsaccesskeyid|x-(?:amz|goog|oss)-(?:credential|security-token|signature)"
)
_PARAMETER: Final = re.compile(rf"([?&;#](?:{_NAMES})=)[^&#]+", re.IGNORECASE)
_PARAMETER_IN_TEXT: Final = re.compile(rf"""([?&;#](?:{_NAMES})=)[^&#\s"'<>()\[\]{{}}]+""", re.IGNORECASE)
_USERINFO_IN_TEXT: Final = re.compile(r"""([A-Za-z]:[/\\]{2})[^/\\?#\s"'<>]*@""")


def redact(url: str) -> str:
    """The URL with `***` in place of user and password, and of the value of each parameter that is a secret by its
    name. Any string will do, valid or not."""
    if "@" in url:
        url = without_userinfo(url)
    return _PARAMETER.sub(r"\1***", url) if "=" in url else url


def without_userinfo(url: str) -> str:
    """The URL with `***` in place of user and password: as records have it. Any string will do."""
    if "@" not in url:
        return url
    text, found = _USERINFO.subn(_HIDDEN, url.translate(_TAB_OR_NEWLINE))
    return text if found else url


def redact_refused(text: str) -> str:
    """What is no URL, with `***` for all that could have been meant as a user and a password."""
    shown = _UP_TO_LAST_AT.sub(_HIDDEN, text)
    return _PARAMETER.sub(r"\1***", shown) if "=" in shown else shown


def redact_text(text: str) -> str:
    """A text with the same hidden in every absolute URL, and every query, that stands in it."""
    if "@" in text:
        text = _USERINFO_IN_TEXT.sub(_HIDDEN, text)
    return _PARAMETER_IN_TEXT.sub(r"\1***", text) if "=" in text else text
