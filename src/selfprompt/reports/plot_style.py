"""The look that all plots share: colours, names as they are written, and quiet axes."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")  # Okabe and Ito's
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINE_STYLES = ("-", "--", ":", "-.")
GREY, LIGHT_GREY = "#5c6370", "#dfe2e6"
RIGHT, WRONG = "#1a7f37", "#b42318"
FONT = 10


def literal(name: str) -> str:
    """A name as matplotlib shows it letter by letter.

    It takes what stands between two dollar signs for a formula, and leaves a name that begins with _ out of a legend.
    """
    return (f" {name}" if name.startswith("_") else name).replace("$", r"\$")


def truncated(name: str, length: int) -> str:
    """A name that takes at most so many letters."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def label_axes(axes: Axes, *, x: str = "", y: str = "", grid: str = "both") -> None:
    """Names of the axes, and the same quiet look everywhere."""
    axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY)
    axes.set_axisbelow(True)
    if grid != "none":
        axes.grid(axis=grid, color=LIGHT_GREY, linewidth=0.8)  # type: ignore[arg-type]  # a plain str for a Literal


def epoch_axis(axes: Axes, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Whole epochs below, and a scale from 0 with room for every loss."""
    highest = max((record["loss"] for history in histories.values() for record in history), default=1.0)
    axes.set_ylim(0, 1.08 * highest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
