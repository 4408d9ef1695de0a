"""curl commands, read and written: what people paste, what they get, and what real curl makes of ours."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler import Response, Spider
from crawler.body import FilePath, Multipart, Part
from crawler.curl import parse, render
from crawler.curl.words import quote, split, to_bytes
from crawler.request import Request, Timeout
from crawler.testing import LocalSite, run_spider

if TYPE_CHECKING:
    from pathlib import Path

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None, reason="curl and bash are not both installed"
)

URL = "https://example.com/"
NEWLINE = "\n"
FORM = ("Content-Type", "application/x-www-form-urlencoded")


def arguments(options: str) -> dict[str, Any]:
    """Of a command with these options, without its URL."""
    read = parse(f"curl {options} {URL}")
    assert read.pop("url") == URL
    return read


# -- shells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("curl  a\tb", ["curl", "a", "b"]),
        ("curl 'a b' \"c d\" e\\ f", ["curl", "a b", "c d", "e f"]),
        ("curl 'a'\"b\"c$'d'", ["curl", "abcd"]),
        ("curl '' \"\"", ["curl", "", ""]),
        ("curl 'it'\\''s'", ["curl", "it's"]),
        (r'curl "a\"b\\c\$d\`e\n"', ["curl", r'a"b\c$d`e\n']),
        ("curl \\\n  -s \\\r\n  x", ["curl", "-s", "x"]),
        ("curl \\  \n  x", ["curl", "x"]),
        ("curl https://a.test/\\\nb", ["curl", "https://a.test/b"]),
        ('curl "a\\\nb"', ["curl", "ab"]),
        ("curl a\n  b", ["curl", "a", "b"]),
        ("$ curl a", ["curl", "a"]),
        ("curl a # and so on", ["curl", "a"]),
        ("curl a#b", ["curl", "a#b"]),
        ("curl a | jq .", ["curl", "a"]),
        ("curl a > out.json 2>/dev/null", ["curl", "a"]),
        ("curl a; echo", ["curl", "a"]),
        ("curl a &", ["curl", "a"]),
        ("curl http://x/?a=1&b=2", ["curl", "http://x/?a=1&b=2"]),
        (r"curl $'a\nb\tc\'d\\e\x41\101\e\cA\?'", ["curl", "a\nb\tc'd\\eAA\x1b\x01?"]),
        (r"curl $'\u0021\u00e9\U0001F600\ud83d\ude00\ud800'", ["curl", "!é😀😀\ufffd"]),
        (r"curl $'\xc3\xa9'", ["curl", "é"]),
        (r"curl $'\u4e2d\x00'", ["curl", "中\0"]),
        ('curl $"a b"', ["curl", "a b"]),
        ("curl.exe -s `\n  -k `\r\n  x", ["curl.exe", "-s", "-k", "x"]),
    ],
)
def test_posix_words_are_split_as_bash_splits_them(command: str, words: list[str]) -> None:
    assert split(command) == words


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('curl ^"https://x.test/?a=1^&b=^%^20c^" ^\n  -s', ["curl", "https://x.test/?a=1&b=%20c", "-s"]),
        (r'curl ^"x^" -d ^"^{^\^"a^\^":^\^"b^\\n^\^"^}^"', ["curl", "x", "-d", r'{"a":"b\n"}']),
        ('curl ^"x^" -d ^"a^\n\nb^"', ["curl", "x", "-d", "a\nb"]),
        ('curl ^"x^" -d ^"a^\r\n\r\nb^"', ["curl", "x", "-d", "a\r\nb"]),
        ('curl "x" ^\r\n  -H "a: ""b"" ^ c"', ["curl", "x", "-H", 'a: "b" ^ c']),
        ('curl "x/a"%"20b" ^\n -A ""', ["curl", "x/a%20b", "-A", ""]),
        ('curl ^"x^" -d ^"a ^& b^" & echo done', ["curl", "x", "-d", "a & b"]),
        ('curl ^"it\'s^"', ["curl", "it's"]),
    ],
)
def test_words_for_cmd_are_what_the_browser_put_in(command: str, words: list[str]) -> None:
    assert split(command) == words


def for_cmd(word: str) -> str:
    """As browsers quote for cmd.exe: for the C runtime first, then a caret before whatever may mean something."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    careted = (c if c.isalnum() or c in " _-:=+~'/.,?;()*`" else f"^{c}{c if c == NEWLINE else ''}" for c in escaped)
    return '^"' + re.sub(r"%(?=\w)", "%^", "".join(careted)) + '^"'


@given(st.lists(st.text("ab1 é%\\\"'^&|<>{}!$`\n", max_size=12), min_size=1, max_size=3))
def test_words_quoted_for_cmd_come_back(words: list[str]) -> None:
    assert split(" ".join(["curl", *map(for_cmd, words)])) == ["curl", *words]


