"""Values that are more than a number or a text: sets of status codes, and the checks of texts that must mean something.

A check gives its text back as the settings hold it, or raises `Unfit` with what was expected.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from crawler.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "STATUSES",
    "StatusSet",
    "Unfit",
    "check_address",
    "check_addresses",
    "check_auth",
    "check_fingerprint",
    "check_frontier",
    "check_function",
    "check_header",
    "check_header_name",
    "check_host",
    "check_host_headers",
    "check_host_name",
    "check_listen",
    "check_name",
    "check_nameserver",
    "check_network",
    "check_proxy",
    "check_socket",
    "check_token",
    "check_user_agent",
]


class StatusSet(frozenset[int]):
    """HTTP status codes: `StatusSet([404, "500-599"])` or `StatusSet("404 500-599")`, ranges with both ends.

    `503 in statuses` is a set lookup. `str` gives the shortest such text and `StatusSet(str(statuses)) == statuses`.
    Codes have three digits (RFC 9110 section 15). Raises `SettingsError` for anything else.
    """

    def __new__(cls, parts: Iterable[int | str] | str = ()) -> StatusSet:
        codes: set[int] = set()
        for part in [parts] if isinstance(parts, str) else parts:
            if isinstance(part, int) and not isinstance(part, bool):
                codes.update(_status_range(str(part)))
            elif isinstance(part, str):
                for word in part.replace(",", " ").split():
                    codes.update(_status_range(word))
            else:
                raise SettingsError(f"expected {STATUSES}, got {part!r}")
        return super().__new__(cls, codes)

    def parts(self) -> list[int | str]:
        """Codes and ranges in rising order, as a TOML list holds them: `[404, "500-599"]`."""
        runs: list[list[int]] = []
        for code in sorted(self):
            if runs and code == runs[-1][1] + 1:
                runs[-1][1] = code
            else:
                runs.append([code, code])
        return [first if first == last else f"{first}-{last}" for first, last in runs]

    def __str__(self) -> str:
        return " ".join(map(str, self.parts()))

    def __repr__(self) -> str:
        return f"StatusSet({str(self)!r})"


STATUSES = 'status codes from 100 to 999, such as 404, and ranges, such as "500-599"'


def _status_range(text: str) -> range:
    found = re.fullmatch(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?", text)
    if not found or (found[2] and found[2] < found[1]):
        raise SettingsError(f"expected {STATUSES}, got {text!r}")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


class Unfit(Exception):
    """Says what was expected; never leaves this package."""


_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2


def check_host(text: str) -> str:
    """A host with or without port, spelled as URLs have it after parsing: lower case, IDNA, `127.0.0.1` for `127.1`."""
    import can_ada

    if found := re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@*\\\[\]]+)(:[0-9]{1,5})?", text):
        with contextlib.suppress(ValueError):
            return f"{can_ada.parse(f'http://{found[1]}').hostname}{found[2] or ''}"
    raise Unfit('a host with or without port and without scheme, such as "example.com:443"')


def check_header(name: str, value: str) -> tuple[str, str]:
    """For everybody, and so no secret: every site that a link leads to would be told it (CVE-2026-40895)."""
    field = _field(name, value)
    if _SECRET_WORD.search(name):
        raise Unfit(
            "a header that every site may see, and by its name this is a secret. Bind it to its host: "
            f'http.host_headers."example.com" = "{name}: …"'
        )
    return field


def _field(name: str, value: str) -> tuple[str, str]:
    if not re.fullmatch(_NAME, name):
        raise Unfit("a header name (RFC 9110 section 5.1)")
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]", value.strip()):
        raise Unfit("a header value without control characters (RFC 9110 section 5.5)")
    return name, value.strip()


_SECRET_WORD = re.compile(
    "(?<![a-z])(?:apikey|auth|authentication|authorization|authtoken|bearer|cookie|credentials?|csrf|jwt|key|passwd|"
    "password|secret|session|sessionid|sid|signature|token|xsrf)(?![a-z])",
    re.IGNORECASE,
)
"""In the name of a header, each of these says that its value is for one site."""


def check_host_headers(owner: str, value: str) -> tuple[str, str]:
    fields = []
    for line in value.strip().splitlines():
        name, colon, text = line.partition(":")
        if not colon:
            raise Unfit('headers as they are sent, one a line, such as "X-Api-Key: …"')
        if name.strip().lower() == "proxy-authorization":
            raise Unfit("headers for a site; credentials of a proxy stand in proxy.urls")
        fields.append(": ".join(_field(name.strip(), text)))
    if not fields:
        raise Unfit('headers as they are sent, one a line, such as "X-Api-Key: …"')
    return _owner(owner), "\n".join(fields)


def check_fingerprint(host: str, value: str) -> tuple[str, str]:
    digits = value.lower().removeprefix("sha256:").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise Unfit("64 hexadecimal digits, the SHA-256 of a certificate")
    return check_host(host), digits


def check_header_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise Unfit("header names (RFC 9110 section 5.1)")
    return name


def check_auth(owner: str, value: str) -> tuple[str, str]:
    """`owner` is a host with or without port, or an origin; the password may hold colons (RFC 7617, section 2)."""
    if ":" not in value or re.search(r"[\x00-\x1f\x7f]", value):
        raise Unfit("user:password")
    return _owner(owner), value


def _owner(text: str) -> str:
    """Whom a secret is for."""
    scheme, slashes, host = text.rpartition("://")
    if scheme.lower() not in ("", "http", "https") or host.endswith("/"):
        raise Unfit('a host or an origin, such as "example.com:8080" or "https://example.com"')
    return f"{scheme.lower()}{slashes}{check_host(host)}"


def check_socket(host: str, path: str) -> tuple[str, str]:
    if not path:
        raise Unfit("the path of a socket")
    return check_host(host), path


def check_address(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.strip("[] ")))
    except ValueError:
        raise Unfit("an IP address") from None


def check_addresses(name: str, text: str) -> tuple[str, str]:
    host = check_host(name)
    addresses = [check_address(word) for word in text.replace(",", " ").split()]
    if not addresses or host.rpartition(":")[2].isdigit():
        raise Unfit("a name without port, and IP addresses")
    return host, ", ".join(addresses)


def check_function(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text):
        raise Unfit('a function as "module:function"')
    return text


def check_user_agent(text: str) -> str:
    if not re.fullmatch(rf"{_NAME}([/ ][ -~]*)?", text):
        raise Unfit("a product token and what else there is to say, in ASCII (RFC 9110 section 10.1.5)")
    return text


def check_nameserver(text: str) -> str:
    import ipaddress

    with_port = re.fullmatch(r"(?:\[(.+)\]|([^:]+)):[0-9]{1,5}", text)
    try:
        ipaddress.ip_address((with_port[1] or with_port[2]) if with_port else text)
    except ValueError:
        raise Unfit("IP addresses of name servers, with or without port") from None
    return text


def check_network(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise Unfit(f'networks in CIDR form, such as "10.1.0.0/16" ({error})') from None


def check_proxy(text: str) -> str:
    from urllib.parse import urlsplit

    with contextlib.suppress(ValueError):  # also what `.port` raises
        url = urlsplit(text)
        if url.scheme in _PROXY_SCHEMES and url.hostname and url.port != 0:
            return text
    raise Unfit("URLs of proxies, http://[user:password@]host:port, https://… or socks5://…")


_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h", "socks4", "socks4a")


_FRONTIERS = ("memory", "redis", "rediss", "redis+cluster", "rediss+cluster")


def check_frontier(text: str) -> str:
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in _FRONTIERS:
        raise Unfit("a URL such as memory:// or redis://host:6379/0")
    return text


def check_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,100}", text):
        raise Unfit("a name of letters, digits, `_`, `.` and `-`")
    return text


def check_host_name(text: str) -> str:
    host = check_host(text)
    if host.rpartition(":")[2].isdigit() and not host.endswith("]"):
        raise Unfit("a name without port")
    return host


def check_listen(text: str) -> str:
    """`":9090"` is loopback: an address that everybody can reach has to be written."""
    import ipaddress

    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*)):([0-9]{1,5})", text.strip())
    if found and int(found[3]) <= 65535:
        name = found[1] or found[2] or "localhost"
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address("127.0.0.1" if name.lower() == "localhost" else name)
            return f"[{address}]:{int(found[3])}" if address.version == 6 else f"{address}:{int(found[3])}"
    raise Unfit('an IP address and a port, such as "127.0.0.1:9090", "0.0.0.0:9090" or ":9090" (loopback)')


def check_token(text: str) -> str:
    if not re.fullmatch(r"[!-~]{16,}", text):
        raise Unfit("at least 16 printable ASCII characters, as of `openssl rand -hex 16`")
    return text
