"""The plot of ``python -m perf``."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from selfprompt.reports.plot_style import COLOURS, FONT, GREY, LIGHT_GREY


def ratio_bars(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the speedup of each row over the plain baseline on a logarithmic scale.

    Whiskers span the rounds, diamonds mark targets, and pale bars have an extrapolated baseline.

    Args:
        rows: ``rows`` of perf.json.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("ratio_bars needs at least 1 row, got none.")
    figure = Figure(figsize=(9, 1.2 + 0.38 * max(3, len(rows))), layout="constrained")
    axes = figure.add_subplot()
    for position, row in enumerate(rows):
        faster, pale = row["faster"], bool(row["measured_at"])
        colour = COLOURS[0] if row["equal"] else COLOURS[1]
        axes.barh(position, faster["median"] - 1, left=1, color=colour, height=0.6, alpha=0.45 if pale else 1)
        axes.plot([faster["low"], faster["high"]], [position, position], color="black", linewidth=1.5)
        end = max(faster["high"], faster["median"], 1)
        axes.annotate(
            f"{faster['median']:.3g}",
            (end, position),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT - 1,
        )
        target = row["case"]["target"]["faster"]
        if "faster" in row["met"] and target is not None:
            axes.plot([target], [position], marker="D", color=COLOURS[4], markeredgecolor="black", linestyle="none")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=FONT - 1)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.12)  # room for the annotations
    axes.set_xlabel("times as fast as the plain baseline", fontsize=FONT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=LIGHT_GREY, linewidth=0.8)
    return figure
