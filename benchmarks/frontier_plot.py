"""The curves of `frontier.py` as an SVG. Needs matplotlib, so it is imported for `--plot` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

if TYPE_CHECKING:
    from pathlib import Path

    from frontier import Figures

__all__ = ["plot"]

_INK, _TARGET = "#1f5f8b", "#b0413e"


def plot(figures: list[Figures], path: Path) -> None:
    """Four curves over the number of URLs; what is promised as a dashed line."""
    matplotlib.rcParams.update({
        "svg.hashsalt": "frontier", "svg.fonttype": "none", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    drawing, axes = pyplot.subplots(2, 2, figsize=(8.4, 5.6), sharex=True)
    sizes = [row.size for row in figures]
    cost, disk, memory, lease = axes.flat
    _curve(cost, "CPU a page, the frontier's part, µs", sizes, [row.page_us for row in figures])
    _curve(disk, "on disk, bytes a URL", sizes, [row.bytes_per_url for row in figures], target=250)
    disk.plot(sizes, [row.live_per_url for row in figures], linestyle=":", color=_INK, label="in use")
    disk.legend(frameon=False, loc="lower right")
    _curve(memory, "anonymous memory, MiB more", sizes, [row.memory_mib for row in figures])
    for size, megabytes in ((1e6, 100), (1e7, 250)):
        if size in sizes:
            memory.plot([size], [megabytes * 1e6 / 2**20], marker="_", markersize=18, color=_TARGET)
    _curve(lease, "p99 of a lease, ms", sizes, [row.lease_p99 for row in figures], target=5)
    for each in (memory, lease):
        each.set_xlabel("URLs in the frontier")
    drawing.tight_layout()
    drawing.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(drawing)


def _curve(axes: Any, title: str, sizes: list[int], values: list[float], target: float | None = None) -> None:
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xscale("log")
    axes.plot(sizes, values, marker="o", markersize=4, color=_INK)
    for size, value in zip(sizes, values, strict=True):
        axes.annotate(f"{value:.3g}", (size, value), xytext=(0, 6), textcoords="offset points", ha="center", color=_INK)
    most = max(values)
    if target is not None:
        axes.axhline(target, linestyle="--", linewidth=1, color=_TARGET)
        most = max(most, target)
    axes.set_ylim(0, most * 1.25)
    axes.grid(visible=True, axis="y", linewidth=0.3)
