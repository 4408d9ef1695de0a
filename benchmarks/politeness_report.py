"""The tables of what `politeness.py` found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["page", "table"]

_WORDS_SHOWN = 40


def table(sections: Iterable[dict[str, Any]]) -> str:
    """For a terminal; checks as tuples or as dictionaries."""
    rows = []
    for section in sections:
        rows.append(f"\n{section['name']} ({section['seconds']:.0f} s, load {section['load']:.1f})")
        for check in section["checks"]:
            what, found, target, ok = check.values() if isinstance(check, dict) else check
            rows.append(f"  {'ok ' if ok else 'NOT'}  {what}: {found}{target and f'  [{target}]'}")
        rows += [f"       {words}" for words in section["words"][:_WORDS_SHOWN]]
        if len(section["words"]) > _WORDS_SHOWN:
            rows.append(f"       and {len(section['words']) - _WORDS_SHOWN} more")
    return "\n".join(rows)


def page(results: dict[str, Any]) -> str:
    """The Markdown file."""
    found = results["machine"]
    listed = ", ".join(f"{package} {version}" for package, version in results["versions"].items())
    parts = [
        "# A crawl's manners, from the journals of the hosts",
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}; {found['python']} on {found['loop']}; {listed}.",
        "`make politeness`; what is measured how is told at the top of `benchmarks/politeness.py`.",
    ]
    for section in results["sections"].values():
        about = f"{section['date']}, {section['seconds']:.0f} s, load {section['load']:.1f}, seed {section['seed']}"
        parts += [f"## {section['name']}", f"{about}.", _rows(section["checks"])]
        words = section["words"][:_WORDS_SHOWN]
        if len(section["words"]) > len(words):
            words = [*words, f"and {len(section['words']) - len(words)} more"]
        parts += ["\n".join(f"- {line}" for line in words)] if words else []
    return "\n\n".join(parts) + "\n"


def _rows(checks: Iterable[dict[str, Any]]) -> str:
    lines = ["| what | found | asked | |", "| --- | --- | --- | --- |"]
    for check in checks:
        verdict = ("met" if check["ok"] else "MISSED") if check["target"] else ""
        lines.append(f"| {check['what']} | {check['found']} | {check['target']} | {verdict} |")
    return "\n".join(lines)