def test_a_caret_inside_a_posix_quote_does_not_make_it_a_windows_command() -> None:
    assert split("curl x -d 'say ^\"hello^\" ^\n now'") == ["curl", "x", "-d", 'say ^"hello^" ^\n now']


def test_bytes_that_are_not_utf8_stay_bytes() -> None:
    assert to_bytes(split(r"curl $'\x89PNG\xff'")[1]) == b"\x89PNG\xff"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("curl 'a", "never closed"),
        ('curl "a', "never closed"),
        ("curl $'a", "never closed"),
        ('curl -H "Authorization: $TOKEN" x', r"\$TOKEN"),
        ("curl x/${ID}", r"\$\{ID\}"),
        ("curl x -d $(date)", "replace"),
        ("curl `cat url`", "replace"),
        ("curl a; curl b", "several curl commands"),
        ("curl a\ncurl b", "two URLs"),
        ('curl ^"a^" & curl ^"b^"', "several curl commands"),
        ("curl a | curl -d @- b", "several curl commands"),
    ],
)
def test_what_only_a_shell_could_tell_is_refused(command: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(command)


nasty = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@given(st.lists(nasty, min_size=1, max_size=4))
def test_quoted_words_come_back(words: list[str]) -> None:
    assert split(" ".join(map(quote, words))) == words


@needs_bash
def test_bash_reads_quoted_words_as_they_are() -> None:
    words = ["a b", "it's", 'say "x"', "a!b'!", "\x01\x7f\t\n\r", "é中😀", "\u200b\u202e\xa0", "$HOME `x` \\"]
    words += ["-", "", "a\\'b"]
    script = "printf '%s\\0' " + " ".join(map(quote, words))
    printed = subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=20).stdout
    assert printed.decode().split("\0")[:-1] == words


def test_no_argument_holds_a_nul() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote("a\0b")


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ("", {}),
        ("-X DELETE", {"method": "DELETE"}),
        ("-XPOST", {"method": "POST"}),
        ("--request=PATCH", {"method": "PATCH"}),
        ("-sSLXPUT", {"method": "PUT"}),
        ("-I", {"method": "HEAD"}),
        ("--head", {"method": "HEAD"}),
        ("-k", {"tls": False}),
        ("--insecure --no-insecure", {}),
        ("-L", {}),
        ("--no-location", {"allow_redirects": False}),
        ("-L --max-redirs 3", {"max_redirects": 3}),
        ("--max-redirs -1", {}),
        ("-m 2.5", {"timeout": 2.5}),
        ("-m 30 --connect-timeout 5", {"timeout": (30.0, 5.0)}),
        ("--connect-timeout 5", {"timeout": (60.0, 5.0)}),
        ("--max-filesize 1000", {"max_body_bytes": 1000}),
        ("-x proxy.test:3128", {"proxy": "http://proxy.test:3128"}),
        ("-x http://u:p@proxy.test:3128", {"proxy": "http://u:p@proxy.test:3128"}),
        ("-x '' -b ''", {}),
        ("-x socks5h://127.0.0.1:9050", {"proxy": "socks5h://127.0.0.1:9050"}),
        ("--socks5 127.0.0.1:9050", {"proxy": "socks5://127.0.0.1:9050"}),
        ("--socks5-hostname 127.0.0.1:9050", {"proxy": "socks5h://127.0.0.1:9050"}),
        ("-x p.test -U me:pw:x", {"proxy": "http://p.test", "proxy_auth": ("me", "pw:x")}),
        ("--path-as-is", {"encoded": True}),
        ("--compressed -s -S -v -i -o out.txt -w '%{http_code}' --retry 3 -# -N -O -J -f --http2 -4 --noproxy '*'", {}),
        ("-fsSLo /dev/null", {}),
        ("-s -- ", {}),
    ],
)
def test_options_become_arguments_of_a_request(options: str, meant: dict[str, Any]) -> None:
    assert arguments(options) == meant


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ("-H 'Accept: text/html'", [("Accept", "text/html")]),
        ("-H 'X-A:1' --header 'x-a: 2'", [("X-A", "1"), ("x-a", "2")]),
        ("-H 'X-Empty;'", [("X-Empty", "")]),
        ("-H 'X-Nothing' -H 'X-Odd;x'", []),
        ("-H 'Content-Length: 12' -H ':authority: example.com'", []),
        ("-A 'Mozilla/5.0'", [("User-Agent", "Mozilla/5.0")]),
        ("-A one -H 'user-agent: two'", [("user-agent", "two")]),
        ("-e 'https://a.test/;auto'", [("Referer", "https://a.test/")]),
        ("-r 0-99", [("Range", "bytes=0-99")]),
        ("-u user:pass:word", [("Authorization", "Basic dXNlcjpwYXNzOndvcmQ=")]),
        ("-u user", [("Authorization", "Basic dXNlcjo=")]),
        ("-u jürgen:ß", [("Authorization", "Basic asO8cmdlbjrDnw==")]),
        ("--oauth2-bearer t0k", [("Authorization", "Bearer t0k")]),
        ("-u a:b -H 'Authorization: Custom'", [("Authorization", "Custom")]),
        (r"-H $'X: caf\xe9'", [("X", "café")]),
    ],
)
def test_headers_are_kept_in_their_order(options: str, headers: list[tuple[str, str]]) -> None:
    assert arguments(options).get("headers", []) == headers


