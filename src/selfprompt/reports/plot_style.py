"""Style shared by all plots: colours, literal names and axes."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")  # Okabe and Ito's
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINE_STYLES = ("-", "--", ":", "-.")
GREY, LIGHT_GREY = "#5c6370", "#dfe2e6"
RIGHT, WRONG = "#1a7f37", "#b42318"
FONT = 10
NARROW = 4.8
"""Width in inches of most plots, so that their letters stay legible on a phone."""


def literal(name: str) -> str:
    """Escape a name for matplotlib.

    Otherwise text between two dollar signs is a formula, and a legend omits names that start with _.
    """
    return (f" {name}" if name.startswith("_") else name).replace("$", r"\$")


def draw(figure: Figure, kind: Literal["svg", "png"], **options: Any) -> bytes:
    """Return a figure as the content of a file; letters that the font lacks become boxes, without a warning each."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(drawn, format=kind, **options)
    return drawn.getvalue()


def truncated(name: str, length: int) -> str:
    """Shorten a name to at most ``length`` characters."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def label_axes(axes: Axes, *, x: str = "", y: str = "", grid: str = "both") -> None:
    """Label the axes and apply the common style."""
    axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY)
    axes.set_axisbelow(True)
    if grid != "none":
        axes.grid(axis=grid, color=LIGHT_GREY, linewidth=0.8)  # type: ignore[arg-type]  # str for a Literal


def epoch_axis(axes: Axes, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Set integer ticks for epochs, and a scale from 0 to above the largest loss."""
    highest = max((record["loss"] for history in histories.values() for record in history), default=1.0)
    axes.set_ylim(0, 1.08 * highest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
