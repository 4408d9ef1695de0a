"""Cookies, from the user agent's side: RFC 6265, section 5.

A line that a server sends goes through three steps, each a section of the RFC: `parse_set_cookie` reads it (5.2),
`_admitted` decides whether this server may set it, and for whom (5.3, steps 4 to 9), and `CookieJar` keeps it (5.3,
steps 10 to 12) until a request that it is for (5.4). What is no name=value pair is ignored, as that RFC has it; its
successor would keep it as a cookie without a name.

From the successor (RFC 6265bis, draft 20, section 5.7) come the rules that only take something away from a hostile
server: no control characters, which could end a header field; a domain in ASCII; the sizes below; the promises of the
name prefixes `__Secure-` and `__Host-`; and that a page without TLS neither sets a `Secure` cookie nor replaces one.

A jar looks cookies up by the domain they are for. A request for `a.b.example` asks a dictionary for `a.b.example`,
`b.example` and `example`, and compares path and scheme of what it finds there: as many questions as the host has
labels, however full the jar is, and no look at the list of public suffixes, which only a new cookie needs.

A browser never meets 10,000 hosts that each set a hundred cookies; a crawler does. `Allowance` holds the limits, over
all jars of a crawl, and the order in which cookies were last sent, by which they go.
"""

from crawler.cookies.cookie import Cookie, Cookies
from crawler.cookies.jar import Allowance, CookieJar, Refused
from crawler.cookies.reading import SetCookie, parse_date, parse_set_cookie
from crawler.cookies.suffixes import is_public_suffix, registrable_domain

__all__ = [
    "Allowance",
    "Cookie",
    "CookieJar",
    "Cookies",
    "Refused",
    "SetCookie",
    "is_public_suffix",
    "parse_date",
    "parse_set_cookie",
    "registrable_domain",
]
