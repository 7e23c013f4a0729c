"""Plots of results as matplotlib figures: pure functions of numbers, without the global state of pyplot.

Percentages are in [0, 100]. The colours suit colour-blind readers; if there are more series than colours, markers and
line styles distinguish them.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selfprompt.metrics import harmonic_mean
from selfprompt.reports.plot_style import (
    COLOURS,
    FONT,
    GREY,
    LINE_STYLES,
    MARKERS,
    NARROW,
    epoch_axis,
    label_axes,
    literal,
    truncated,
)


@dataclass(frozen=True)
class Estimate:
    """A measured percentage.

    Attributes:
        value: Value in [0, 100].
        low, high: Interval; None if unknown.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> "Estimate":
        """Return accuracy and interval of ``Metrics.to_json()``, as stored in results."""
        return cls(metrics["accuracy"], *metrics["interval"])


def training_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Plot training loss and training accuracy by epoch, one below the other.

    Args:
        histories: ``results["history"]`` by name of the run: records with epoch, loss and optionally train_accuracy, in
            [0, 1]. Runs without records, such as zero-shot, are left out.
    """
    shown = {name: history for name, history in histories.items() if history}
    figure, (losses, accuracies) = _panels(NARROW, 5.4, 2, stacked=(1, 1))
    for (name, history), colour, line in zip(shown.items(), _colours(len(shown)), _lines(len(shown)), strict=True):
        epochs = [record["epoch"] for record in history]
        look: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": 2, "label": literal(name)}
        losses.plot(epochs, [record["loss"] for record in history], **look)
        known = [(r["epoch"], 100 * r["train_accuracy"]) for r in history if r.get("train_accuracy") is not None]
        accuracies.plot([epoch for epoch, _ in known], [share for _, share in known], **look)
    label_axes(losses, y="training loss")
    label_axes(accuracies, x="epoch", y="training accuracy, %")
    epoch_axis(losses, shown)
    epoch_axis(accuracies, shown)
    accuracies.set_ylim(0, 102)
    _legend_below(figure, losses)
    return figure


def accuracy_bars(
    groups: Sequence[str], series: Mapping[str, Sequence[Estimate]], *, chance: Sequence[float] | None = None
) -> Figure:
    """Plot vertical bars with intervals: before and after, or several methods.

    Args:
        groups: Labels below the axis: "base", "new", "H".
        series: One bar per group by name of the series: "zero-shot", "SEP".
        chance: Chance level of each group, drawn as a dashed line.

    Raises:
        ValueError: If a series does not have one estimate for each group.
    """
    _check_lengths(groups, series)
    figure, (axes,) = _panels(max(5.0, 1.2 + 0.55 * len(groups) * (len(series) + 1)), 3.6, 1)
    width = 0.8 / max(1, len(series))
    for number, ((name, estimates), colour) in enumerate(zip(series.items(), _colours(len(series)), strict=True)):
        positions = [group - 0.4 + (number + 0.5) * width for group in range(len(groups))]
        axes.bar(positions, [e.value for e in estimates], width=0.92 * width, color=colour, label=literal(name))
        for position, estimate in zip(positions, estimates, strict=True):
            _whisker(axes, position, estimate)
            top = estimate.value if estimate.high is None else max(estimate.high, estimate.value)
            axes.annotate(
                f"{estimate.value:.1f}",
                (position, top),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=FONT - 1,
            )
    for group, level in enumerate(chance or ()):
        label = "chance" if group == 0 else None
        axes.plot([group - 0.45, group + 0.45], [level, level], color="black", linestyle="--", linewidth=1, label=label)
    axes.set_xticks(range(len(groups)), list(map(literal, groups)))
    axes.set_ylim(0, 108)  # room for the number above a full bar
    axes.set_yticks(range(0, 101, 20))
    label_axes(axes, y="accuracy, %", grid="y")
    _legend_below(figure, axes)
    return figure


def base_new_scatter(points: Mapping[str, tuple[float, float]]) -> Figure:
    """Plot accuracy on base classes against accuracy on new classes, with contours of their harmonic mean H.

    Args:
        points: (base, new) in percent by name; the legend lists them by H, best first.

    Raises:
        ValueError: If there is no point.
    """
    if not points:
        raise ValueError("base_new_scatter needs at least 1 point, got none.")
    ranked = sorted(points.items(), key=lambda entry: -harmonic_mean(*entry[1]))
    figure, (axes,) = _panels(NARROW, 4.4 + 0.22 * len(ranked), 1)
    for (name, (base, new)), colour, marker in zip(ranked, _colours(len(ranked)), _markers(len(ranked)), strict=True):
        label = literal(f"{name}  (H {harmonic_mean(base, new):.1f})")
        axes.scatter([base], [new], s=70, color=colour, marker=marker, edgecolors="white", label=label, zorder=3)
    x, y = _axis_limits([base for base, _ in points.values()]), _axis_limits([new for _, new in points.values()])
    axes.set_xlim(*x)
    axes.set_ylim(*y)
    _harmonic_contours(axes, x, y)
    label_axes(axes, x="accuracy on base classes, %", y="accuracy on new classes, %", grid="none")
    _legend_below(figure, axes, columns=1)
    return figure


def shots_curves(
    curves: Mapping[str, Mapping[int, Sequence[float]]], *, reference: Mapping[str, float] | None = None
) -> Figure:
    """Plot accuracy by number of shots: mean over seeds, with a band of one standard deviation.

    Args:
        curves: Accuracies of the seeds in percent, by name and number of shots (at least 1).
        reference: Accuracies that do not depend on shots, such as zero-shot, drawn as horizontal lines.
    """
    figure, (axes,) = _panels(NARROW, 3.6 + 0.11 * (len(curves) + len(reference or {})), 1)
    looks = zip(_colours(len(curves)), _markers(len(curves)), strict=True)
    for (name, by_shots), (colour, marker) in zip(curves.items(), looks, strict=True):
        shots = sorted(by_shots)
        means = [statistics.fmean(by_shots[count]) for count in shots]
        spreads = [statistics.stdev(by_shots[count]) if len(by_shots[count]) > 1 else 0.0 for count in shots]
        axes.plot(shots, means, color=colour, marker=marker, markersize=5, linewidth=1.8, label=literal(name))
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(shots, low, high, color=colour, alpha=0.15, linewidth=0)
    for (name, level), line in zip((reference or {}).items(), cycle(LINE_STYLES[1:]), strict=False):
        axes.axhline(level, color=GREY, linestyle=line, linewidth=1.5, label=literal(name))
    ticks = sorted({count for by_shots in curves.values() for count in by_shots})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(count) for count in ticks])
    axes.minorticks_off()
    label_axes(axes, x="shots: training images per class", y="accuracy, %")
    _legend_below(figure, axes)
    return figure


def learning_curve(points: Sequence[tuple[float, float, tuple[float, float]]]) -> Figure:
    """Plot accuracy by the number of photos of each class, with intervals.

    Args:
        points: Photos of each class (positive), accuracy and interval in percent.

    Raises:
        ValueError: If there is no point.
    """
    if not points:
        raise ValueError("learning_curve needs at least 1 point, got none.")
    figure, (axes,) = _panels(4.4, 3.2, 1)
    photos, accuracies = [point[0] for point in points], [point[1] for point in points]
    below = [max(0.0, accuracy - low) for _, accuracy, (low, _) in points]
    above = [max(0.0, high - accuracy) for _, accuracy, (_, high) in points]
    look: dict[str, Any] = {"color": COLOURS[0], "marker": "o", "linewidth": 1.8, "capsize": 3}
    axes.errorbar(photos, accuracies, yerr=[below, above], **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(photos, [f"{count:.3g}" for count in photos])
    axes.minorticks_off()
    label_axes(axes, x="photos of each class for training", y="accuracy, %")
    return figure


def gain_bars(gains: Mapping[str, float], *, method: str, baseline: str, quantity: str = "accuracy") -> Figure:
    """Plot the gains of a method over a baseline on each data set, the largest on top.

    Args:
        gains: Difference of accuracies in percentage points by data set.
        method, baseline: Names for the axis label.
        quantity: Compared quantity, for the axis label.
    """
    ranked = sorted(gains.items(), key=lambda entry: entry[1])
    figure, (axes,) = _panels(NARROW, 1.0 + 0.32 * max(3, len(ranked)), 1)
    values = [gain for _, gain in ranked]
    axes.barh(range(len(ranked)), values, height=0.65, color=[COLOURS[0] if v >= 0 else COLOURS[1] for v in values])
    for row, value in enumerate(values):
        axes.annotate(
            f"{value:+.1f}",
            (value, row),
            (4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=FONT - 1,
        )
    axes.set_yticks(range(len(ranked)), [literal(truncated(name, 24)) for name, _ in ranked])
    axes.axvline(0, color="black", linewidth=1)
    axes.margins(x=0.15)  # room for the numbers
    middle, half = (len(ranked) - 1) / 2, max(3, len(ranked)) / 2  # a single bar is as thick as one of many
    axes.set_ylim(middle - half, middle + half)
    label_axes(axes, x=literal(f"{quantity}:\n{method} minus {baseline}, percentage points"), grid="x")
    return figure


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Plot a confusion matrix; rows are true classes, in percent of their images.

    Args:
        counts: Numbers of images, (true classes, predicted classes), as ``Metrics.confusion``.
        classes: Class names, shown for up to 60 classes.
    """
    size, names = len(classes), [literal(truncated(name, 32)) for name in classes]
    side = min(8.5, 1.1 + 0.28 * max(size, 6)) + 0.5 + 0.07 * max(map(len, names))  # the cells, and room for the names
    figure, (axes,) = _panels(side + 1.2, side, 1)
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label("% of the true class's images", fontsize=FONT)
    bar.outline.set_visible(False)
    if size <= 60:
        axes.set_xticks(range(size), names, rotation=90, fontsize=FONT - 1 if size <= 30 else 6)
        axes.set_yticks(range(size), names, fontsize=FONT - 1 if size <= 30 else 6)
    if size <= 12:
        for row, line in enumerate(shares):
            for column, share in enumerate(line):
                if counts[row][column]:
                    colour = "white" if share > 55 else "black"
                    axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=FONT - 2, color=colour)
    label_axes(axes, x="predicted class", y="true class", grid="none")
    return figure


