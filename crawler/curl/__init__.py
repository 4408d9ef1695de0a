"""curl commands: read into a request's arguments (`parse`), and written from a request (`render`).

Browsers offer every request they made as a curl command, and documentation of web services is written in them. Nothing
here runs a command or reads a file: a command is text. What only the shell or a terminal could add (a variable,
standard input) is refused, and `@file` becomes a `FilePath`, read when the request is sent.

Where a request is not what curl would send, on purpose:

- redirects are followed without `-L`, as a crawler does; `--no-location` switches that off;
- cookies, of `-b` or in a `Cookie` header, become `cookies` and so go through the session's jar, unless a name stands
  there twice or not at all, which only the header can say;
- `Content-Length`, and HTTP/2's `:authority` and its like, are left out: they follow from the rest;
- `--data @file` sends the file as it is, where curl drops its newlines;
- several files in one `-F` are several fields of that name (RFC 7578, section 4.3), where curl nests them;
- `--connect-timeout` alone comes with 60 seconds in all, where curl would wait for ever.

`words` knows shells, `options` curl's names, `reader` what they mean for a request, `writer` the way back.
"""

from __future__ import annotations

from crawler.curl.reader import parse
from crawler.curl.writer import render

__all__ = ["parse", "render"]