def test_an_empty_header_is_one_that_is_not_sent() -> None:
    read = arguments("-H 'Accept:' -H 'user-agent: ' -A '' -d x -H Content-Type:")
    assert read["skip_auto_headers"] == ("Accept", "user-agent", "User-Agent", "Content-Type")
    assert "headers" not in read


@pytest.mark.parametrize("option", ["-b", "--cookie", "-H"])
def test_cookies_become_cookies(option: str) -> None:
    text = 'Cookie: a=1; b="x, y"; c=d=e; f=' if option == "-H" else 'a=1; b="x, y"; c=d=e; f='
    assert arguments(f"{option} '{text}'") == {"cookies": {"a": "1", "b": '"x, y"', "c": "d=e", "f": ""}}


def test_cookies_of_several_options_are_one_list_and_the_header_wins() -> None:
    assert arguments("-b a=1 -b 'b=2'") == {"cookies": {"a": "1", "b": "2"}}
    assert arguments("-b a=1 -H 'Cookie: a=2'") == {"cookies": {"a": "2"}}


@pytest.mark.parametrize("text", ["a=1; a=2", "a=1; b"])
def test_cookies_that_a_mapping_cannot_hold_stay_a_header(text: str) -> None:
    assert arguments(f"-H 'Cookie: {text}'") == {"headers": [("Cookie", text)]}
    assert arguments(f"-b '{text}'") == {"headers": [("Cookie", text)]}


# -- URLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("curl example.com", "http://example.com"),
        ("curl localhost:8000/x", "http://localhost:8000/x"),
        ("curl --url https://x.test/", "https://x.test/"),
        ("curl -s -- https://x.test/-a", "https://x.test/-a"),
        (r"curl 'https://x.test/?a\[\]=1&b=\{c\}'", "https://x.test/?a[]=1&b={c}"),
        ("curl 'https://x.test/?a[]=1'", "https://x.test/?a[]=1"),
        ("curl -g 'https://x.test/{a,b}'", "https://x.test/{a,b}"),
        ("curl 'http://[::1]:80/'", "http://[::1]:80/"),
        ("curl -G -d a=1 -d b=2 https://x.test/s", "https://x.test/s?a=1&b=2"),
        ("curl -G --data-urlencode 'q=a b&c' 'https://x.test/s?z=1#frag'", "https://x.test/s?z=1&q=a+b%26c"),
        ("curl --url-query 'q=a b' --url-query +raw=x https://x.test/", "https://x.test/?q=a+b&raw=x"),
        ("curl -T dir/a.txt https://x.test", "https://x.test/a.txt"),
        ("curl -T 'dir/a b.txt' https://x.test/up/?v=1", "https://x.test/up/a%20b.txt?v=1"),
        ("curl -T a.txt https://x.test/up", "https://x.test/up"),
    ],
)
def test_the_url_is_the_one_that_curl_would_ask_for(command: str, url: str) -> None:
    assert parse(command)["url"] == url


def test_get_moves_the_data_into_the_query() -> None:
    assert parse("curl -G -d a=1 https://x.test/") == {"url": "https://x.test/?a=1"}


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ("-d a=1", b"a=1"),
        ("-d a=1 --data b=2 --data-ascii c=3 --data-binary d=4", b"a=1&b=2&c=3&d=4"),
        ("--data-raw @not-a-file", b"@not-a-file"),
        ("-d ''", b""),
        (r"--data-binary $'\x00\xffa\r\nb'", b"\x00\xffa\r\nb"),
        ("-d é", "é".encode()),
        ("--data-urlencode 'a b'", b"a+b"),
        ("--data-urlencode '=a=b'", b"a%3Db"),
        ("--data-urlencode 'n=a b' -d raw=1", b"n=a+b&raw=1"),
    ],
)
def test_data_is_kept_byte_for_byte_and_posted(options: str, body: bytes) -> None:
    assert arguments(options) == {"method": "POST", "body": body, "headers": [FORM]}


