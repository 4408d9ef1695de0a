"""The tables and the plot of what `growth.py` measured.

A ratio is to the smallest point of the row, taken round by round where both ran, of which the median is shown: what the
machine did besides in one round falls on both. All else are medians over the runs.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["page", "plot", "table"]

TARGET = 1.2
"""What a page may cost at any size, the smallest being 1."""
_TITLES = {
    "queue": "The queue grows: one host, over the wire",
    "hosts": "Hosts grow: a queue of {queue:,}, over the wire",
    "memory": "Hosts grow: a queue of {queue:,}, without the wire",
}
_COLUMNS = (
    "ms/page",
    "ratio",
    f"<= {TARGET}",
    "new conn./page",
    "warm-up ms/page",
    "fill us/URL",
    "MiB",
    "then",
    "runs",
)

Results = dict[str, Any]


def page(results: Results) -> str:
    """The Markdown file."""
    found = results["machine"]
    optimised = "with" if found["enable_optimizations"] else "without"
    listed = ", ".join(f"{package} {version}" for package, version in results["versions"].items())
    return f"""\
# What a page costs as queue and hosts grow, {results["date"]}

{found["cpu"]}, {found["cores"]} cores, {found["kernel"]}.
{found["python"]}, configured {optimised} `--enable-optimizations`, on {found["loop"]}; {listed}.
{results["open_files"]} open files allowed: half of that many connections are kept, for 15 s.

CPU (user + system, all threads) of the crawl's process; medians of {results["rounds"]} rounds, the largest points of
fewer (`runs`). `ratio` is to the first point of the row, the median of the rounds' ratios. Pages of 3 KB with 20 links
to their own host, 18 of them known, so the queue grows by one a page; 10,000 hosts have a queue of 200,000. `warm-up`
are the pages before those that count, with each host's robots.txt and first connection; `fill` is what the process used
until all was queued, its start included. `MiB` is anonymous memory at the first page that counts, `then` at the last.

{table(results)}
"""


def table(results: Results) -> str:
    """One Markdown table for each row of points, aligned for a terminal."""
    return "\n\n".join(_table_of(results, name) for name in results["rows"])


def _table_of(results: Results, name: str) -> str:
    points = results["rows"][name]
    varied = "queue" if name == "queue" else "hosts"
    shown: list[tuple[str, ...]] = [(varied, *_COLUMNS)]
    for point in points:
        runs = [run for run in results["runs"] if run["point"] == point["key"]]
        middle = {what: statistics.median(run[what] for run in runs) for what in runs[0] if what not in _WORDS}
        times = ratio(results, points[0], point)
        verdict = "" if times is None or point is points[0] else ("met" if times <= TARGET else "MISSED")
        shown.append((
            f"{point[varied]:,}", f"{middle['ms']:.3f}", "" if times is None else f"{times:.2f}", verdict,
            f"{middle['connections']:.2f}" if point["wire"] else "", f"{middle['warm_up_ms']:.2f}",
            f"{middle['fill_us']:.0f}", f"{middle['first_mib']:.0f}", f"{middle['last_mib']:.0f}", str(len(runs)),
        ))  # fmt: skip
    widths = [max(3, *(len(row[column]) for row in shown)) for column in range(len(shown[0]))]
    shown.insert(1, tuple("-" * (width - 1) + ":" for width in widths))
    lines = [f"| {' | '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))} |" for row in shown]
    return "\n".join([f"**{_TITLES[name].format(**points[0])}**", "", *lines])


_WORDS = ("round", "point")


def ratio(results: Results, first: dict[str, Any], point: dict[str, Any]) -> float | None:
    """Median over the rounds of what a page of `point` costs over one of `first`; None where no round has both."""
    ours, base = _by_round(results, point["key"]), _by_round(results, first["key"])
    shares = [ms / base[number] for number, ms in ours.items() if number in base]
    return statistics.median(shares) if shares else None


def _by_round(results: Results, key: str) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for run in results["runs"]:
        if run["point"] == key:
            found.setdefault(run["round"], []).append(run["ms"])
    return {number: statistics.median(values) for number, values in found.items()}


def plot(results: Results, path: Path) -> bool:
    """The ratios over the sizes, what is promised as a dashed line; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({
        "svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    drawing, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.2), sharey=True)
    for name, colour in (("queue", "#1f5f8b"), ("hosts", "#8c9aa5"), ("memory", "#1f5f8b")):
        points = results["rows"].get(name)
        if not points:
            continue
        each, varied = (axes[0], "queue") if name == "queue" else (axes[1], "hosts")
        sizes = [point[varied] for point in points]
        values = [ratio(results, points[0], point) for point in points]
        label = {"queue": "one host", "hosts": "over the wire", "memory": "without the wire"}[name]
        each.plot(sizes, values, marker="o", markersize=4, color=colour, label=label)
    for each, title in zip(axes, ("URLs in the queue", "hosts"), strict=True):
        each.set_title(f"CPU a page, the smallest is 1: {title}", loc="left", fontsize=9)
        each.set_xscale("log")
        each.axhline(TARGET, linestyle="--", linewidth=1, color="#b0413e")
        each.set_ylim(bottom=0)
        each.legend(frameon=False, loc="lower right")
    drawing.tight_layout()
    drawing.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(drawing)
    return True
