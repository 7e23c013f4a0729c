"""The summary picture of a demo: accuracies, training curves and classified images."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from selfprompt.reports.plot_style import COLOURS, FONT, RIGHT, WRONG, draw, epoch_axis, label_axes, literal
from selfprompt.reports.plots import Estimate
from selfprompt.utils.files import write_atomically


def summary_picture(
    path: Path,
    bars: Mapping[str, Estimate],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    shown: Sequence[tuple[Image.Image, str, str]],
    caption: str,
) -> None:
    """Write accuracies, training curves and classified images as one PNG.

    Args:
        path: Path of the file.
        bars: Accuracies by name.
        histories: ``results["history"]`` by name of the run.
        shown: Images with the true and the predicted class.
        caption: One or two lines below.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1.1, 1])
    _named_bars(figure.add_subplot(grid[0, 0]), bars)
    _losses(figure.add_subplot(grid[0, 1]), {name: history for name, history in histories.items() if history})
    tiles = grid[1, :].subgridspec(2, max(1, (len(shown) + 1) // 2))
    for number, (image, truth, predicted) in enumerate(shown):
        axes = figure.add_subplot(tiles[number % 2, number // 2])
        axes.imshow(image)
        axes.set_axis_off()
        right = predicted == truth
        text, colour = (predicted, RIGHT) if right else (f"{predicted}\n(is {truth})", WRONG)
        axes.set_title(literal(text), fontsize=FONT - 1, color=colour)
    figure.supxlabel(literal(caption), fontsize=FONT - 1)
    write_atomically(path, draw(figure, "png", dpi=110))


def _named_bars(axes: Axes, bars: Mapping[str, Estimate]) -> None:
    """Draw horizontal bars with intervals, labelled by name."""
    for row, estimate in enumerate(bars.values()):
        axes.barh(row, estimate.value, color=COLOURS[0], height=0.6)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color="black", linewidth=1.5)
        end = estimate.value if estimate.high is None else estimate.high
        axes.text(end + 1.5, row, f"{estimate.value:.1f} %", va="center", fontsize=FONT - 1)
    axes.set_yticks(range(len(bars)), list(map(literal, bars)), fontsize=FONT - 1)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)  # room for the number behind a full bar
    axes.set_xticks(range(0, 101, 20))
    label_axes(axes, x="test accuracy, %, with its 95 % interval", grid="x")


def _losses(axes: Axes, histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Plot the training loss by epoch."""
    for (name, history), colour in zip(histories.items(), cycle(COLOURS), strict=False):
        look: dict[str, Any] = {"color": colour, "linewidth": 2, "label": literal(name)}
        axes.plot([record["epoch"] for record in history], [record["loss"] for record in history], **look)
    label_axes(axes, x="epoch", y="training loss")
    epoch_axis(axes, histories)
    axes.legend(fontsize=FONT - 1, frameon=False)