def test_a_content_type_that_is_given_is_kept() -> None:
    read = arguments("""-H 'content-type: application/json' --data-raw '{"a":1}'""")
    assert read == {"method": "POST", "body": b'{"a":1}', "headers": [("content-type", "application/json")]}


def test_a_method_that_is_given_wins_over_the_one_that_data_implies() -> None:
    assert arguments("-X PUT -d x")["method"] == "PUT"
    assert "method" not in arguments("-X GET -d x")


def test_url_encoded_pairs_are_pairs() -> None:
    read = arguments("--data-urlencode 'a=x y' --data-urlencode 'b%5B%5D=&=' --data-urlencode a=2")
    assert read == {"method": "POST", "data": [("a", "x y"), ("b[]", "&="), ("a", "2")]}


def test_pairs_of_another_content_type_are_bytes() -> None:
    read = arguments("-H 'Content-Type: text/plain' --data-urlencode 'a=x y'")
    assert read["body"] == b"a=x+y"


def test_json_is_a_value_and_asks_for_json() -> None:
    accept = ("Accept", "application/json")
    assert arguments("""--json '{ "a": [1, 2.5, null] }'""") == {
        "method": "POST",
        "json": {"a": [1, 2.5, None]},
        "headers": [accept],
    }
    assert arguments("--json '[1]' -H 'accept: */*'")["headers"] == [("accept", "*/*")]


@pytest.mark.parametrize("text", ['{"a": 1.10}', '{"a": 1, "a": 2}', "null", "not json", '"\\u00e9"'])
def test_json_that_says_more_than_its_value_is_kept_as_it_stands(text: str) -> None:
    json = ("Content-Type", "application/json")
    accept = ("Accept", "application/json")
    assert arguments(f"--json '{text}'") == {"method": "POST", "body": text.encode(), "headers": [json, accept]}


def test_pieces_of_json_are_joined_without_an_ampersand() -> None:
    assert arguments("""--json '{"a":' --json 1}""")["json"] == {"a": 1}


@pytest.mark.parametrize("option", ["-d", "--data-binary", "--data-ascii"])
def test_a_file_is_named_and_not_read(option: str) -> None:
    assert arguments(f"{option} @/no/such/file") == {
        "method": "POST",
        "data": FilePath("/no/such/file"),
        "headers": [FORM],
    }


def test_an_upload_is_a_put_of_the_file() -> None:
    assert parse("curl -T a.bin https://x.test/a") == {
        "url": "https://x.test/a",
        "method": "PUT",
        "data": FilePath("a.bin"),
    }


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("a=b", [Part("a", "b")]),
        ("a=", [Part("a", "")]),
        ("a=b=c", [Part("a", "b=c")]),
        ("a=b;type=text/csv", [Part("a", "b", None, "text/csv")]),
        ("a=b;type=text/csv; charset=utf-8", [Part("a", "b", None, "text/csv; charset=utf-8")]),
        ('a="b;c";filename="x;y"', [Part("a", "b;c", "x;y")]),
        ('a="say \\"x\\""', [Part("a", 'say "x"')]),
        ("a=@dir/f.txt", [Part("a", FilePath("dir/f.txt"))]),
        ('a=@"f;1,2.txt";type=text/x;filename=g', [Part("a", FilePath("f;1,2.txt"), "g", "text/x")]),
        ("a=@f,g;type=x/y", [Part("a", FilePath("f")), Part("a", FilePath("g"), None, "x/y")]),
    ],
)
def test_form_fields_become_parts(field: str, parts: list[Part]) -> None:
    assert arguments(f"-F '{field}'") == {"method": "POST", "data": Multipart(tuple(parts))}


def test_a_form_string_is_taken_literally() -> None:
    assert arguments("--form-string 'a=@b;type=c'")["data"] == Multipart((Part("a", "@b;type=c"),))


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("", "not a curl command"),
        ("wget https://x.test/", "not a curl command: 'wget"),
        ("curl", "no URL"),
        ("curl -s", "no URL"),
        ("curl a.test b.test", "two URLs, 'a.test' and 'b.test'"),
        ("curl 'https://x.test/[1-3]'", "several URLs"),
        ("curl 'https://x.test/{a,b}'", "several URLs"),
        ("curl --dta x https://x.test/", "unknown option '--dta'; did you mean --data"),
        ("curl -! x", "no option -!"),
        ("curl x -H", "-H needs a value"),
        ("curl x --data", "--data needs a value"),
        ("curl -m soon x", "'soon' is not a number"),
        ("curl --cert a.pem x", r"--cert is not part of a request: set `tls.cert_file`"),
        ("curl -E a.pem x", "-E is not part of a request"),
        ("curl --digest -u a:b x", "`http.digest_auth`"),
        ("curl --aws-sigv4 aws:amz x", "middleware"),
        ("curl --resolve a:1:2 x", "`dns.hosts`"),
        ("curl --unix-socket /s x", "`http.unix_socket`"),
        ("curl -C - x", "resume=True"),
        ("curl a --next b", "one by one"),
        ("curl -b jar.txt x", "reads cookies from a file"),
        ("curl -H @headers.txt x", "reads headers from a file"),
        ("curl -d @- x", "standard input"),
        ("curl -T - x", "standard input"),
        ("curl -F 'a=@-' x", "standard input"),
        ("curl -F 'a=<b.txt' x", "write it out"),
        ("curl -F 'a=(;type=multipart/mixed' x", "several parts"),
        ("curl -F 'a=b;headers=\"X: y\"' x", "no headers"),
        ("curl -F a x", "not name=content"),
        ("curl --data-urlencode a@b x", "encodes a file"),
        ("curl -d a -d @b x", "one of them a file"),
        ("curl -G -d @b x", "read into the URL"),
        ("curl -d a -F b=c x", "different requests"),
        ("curl -I -d a x", "different requests"),
    ],
)
def test_what_cannot_be_a_request_is_an_error_that_says_why(command: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(command)


def test_a_long_command_is_not_shown_whole() -> None:
    with pytest.raises(ValueError, match="not a curl command") as caught:
        parse("x" * 100_000)
    assert len(str(caught.value)) < 200


@settings(max_examples=300)
@given(st.text(alphabet="curl -XHdF'\"\\$^`;|&<>@=:/a1 \n{}[]#", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert "url" in parse(f"curl {text}")


def test_a_command_with_a_large_body_is_read_in_a_moment() -> None:
    body = "a'b\\" * 2**16
    assert parse(f"curl x.test --data-raw {quote(body)}")["body"] == body.encode()


# -- pasted from browsers ----------------------------------------------------------------------------------------------


def test_a_command_of_chrome() -> None:
    command = r"""curl 'https://shop.example/api/cart?x=\[1\]' \
  -H 'accept: application/json' \
  -H 'accept-language: en-GB,en;q=0.9' \
  -b 'session=abc; theme=dark' \
  -H 'content-type: application/json' \
  -H 'sec-ch-ua: "Chromium";v="142"' \
  -H 'user-agent: Mozilla/5.0 (X11)' \
  --data-raw $'{"name":"it\'s","n":1\u0021}' \
  --compressed"""
    request = Request.from_curl(command)
    assert (request.method, request.url) == ("POST", "https://shop.example/api/cart?x=[1]")
    assert request.body == b'{"name":"it\'s","n":1!}'
    assert request.cookies == {"session": "abc", "theme": "dark"}
    assert list(request.headers) == ["accept", "accept-language", "content-type", "sec-ch-ua", "user-agent"]
    assert request.headers["sec-ch-ua"] == '"Chromium";v="142"'


def test_a_command_of_firefox() -> None:
    command = """curl 'https://shop.example/login' --compressed -X POST -H 'User-Agent: Mozilla/5.0' \
 -H 'Accept-Encoding: gzip, deflate, br, zstd' -H 'Content-Type: application/x-www-form-urlencoded' \
 -H 'Cookie: id=7' -H 'TE: trailers' --data-raw 'user=a&pass=b'"""
    request = Request.from_curl(command, priority=3)
    assert (request.method, request.body, request.cookies) == ("POST", b"user=a&pass=b", {"id": "7"})
    assert request.priority == 3


def test_a_command_of_chrome_on_windows() -> None:
    words = ["-H", "content-type: application/json", "-H", 'sec-ch-ua: "Chromium";v="142"']
    body = r'{"path":"C:\\dir","what":"it\'s 50% & more"}'
    command = " ".join(["curl", *map(for_cmd, ["https://shop.example/api?q=a%20b&c=1"]), "^\n "])
    command += " ".join(word if word.startswith("-") else f"{for_cmd(word)} ^\n " for word in words)
    request = Request.from_curl(f"{command} --data-raw {for_cmd(body)}")
    assert request.url == "https://shop.example/api?q=a%20b&c=1"
    assert request.headers["sec-ch-ua"] == '"Chromium";v="142"'
    assert request.body == body.encode()


def test_a_command_of_safari() -> None:
    command = "curl 'https://x.test/' \\\n-X 'POST' \\\n-H 'Accept: */*' \\\n--data-binary $'{\\'a\\': \\u00e9}'"
    request = Request.from_curl(command)
    assert (request.method, request.body, request.headers["Accept"]) == ("POST", "{'a': é}".encode(), "*/*")


def test_commands_of_postman_and_insomnia() -> None:
    postman = """curl --location --request PATCH 'https://x.test/u' --header 'A: 1' \\
--form 'file=@"/path/a b.txt"' --form 'k="v"'"""
    data = Multipart((Part("file", FilePath("/path/a b.txt")), Part("k", "v")))
    assert Request.from_curl(postman) == Request("https://x.test/u", method="PATCH", headers={"A": "1"}, data=data)
    insomnia = """curl --request POST \\
  --url https://x.test/u \\
  --header 'Content-Type: application/json' \\
  --cookie id=7 \\
  --data '{
\t"a": 1
}'"""
    request = Request.from_curl(insomnia)
    assert (request.body, request.cookies) == (b'{\n\t"a": 1\n}', {"id": "7"})


def test_a_multipart_body_of_a_browser_keeps_its_boundary() -> None:
    command = r"""curl https://x.test/ -H 'Content-Type: multipart/form-data; boundary=----B' \
  --data-raw $'------B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n------B--\r\n'"""
    request = Request.from_curl(command)
    assert request.body == b'------B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n------B--\r\n'
    assert request.headers["Content-Type"] == "multipart/form-data; boundary=----B"


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (Request(URL), []),
        (Request(URL, method="DELETE"), ["-X DELETE"]),
        (Request(URL, method="HEAD"), ["--head"]),
        (Request(URL, headers={"X-A": "it's", "X-E": ""}), [r"-H $'X-A: it\'s'", "-H 'X-E;'"]),
        (Request(URL, skip_auto_headers=("Accept",)), ["-H Accept:"]),
        (Request(URL, cookies={"a": "1", "b": "2"}), ["-b 'a=1; b=2'"]),
        (Request(URL, method="POST", data={"a b": "c&d"}), ["--data-urlencode 'a+b=c&d'"]),
        (Request(URL, method="POST", json={"a": 1}), ["""--json '{"a":1}'"""]),
        (
            Request(URL, method="PUT", body=b"\xff", headers=[FORM]),
            ["-X PUT", f"-H '{FORM[0]}: {FORM[1]}'", r"--data-raw $'\xff'"],
        ),
        (Request(URL, tls=False, timeout=2.5), ["--insecure", "-m 2.5"]),
        (Request(URL, timeout=Timeout(30.0, 5.0)), ["-m 30", "--connect-timeout 5"]),
        (Request(URL, proxy="http://p.test:1", proxy_auth=("u", "p")), ["-x http://p.test:1", "-U u:p"]),
        (Request(URL, max_redirects=0, max_body_bytes=9), ["--max-filesize 9", "--max-redirs 0"]),
    ],
)
def test_a_request_is_written_as_a_command(request_: Request, options: list[str]) -> None:
    assert render(request_).split(" \\\n  ") == [f"curl {URL}", *options, "--location", "--compressed"]


def test_redirects_that_are_not_followed_are_switched_off() -> None:
    assert "--no-location" in render(Request(URL, allow_redirects=False))


def test_a_url_with_brackets_is_not_a_pattern() -> None:
    assert "--globoff" in render(Request("https://x.test/?a[1-2]={b,c}"))


def test_a_live_object_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="no command can hold"):
        render(Request(URL, method="POST", data=iter([b"x"])))


def test_a_field_name_with_an_equals_sign_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="a=b"):
        render(Request(URL, method="POST", data=Multipart((Part("a=b", "c"),))))


tokens = st.text("abcXYZ-09_", min_size=1, max_size=8)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
words = st.text("abc é'\"\\!$`;=&%+@中\n\t", max_size=12)
header_values = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs"]), min_size=1, max_size=12).map(str.strip)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e9, 1e9) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
parts = st.builds(
    Part,
    tokens,
    words | st.builds(FilePath, st.text("ab.;,\"' \\", min_size=2, max_size=9).map(lambda name: f"/f/{name}.txt")),
    st.none() | words,
    st.none() | st.just("text/x-y") | st.just("text/x-y; charset=utf-8"),
)
bodies = st.one_of(
    st.just({}),
    st.builds(lambda body: {"body": body, "method": "POST"}, st.binary(max_size=20).filter(lambda body: 0 not in body)),
    st.builds(lambda pairs: {"data": pairs}, st.lists(st.tuples(words.filter(bool), words), min_size=1, max_size=3)),
    st.builds(lambda value: {"json": value}, json_values.filter(lambda value: value is not None)),
    st.builds(lambda each: {"data": Multipart(tuple(each))}, st.lists(parts, min_size=1, max_size=3)),
    st.builds(lambda name: {"data": FilePath(f"/dir/{name}.bin")}, words),
)
requests = st.builds(
    lambda path, headers, skipped, cookies, body, others: Request(
        f"https://example.com/{path}",
        headers=[(name, value) for name, value in headers if value],
        skip_auto_headers=skipped,
        cookies=cookies or None,
        **{**others, **body},
    ),
    st.text("ab/?=&[]{}%20'*", max_size=10),
    st.lists(st.tuples(tokens, header_values), max_size=3),
    st.lists(tokens, max_size=2, unique_by=str.lower).map(tuple),
    st.dictionaries(tokens, st.text('abc"=,{} é', max_size=8).map(str.strip), max_size=3),
    bodies,
    st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
            "proxy": st.just("http://u:p@proxy.test:3128"),
            "proxy_auth": st.tuples(tokens, words),
            "tls": st.just(False),
            "timeout": st.sampled_from([1, 2.5, 0.125, Timeout(30.0, 2.5)]),
            "allow_redirects": st.booleans(),
            "max_redirects": st.integers(0, 9),
            "max_body_bytes": st.integers(1, 10**9),
            "encoded": st.booleans(),
        },
    ),
)


def completed(request: Request) -> Request:
    """With what the command has to say beside the request: the type that aiohttp would give the body."""
    named = {name.lower() for name in (*request.headers, *request.skip_auto_headers)}
    added = []
    if request.json is not None:
        added = [("Accept", "application/json")]
    elif request.body is not None or isinstance(request.data, FilePath):
        added = [("Content-Type", "application/octet-stream")]
    added = [pair for pair in added if pair[0].lower() not in named]
    return request.replace(headers=[*request.headers.items(), *added]) if added else request


@settings(max_examples=200)
@given(requests)
def test_a_command_that_was_written_is_read_as_the_same_request(request: Request) -> None:
    again = Request(**parse(render(request)))
    assert sorted(again.headers.items()) == sorted(completed(request).headers.items())
    for field in Request.__struct_fields__:
        if field != "headers":
            assert getattr(again, field) == getattr(request, field), (field, render(request))


def test_from_curl_and_to_curl_are_methods_of_the_request() -> None:
    request = Request.from_curl(f"curl -X POST {URL}", "parse_it", meta={"a": 1})
    assert (request.method, request.callback, request.meta) == ("POST", "parse_it", {"a": 1})
    assert Request.from_curl(request.to_curl()).method == "POST"


def test_the_module_is_cheap_to_import() -> None:
    script = "import sys, crawler.curl; print([m for m in ('aiohttp', 'asyncio', 'selectolax') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=20)
    assert printed.stdout.strip() == "[]"


class Pasted(Spider):
    """Makes the request of a command, as it stands or inline."""

    name = "pasted"
    command = ""
    inline = False

    async def start(self) -> Any:
        request = Request.from_curl(self.command, "parse")
        if self.inline:
            yield self.parse(await self.fetch(request))
        else:
            yield request

    def parse(self, response: Response) -> Any:
        return {"status": response.status}


# -- against curl itself -----------------------------------------------------------------------------------------------


async def sent_by_curl(command: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        _, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return complaints.decode()


@needs_curl
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"headers": {"X-A": "it's ! é", "X-Empty": ""}}, {}),
        ({"cookies": {"a": "1", "b": '"x, y"'}}, {}),
        ({"method": "OPTIONS"}, {}),
        ({"method": "PATCH", "body": b"\x00\x01%d\\n'\xff"}, {"type": "application/octet-stream"}),
        ({"method": "POST", "body": "é'\n".encode()}, {"type": "application/octet-stream"}),
        (
            {"method": "POST", "data": [("a b", "c&d"), ("é", "x y")]},
            {"type": FORM[1], "body": b"a+b=c%26d&%C3%A9=x+y"},
        ),
        ({"method": "POST", "json": {"a": [1, "é"]}}, {"type": "application/json", "body": '{"a":[1,"é"]}'.encode()}),
        ({"method": "PUT", "data": FilePath("up.txt")}, {"type": "text/plain", "body": b"of the file\n"}),
        ({"method": "POST", "data": FilePath("up.txt")}, {"type": "text/plain", "body": b"of the file\n"}),
    ],
)
async def test_curl_sends_what_the_request_says(
    options: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "up.txt").write_text("of the file\n")
    async with LocalSite() as site:
        site.page("/to", "ok")
        request = Request(f"{site.url}/to?a=[1]", **options)
        await sent_by_curl(render(request), tmp_path)
    (hit,) = site.requests()
    assert (hit.method, hit.path) == (request.method, "/to?a=[1]")
    assert hit.body == changes.get("body", request.body or b"")
    assert hit.headers.get("Content-Type") == changes.get("type")
    for name, value in request.headers.items():
        assert hit.headers[name] == value
    cookies = request.cookies or {}
    assert hit.headers.get("Cookie", "") == "; ".join(f"{name}={value}" for name, value in cookies.items())


@needs_curl
async def test_curl_sends_a_form_with_its_files(tmp_path: Path) -> None:
    (tmp_path / 'a;"b.txt').write_text("of the file")
    parts = (
        Part("text", '@not a file;type=x "y"'),
        Part("typed", 'q"uoted;', None, "text/csv; charset=utf-8"),
        Part("named", "inline", 'f"n.txt'),
        Part("file", FilePath('a;"b.txt'), None, "text/x-y"),
    )
    async with LocalSite() as site:
        site.page("/to", "ok")
        await sent_by_curl(render(Request(f"{site.url}/to", method="POST", data=Multipart(parts))), tmp_path)
    (hit,) = site.requests()
    body = hit.body.decode()
    for piece in (
        'name="text"\r\n\r\n@not a file;type=x "y"\r\n',
        'name="typed"\r\nContent-Type: text/csv; charset=utf-8\r\n\r\nq"uoted;\r\n',
        "inline\r\n",
        "Content-Type: text/x-y\r\n\r\nof the file\r\n",
    ):
        assert piece in body
    assert hit.method == "POST"


@needs_curl
@pytest.mark.parametrize(
    "options",
    [
        "-d a=1 -d 'b=x y' --data-urlencode 'c d=e f' --data-urlencode '=g&h' --data-urlencode i",
        "-G -d a=1 --data-urlencode 'b=x y'",
        "--json '{\"a\":' --json '1.10}'",
        "-H 'X-A: 1' -H 'X-A: 2' -H 'X-E;' -H 'X-N' -H 'Accept:' -A '' -e 'http://r.test/;auto'",
        "-u 'me:p:w' -b 'a=1' -b 'b=2; c=3'",
        "-u me --oauth2-bearer tok",
        "-X PATCH -d '' -H 'Content-Type:'",
        "-I",
        "-r 0-9",
        "--path-as-is --data-raw @x",
        r"--data-binary $'\x41\u00e9\101\n'",
        "-fsSLXPUT -dx",
    ],
)
async def test_a_command_is_read_as_curl_reads_it(options: str, tmp_path: Path) -> None:
    """curl says what it sends; what we read must say the same."""
    async with LocalSite() as site:
        site.page("/to", "ok")
        command = f"curl -sS {options} '{site.url}/to?z=%20'"
        await sent_by_curl(command, tmp_path)
        request = Request(**parse(command))
    (hit,) = site.requests()
    assert (hit.method, f"{site.url}{hit.path}") == (request.method, request.url)
    if request.json is None:
        assert hit.body == (request.body or b"")
    own = {"host", "accept", "user-agent", "content-length"}
    sent = sorted((name.lower(), value) for name, value in hit.headers.items() if name.lower() not in own | {"cookie"})
    said = [(name.lower(), value) for name, value in request.headers.items() if name.lower() not in own]
    assert sent == sorted(said)
    pairs = [pair.partition("=") for pair in re.split(r"; ?", hit.headers.get("Cookie", "")) if pair]
    assert {name: value for name, _, value in pairs} == (request.cookies or {})
    for name in request.skip_auto_headers:
        assert name not in hit.headers


@needs_curl
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        "-d 'a=1&b=x y' -H 'X-A: é' -b 'a=1; b=\"x, y\"'",
        "--data-urlencode 'a=x y&' --data-urlencode 'b%5B%5D=é'",
        r"--data-binary $'\x89PNG\n' -H 'Content-Type: image/png' -X PUT -u me:pw",
        "-H 'Content-Type: application/json' --data-raw '{ \"a\": 1.10 }'",
        "-T up.txt -H 'Content-Type: text/x'",
    ],
)
async def test_the_crawler_sends_what_curl_sends(options: str, inline: bool, tmp_path: Path) -> None:
    (tmp_path / "up.txt").write_text("of the file\n")
    async with LocalSite() as site:
        site.page("/to", "ok")
        command = f"curl -sS {options} '{site.url}/to?z=%20'"
        await sent_by_curl(command, tmp_path)
        command = command.replace("up.txt", str(tmp_path / "up.txt"))
        run = await run_spider(Pasted, args={"command": command, "inline": inline})
    assert run.items == [{"status": 200}]
    one, other = site.requests()
    assert (one.method, one.path, one.body) == (other.method, other.path, other.body)
    for name in ("Content-Type", "Content-Length", "Cookie", "Authorization", "X-A"):
        assert one.headers.get(name) == other.headers.get(name)
