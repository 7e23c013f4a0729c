"""Pictures of a run: training curves, and images with what a classifier says of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only, no window
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

RIGHT, WRONG = "#1a7f37", "#b42318"


def summary_picture(
    path: Path,
    runs: Mapping[str, Mapping[str, Any]],
    shown: Sequence[tuple[Image.Image, str, str]],
    caption: str,
) -> None:
    """Accuracy of several runs, their training curves, and classified images, in one PNG.

    Args:
        path: The file to write.
        runs: A run's results by its name.
        shown: Images with the true and the predicted class.
        caption: One line below.
    """
    figure = plt.figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[1.1, 1])
    _accuracies(figure.add_subplot(grid[0, 0]), runs)
    _curves(figure.add_subplot(grid[0, 1]), runs)
    tiles = grid[1, :].subgridspec(2, max(1, (len(shown) + 1) // 2))
    for number, (image, truth, said) in enumerate(shown):
        axes = figure.add_subplot(tiles[number % 2, number // 2])
        axes.imshow(image)
        axes.set_axis_off()
        axes.set_title(
            said if said == truth else f"{said} (is {truth})",
            fontsize=9,
            color=RIGHT if said == truth else WRONG,
        )
    figure.supxlabel(caption, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _accuracies(axes: Axes, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Horizontal bars with 95 % intervals."""
    measured = {name: results["tuned"] for name, results in runs.items() if results.get("tuned")}
    for row, (name, metrics) in enumerate(measured.items()):
        low, high = metrics["interval"]
        axes.barh(row, metrics["accuracy"], color="#4878a8", height=0.6)
        axes.plot([low, high], [row, row], color="black", linewidth=1.5)
        axes.text(2, row, f"{name}  {metrics['accuracy']:.1f} %", va="center", color="white", fontsize=9)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("test accuracy, %, with its 95 % interval")


def _curves(axes: Axes, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Training loss by epoch."""
    for name, results in runs.items():
        if results.get("history"):
            axes.plot([r["epoch"] for r in results["history"]], [r["loss"] for r in results["history"]], label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.legend(fontsize=8)