def reliability_diagram(bins: Sequence[tuple[float, float, int]], error: float | None = None) -> Figure:
    """Plot accuracy against confidence; perfect calibration is the diagonal.

    Args:
        bins: Mean confidence, accuracy (both in [0, 1]) and number of images of each bin; empty bins are left out.
        error: Expected calibration error in [0, 1], for the title.
    """
    filled = [entry for entry in bins if entry[2]]
    figure, (axes, counts) = _panels(NARROW, 4.8, 2, stacked=(3, 1))
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    confidences = [100 * confidence for confidence, _, _ in filled]
    accuracies = [100 * accuracy for _, accuracy, _ in filled]
    axes.vlines(confidences, confidences, accuracies, color=COLOURS[1], linewidth=4, alpha=0.35)
    axes.plot(confidences, accuracies, color=COLOURS[0], marker="o", linewidth=1.8)
    counts.bar(confidences, [count for _, _, count in filled], width=100 / max(15, len(bins)), color=COLOURS[0])
    for each in (axes, counts):
        each.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    if error is not None:
        axes.set_title(f"expected calibration error {100 * error:.1f} %", fontsize=FONT, loc="left")
    label_axes(axes, y="accuracy, %")
    label_axes(counts, x="confidence, %", y="images")
    return figure


def _panels(width: float, height: float, count: int, *, stacked: Sequence[float] = ()) -> tuple[Figure, list[Axes]]:
    """Return a figure, size in inches, with ``count`` axes side by side, or stacked in these proportions."""
    figure = Figure(figsize=(width, height), layout="constrained")
    rows, columns = (count, 1) if stacked else (1, count)
    grid = figure.add_gridspec(rows, columns, height_ratios=list(stacked) or None)
    return figure, [figure.add_subplot(grid[row, column]) for row in range(rows) for column in range(columns)]


def _legend_below(figure: Figure, axes: Axes, *, columns: int = 2) -> None:
    """Add one legend for the figure if there is more than one series."""
    handles, names = axes.get_legend_handles_labels()
    if "chance" in names:  # matplotlib lists lines first
        handles, names = handles[1:] + handles[:1], names[1:] + names[:1]
    if len(names) > 1:
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(columns, len(names)), frameon=False, fontsize=FONT
        )


def _whisker(axes: Axes, position: float, estimate: Estimate) -> None:
    """Draw the interval of a vertical bar."""
    if estimate.low is not None and estimate.high is not None:
        below, above = max(0.0, estimate.value - estimate.low), max(0.0, estimate.high - estimate.value)
        axes.errorbar(
            [position], [estimate.value], yerr=[[below], [above]], fmt="none", ecolor="black", elinewidth=1.2, capsize=3
        )


def _harmonic_contours(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Draw contours of equal H over the visible area, with their values."""
    steps = 80
    bases = [x[0] + (x[1] - x[0]) * i / steps for i in range(steps + 1)]
    news = [y[0] + (y[1] - y[0]) * i / steps for i in range(steps + 1)]
    means = [[harmonic_mean(base, new) for base in bases] for new in news]
    lines = axes.contour(bases, news, means, levels=7, colors=[GREY], linewidths=0.7, alpha=0.6)
    axes.clabel(lines, fmt="H %g", fontsize=FONT - 2)


def _axis_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return limits of a percentage axis with a margin around the values, at least ten points apart."""
    low, high = min(values), max(values)
    margin = max(5.0, 0.15 * (high - low))
    return max(0.0, math.floor(low - margin)), min(100.0, math.ceil(high + margin))


def _check_lengths(groups: Sequence[str], series: Mapping[str, Sequence[Estimate]]) -> None:
    """Raise ValueError for a series whose length differs from the number of groups."""
    for name, estimates in series.items():
        if len(estimates) != len(groups):
            raise ValueError(f"{name!r} needs one estimate for each of {len(groups)} groups, got {len(estimates)}.")


def _colours(count: int) -> list[str]:
    return list(islice(cycle(COLOURS), count))


def _markers(count: int) -> list[str]:
    return list(islice(cycle(MARKERS), count))


def _lines(count: int) -> list[str]:
    """Return a line style per series; it changes after each pass through the colours."""
    return [LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)] for number in range(count)]
