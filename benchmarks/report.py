"""The table and the plot of what `bench.py` measured: `python benchmarks/report.py RESULTS.json [PLOT.svg]`.

A ratio is ours over the contestant's, taken round by round where both ran, of which the median is shown: what the
machine did besides in one round falls on both. Seconds and memory are medians over the rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

__all__ = ["memory_limit", "page", "plot", "ratio", "table"]

MEMORY_TIMES, MEMORY_PLUS_MIB = 1.3, 30.0
"""What ours may need of memory, beside the plain loop."""
_COLOURS = {"ours": "#1f5f8b", "plain": "#8c9aa5", "tuned": "#c3ccd3", "scrapy": "#6a9a4b", "crawlee": "#c98a3b"}
_COLUMNS = ("", "CPU s", "ms/unit", "wall s", "peak MiB", "ours/it", "target", "")

Results = dict[str, Any]


def page(results: Results, name: str) -> str:
    """The Markdown file."""
    found = results["machine"]
    optimised = "with" if found["enable_optimizations"] else "without"
    listed = ", ".join(f"{package} {version}" for package, version in results["versions"].items())
    lines = [
        f"# What a crawl costs, {name}",
        "",
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}.",
        f"{found['python']}, configured {optimised} `--enable-optimizations`, on {found['loop']}; {listed}.",
    ]
    if results["peer_versions"]:
        listed = ", ".join(f"{package} {version}" for package, version in results["peer_versions"].items())
        lines.append(f"The peers: {listed}.")
    lines += [
        "",
        f"{results['concurrency']} requests in flight; medians of the rounds, of which there were {results['rounds']},",
        f"with the peers {min(results['peer_rounds'], results['rounds'])}.",
        "`ours/it` is our CPU over that of the row, the median of the rounds' ratios.",
        "",
        table(results),
        "",
    ]
    return "\n".join(lines)


def table(results: Results) -> str:
    """One Markdown table for each workload, its columns aligned for a terminal."""
    return "\n\n".join(_table_of(each, results["quick"]) for each in results["workloads"])


def _table_of(workload: dict[str, Any], quick: bool) -> str:
    rows: list[tuple[str, ...]] = []
    for contestant in _contestants(workload):
        used = medians(workload, contestant)
        share = ratio(workload, contestant)
        target = workload["targets"].get(contestant)
        shown = "" if target is None else f"<= {target:.2f}"
        verdict = "" if target is None or share is None or quick else ("met" if share <= target else "MISSED")
        if any(run["problems"] for run in workload["runs"] if run["contestant"] == contestant):
            verdict = "WRONG"
        if used is None:
            rows.append((contestant, "failed", "", "", "", "", shown, "WRONG"))
            continue
        cpu, wall, peak = used
        per_unit = cpu * 1000 / max(workload["units"], 1)
        figures = f"{cpu:.2f}", f"{per_unit:.3f}", f"{wall:.2f}", f"{peak:.0f}"
        same = contestant == "ours"
        rows.append((contestant, *figures, "" if same or share is None else f"{share:.2f}", shown, verdict))
    head = tuple(f"ms/{workload['unit']}" if column == "ms/unit" else column for column in _COLUMNS)
    lines = [f"**{workload['letter']}** {workload['title']}: {workload['units']} {workload['unit']}s", ""]
    widths = [max(3, *(len(row[column]) for row in (head, *rows))) for column in range(len(head))]
    rule = tuple("-" * max(width - 1, 2) + ("-" if column in (0, 7) else ":") for column, width in enumerate(widths))
    for row in (head, rule, *rows):
        cells = [
            cell.ljust(width) if column in (0, 7) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *_memory(workload, quick)])


def _memory(workload: dict[str, Any], quick: bool) -> list[str]:
    ours, plain = medians(workload, "ours"), medians(workload, "plain")
    if ours is None or plain is None:
        return []
    most = memory_limit(plain[2])
    verdict = "" if quick else ": met" if ours[2] <= most else ": MISSED"
    return ["", f"Memory of ours: {ours[2]:.0f} MiB, target <= {most:.0f} (1.3 times plain's and 30 MiB){verdict}"]


def memory_limit(plain_mib: float) -> float:
    """MiB that ours may need where the plain loop needs `plain_mib`."""
    return MEMORY_TIMES * plain_mib + MEMORY_PLUS_MIB


def medians(workload: dict[str, Any], contestant: str) -> tuple[float, float, float] | None:
    """CPU seconds, wall seconds, peak MiB; None where it never came to an end."""
    runs = [run for run in _counted(workload) if run["contestant"] == contestant]
    if not runs:
        return None
    cpu, wall, peak = (
        statistics.median(run[what] for run in runs) for what in ("cpu_seconds", "wall_seconds", "peak_mib")
    )
    return cpu, wall, peak


def ratio(workload: dict[str, Any], contestant: str) -> float | None:
    """Median over the rounds of our CPU seconds over the contestant's; None where no round has both."""
    cpu = {(run["round"], run["contestant"]): run["cpu_seconds"] for run in _counted(workload)}
    shares = [
        cpu[number, "ours"] / seconds
        for (number, who), seconds in cpu.items()
        if who == contestant and (number, "ours") in cpu
    ]
    return statistics.median(shares) if shares else None


def _counted(workload: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in workload["runs"] if run["round"] and run["cpu_seconds"] is not None]


def _contestants(workload: dict[str, Any]) -> list[str]:
    took_part = {run["contestant"] for run in workload["runs"]}
    return [contestant for contestant in _COLOURS if contestant in took_part]


def plot(results: Results, path: Path) -> bool:
    """CPU and peak memory of each contestant beside the plain loop's, as an SVG; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({
        "svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    drawing, axes = pyplot.subplots(2, 1, figsize=(8.4, 6.0), sharex=True)
    for index, (each, title) in enumerate(zip(axes, ("CPU", "peak memory"), strict=True)):
        _bars(each, results["workloads"], 0 if index == 0 else 2, f"{title}, the plain loop is 1")
    axes[0].legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.28))
    axes[1].set_xticks(range(len(results["workloads"])))
    names = [f"{each['letter']}\n{each['title'].replace(' of ', chr(10) + 'of ')}" for each in results["workloads"]]
    axes[1].set_xticklabels(names, fontsize=7)
    drawing.tight_layout()
    drawing.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(drawing)
    return True


def _bars(axes: Any, workloads: list[dict[str, Any]], figure: int, title: str) -> None:
    width = 0.8 / len(_COLOURS)
    for position, (contestant, colour) in enumerate(_COLOURS.items()):
        heights = []
        for workload in workloads:
            used, plain = medians(workload, contestant), medians(workload, "plain")
            heights.append(used[figure] / plain[figure] if used and plain else 0.0)
        if not any(heights):
            continue
        places = [place + (position - 2) * width for place in range(len(workloads))]
        bars = axes.bar(places, heights, width, color=colour, label=contestant)
        axes.bar_label(bars, [f"{height:.2g}" if height else "" for height in heights], fontsize=6, padding=1)
    axes.axhline(1, linewidth=0.6, color="#444444")
    axes.set_yscale("log")
    axes.yaxis.set_visible(False)  # the figures stand on the bars
    axes.spines["left"].set_visible(False)
    axes.set_title(title, loc="left", fontsize=9)


def main() -> int:
    """Show results that are there, and draw them anew."""
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(table(results))
    if len(sys.argv) == 3 and not plot(results, Path(sys.argv[2])):
        print("matplotlib is not installed (the extra `bench`)", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
