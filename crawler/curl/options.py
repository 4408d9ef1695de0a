"""curl's options by name: how they are written, which need no attention, and which belong somewhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from crawler.curl.words import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["Option", "options"]


class Option(NamedTuple):
    name: str
    """The long name, without dashes and `no-`. A word that is no option is the value of a `url`."""
    value: str
    is_on: bool
    """False for `--no-NAME`."""


_SHORT: Final = {
    letter: name
    for pairs in (
        "#=progress-bar :=next 0=http1.0 1=tlsv1 4=ipv4 6=ipv6 A=user-agent b=cookie C=continue-at c=cookie-jar",
        "d=data D=dump-header e=referer E=cert f=fail F=form g=globoff G=get h=help H=header i=include I=head",
        "j=junk-session-cookies J=remote-header-name k=insecure K=config L=location m=max-time M=manual N=buffer",
        "n=netrc o=output O=remote-name p=proxytunnel q=disable r=range R=remote-time s=silent S=show-error",
        "T=upload-file u=user U=proxy-user v=verbose V=version w=write-out x=proxy X=request Y=speed-limit",
        "y=speed-time z=time-cond Z=parallel",
    )
    for letter, name in (pair.split("=") for pair in pairs.split())
}
_SKIPPED: Final = frozenset(
    name
    for names in (
        # what curl shows and keeps
        "buffer clobber create-dirs fail fail-early fail-with-body include progress-bar progress-meter remote-name",
        "remote-header-name remote-name-all remote-time remove-on-error show-error silent styled-output trace-ids",
        "trace-time suppress-connect-headers verbose xattr disable junk-session-cookies parallel parallel-immediate",
        # what the crawler does by itself, or decides for all requests
        "alpn basic compressed false-start http0.9 http1.0 http1.1 http2 http2-prior-knowledge http3 http3-only ipv4",
        "ipv6 keepalive location-trusted npn proxy-basic raw retry-all-errors retry-connrefused sessionid socks5-basic",
        "ssl ssl-allow-beast ssl-no-revoke ssl-reqd ssl-revoke-best-effort tcp-fastopen tcp-nodelay tlsv1 tlsv1.0",
        "tlsv1.1 tlsv1.2 tlsv1.3 tr-encoding",
    )
    for name in names.split()
)
_SKIPPED_WITH_VALUE: Final = frozenset(
    name
    for names in (
        "alt-svc cookie-jar create-file-mode dump-header etag-save expect100-timeout happy-eyeballs-timeout-ms hsts",
        "keepalive-time libcurl limit-rate noproxy output output-dir parallel-max proto proto-default proto-redir rate",
        "retry retry-delay retry-max-time speed-limit speed-time stderr trace trace-ascii trace-config write-out",
    )
    for name in names.split()
)
_ELSEWHERE: Final = {
    name: instead
    for names, instead in (
        ("cacert capath ca-native crlfile", "set `tls.ca_file`"),
        ("cert cert-type key key-type pass", "set `tls.cert_file` and `tls.key_file`"),
        ("pinnedpubkey", "pin the certificate with `tls='sha256:…'` or `tls.fingerprints`"),
        ("ciphers tls13-ciphers curves tls-max", "fetch it inline with an `ssl.SSLContext` as `tls`"),
        ("digest", "set `http.digest_auth`"),
        ("anyauth aws-sigv4 negotiate ntlm ntlm-wb delegation service-name", "sign requests in a middleware"),
        ("netrc netrc-file netrc-optional", "set `http.auth`"),
        ("resolve connect-to", "set `dns.hosts`"),
        ("dns-servers dns-interface dns-ipv4-addr dns-ipv6-addr doh-url doh-insecure", "set `dns.nameservers`"),
        ("interface local-port", "set `http.local_address`"),
        ("unix-socket abstract-unix-socket", "set `http.unix_socket`"),
        ("continue-at", "use `await response.save(path, resume=True)`"),
        ("time-cond etag-compare", "send If-Modified-Since or If-None-Match with -H"),
        ("next", "give the commands one by one"),
        ("config", "write its options into the command"),
        ("preproxy proxytunnel proxy-anyauth proxy-digest proxy-header proxy-insecure proxy-ntlm", "use -x and -U"),
        ("post301 post302 post303 request-target", "nothing here does that"),
        ("help manual version", "leave it out"),
    )
    for name in names.split()
}


def options(words: list[str], with_value: Collection[str], flags: Collection[str]) -> Iterator[Option]:
    """The options of a command, those without meaning for a request left out; `with_value` and `flags` name the others.

    Raises ValueError for an option that is unknown, that is not part of a request, or whose value is missing.
    """
    takes_value = {*with_value, *_SKIPPED_WITH_VALUE}
    meant = {*with_value, *flags}
    rest = iter(words)
    for word in rest:
        for option in _read(word, rest, takes_value, meant):
            if option.name in meant:
                yield option


def _read(word: str, rest: Iterator[str], takes_value: set[str], meant: set[str]) -> Iterator[Option]:
    if word == "--":
        yield from (Option("url", url, True) for url in rest)
    elif word == "-" or not word.startswith("-"):
        yield Option("url", word, True)
    elif word.startswith("--"):
        written, equals, value = word[2:].partition("=")
        name = _known(written.removeprefix("no-"), word, meant)
        if name in takes_value:
            yield Option(name, value if equals else _next(rest, word), True)
        else:
            yield Option(name, "", not written.startswith("no-"))
    else:
        for at, letter in enumerate(word[1:], 2):
            if letter not in _SHORT:
                raise ValueError(f"curl has no option -{letter} (in {shown(word)})")
            name = _known(_SHORT[letter], f"-{letter}", meant)
            if name in takes_value:
                yield Option(name, word[at:] or _next(rest, f"-{letter}"), True)
                return
            yield Option(name, "", True)


def _next(rest: Iterator[str], option: str) -> str:
    value = next(rest, None)
    if value is None:
        raise ValueError(f"the option {option} needs a value, and the command ends there")
    return value


def _known(name: str, written: str, meant: set[str]) -> str:
    if name in meant or name in _SKIPPED or name in _SKIPPED_WITH_VALUE:
        return name
    if name in _ELSEWHERE:
        raise ValueError(f"{written} is not part of a request: {_ELSEWHERE[name]}")
    from difflib import get_close_matches

    near = get_close_matches(name, [*meant, *_SKIPPED, *_SKIPPED_WITH_VALUE, *_ELSEWHERE], 1)
    raise ValueError(f"unknown option {shown(written)}" + (f"; did you mean --{near[0]}?" if near else ""))
