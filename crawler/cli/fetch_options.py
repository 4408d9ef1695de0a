"""The options of `crawler fetch`, in curl's letters. Loaded when `fetch` is the verb."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_options"]

_DESCRIPTION = """\
One request through everything a crawl has: robots.txt, politeness, retries, redirects, cookies, the settings.
Prints the body; any status is a success unless --fail is given. Letters are curl's, but for -L, -s and -c, which are
this command's own everywhere: redirects are followed anyway.
"""
_EXAMPLES = """\
examples:
  crawler fetch https://example.com/ -i                             head and body
  crawler fetch https://example.com/big.iso -o big.iso -C           to a file, from where the last try ended
  crawler fetch https://example.com/login -d user=me -d pass=secret a form; -F sends files, --json-body JSON
  crawler fetch https://example.com/ --trace > /dev/null            what happens on the wire, and how long it takes
  crawler fetch --curl "$(xclip -o)" --json                         what a browser's "copy as cURL" gave
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything but the options that other verbs have, too."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.add_argument("url", nargs="?", metavar="URL", help="may be left out with --curl")
    _add_request(parser.add_argument_group("request"))
    _add_body(parser.add_argument_group("body, which makes it a POST unless -X says otherwise (one of the three)"))
    _add_connection(parser.add_argument_group("connection"))
    _add_output(parser.add_argument_group("output"))


def _add_request(group: Any) -> None:
    add = group.add_argument
    add("-X", "--request", "--method", dest="method", metavar="METHOD", help="GET, POST, PUT, DELETE, …")
    add("-H", "--header", dest="header", action="append", default=[], metavar="'NAME: VALUE'",
        help="may be given again; 'NAME:' leaves one out that is sent by default, 'NAME;' sends it empty")  # fmt: skip
    add("-b", "--cookie", dest="cookie", action="append", default=[], metavar="'A=1; B=2'", help="cookies to send")
    add("-u", "--user", metavar="USER:PASSWORD", help="Basic authentication, for the URL's own origin alone")
    add("-I", "--head", action="store_true", help="ask with HEAD, and print the head")
    add("--curl", metavar="COMMAND", help="take the request from a curl command; URL, -X, -H, -b and -u win over it")


def _add_body(group: Any) -> None:
    add = group.add_argument
    add("-d", "--data", action="append", default=[], metavar="DATA",
        help="as a form sends it, joined by & if given again; @FILE is what a file holds, @- stdin")  # fmt: skip
    add("-F", "--form", action="append", default=[], metavar="NAME=VALUE",
        help="multipart/form-data; NAME=@FILE sends a file; ;type=TYPE and ;filename=NAME may follow")  # fmt: skip
    add("--json-body", dest="json_body", metavar="JSON", help="sent as application/json, if it is JSON")


def _add_connection(group: Any) -> None:
    add = group.add_argument
    add("-x", "--proxy", metavar="URL", help="http, https, or socks5 with the extra `socks`; also for robots.txt")
    add("-U", "--proxy-user", dest="proxy_user", metavar="USER:PASSWORD", help="for the proxy")
    add("-k", "--insecure", action="store_true", help="do not check certificates")
    add("--pin", metavar="sha256:HEX", help="accept this certificate and no other; --trace shows it")
    add("-m", "--max-time", dest="max_time", type=_seconds, metavar="SECONDS", help="for everything together")
    add("--no-redirect", dest="no_redirect", action="store_true", help="take a redirect as the answer")


def _add_output(group: Any) -> None:
    add = group.add_argument
    add("-i", "--include", action="store_true", help="print the head before the body")
    add("--headers", action="store_true", help="print status line and headers instead of the body")
    add("--json", action="store_true", help="print everything as one JSON object")
    add("-o", "--output", metavar="FILE",
        help="stream the body to a file, up to http.max_file_bytes; - is standard output, as it comes")  # fmt: skip
    add("-C", "--continue", dest="resume", action="store_true", help="with -o: go on where a broken download ended")
    add("-f", "--fail", action="store_true", help="a status outside http.ok_status prints nothing and exits with 1")
    add("-v", "--trace", action="store_true", help="tell on standard error what happens, with times, without secrets")
    add("--to-curl", dest="to_curl", action="store_true", help="print the curl command, secrets included; send nothing")
    add("--quiet", action="store_true", help="no progress bar")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds
