"""Plots of what prompts do in a frozen tower: pure functions of arrays.

Images are (B, S, S, 3), 8-bit RGB. Blocks are counted from 0.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from selfprompt.reports.plot_style import COLOURS, FONT, GREY, LIGHT_GREY, NARROW, literal, truncated

TILE = 1.15
"""Side of an image in inches."""
COLUMNS = 12
"""Largest number of blocks in a figure."""
PATCH, PROMPT = "#9aa1ab", COLOURS[1]
PARTS = {"CLS and registers": COLOURS[6], "prompts": PROMPT, "patches": COLOURS[5]}


def shown_blocks(blocks: Sequence[int], limit: int = COLUMNS) -> list[int]:
    """Return the blocks to show: all, or ``limit`` of them spread from first to last."""
    if len(blocks) <= limit:
        return list(blocks)
    return [blocks[round(index * (len(blocks) - 1) / (limit - 1))] for index in range(limit)]


def information_curves(panels: Mapping[str, Mapping[int, Sequence[float]]]) -> Figure:
    """Plot normalised mutual information of prompts and patch tokens, one panel per title.

    Args:
        panels: By title and finished epochs, the values of the blocks, in [0, 1]. Several epochs are drawn as a line
            per block, a single one as a bar per block.
    """
    figure = Figure(figsize=(NARROW, 3.2 * len(panels)), layout="constrained")
    for number, (title, values) in enumerate(panels.items()):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        axes.set_title(title, fontsize=FONT, loc="left")
        if len(values) > 1:
            _information_lines(axes, values)
        else:
            _information_bars(axes, next(iter(values.values())))
        highest = max(max(row) for row in values.values())
        axes.set_ylim(0, 1.1 * highest if highest > 0 else 1.0)
        _style_axes(axes, y="normalised information")
        if number == len(panels) - 1 and len(values) > 1:
            handles, names = axes.get_legend_handles_labels()
            figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=FONT - 1, title="block")
    return figure


def _information_lines(axes: Axes, values: Mapping[int, Sequence[float]]) -> None:
    epochs, depth = list(values), len(next(iter(values.values())))
    for block in range(depth):
        look: dict[str, Any] = {"color": _depth_colour(block, depth), "linewidth": 1.8, "label": str(block)}
        axes.plot(epochs, [values[epoch][block] for epoch in epochs], marker="o", markersize=3, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("finished epochs", fontsize=FONT)


def _information_bars(axes: Axes, values: Sequence[float]) -> None:
    axes.bar(range(len(values)), values, color=[_depth_colour(block, len(values)) for block in range(len(values))])
    axes.set_xticks(range(len(values)))
    axes.set_xlabel("block", fontsize=FONT)


def selection_pictures(
    images: np.ndarray, names: Sequence[str], selected: Mapping[int, np.ndarray], grid: tuple[int, int], prefix: int
) -> Figure:
    """Draw images with the patches selected at each block; the others are dimmed.

    Args:
        images: Images, (B, S, S, 3).
        names: Captions of the images.
        selected: By block, positions in prefix and patches, (B, P), strongest first.
        grid: Rows and columns of patches.
        prefix: Number of CLS and register tokens; selected ones are named below the image.
    """
    blocks = shown_blocks(list(selected))
    figure, tiles = _tiles(images, names, [f"block {block}" for block in blocks])
    for row, line in enumerate(tiles):
        for axes, block in zip(line[1:], blocks, strict=True):
            positions = [int(position) for position in selected[block][row]]
            _dim_all_but(axes, images[row], [position - prefix for position in positions if position >= prefix], grid)
            _label_prefix(axes, [position for position in positions if position < prefix])
    return figure


def _dim_all_but(axes: Axes, image: np.ndarray, patches: Sequence[int], grid: tuple[int, int]) -> None:
    """Draw an image with highlighted patches; the strongest one has the widest edge."""
    height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
    axes.imshow((0.35 * image + 0.65 * 255).astype(np.uint8))
    for rank, patch in enumerate(patches):
        top, left = (patch // grid[1]) * height, (patch % grid[1]) * width
        rows, columns = slice(round(top), round(top + height)), slice(round(left), round(left + width))
        extent = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
        axes.imshow(image[rows, columns], extent=extent)
        edge = {"edgecolor": PROMPT, "linewidth": 2.0 if rank == 0 else 1.0, "facecolor": "none"}
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **edge))  # type: ignore[arg-type]
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)


def _label_prefix(axes: Axes, prefix: Sequence[int]) -> None:
    """Name selected tokens that are not patches."""
    if prefix:
        words = "+CLS" if list(prefix) == [0] else f"+{len(prefix)} of the prefix"
        axes.set_xlabel(
            words, fontsize=FONT - 3, color=PROMPT, labelpad=2
        )  # below the image, whose corners may be selected


def attention_pictures(images: np.ndarray, names: Sequence[str], patches: np.ndarray, grid: tuple[int, int]) -> Figure:
    """Draw images overlaid with the attention of each block to their patches.

    Args:
        images: Images, (B, S, S, 3).
        names: Captions of the images.
        patches: Attention to patches, (depth, B, N); each image is scaled to its largest value.
        grid: Rows and columns of patches.
    """
    blocks = shown_blocks(range(len(patches)))
    figure, tiles = _tiles(images, names, [f"block {block}" for block in blocks])
    for row, line in enumerate(tiles):
        for axes, block in zip(line[1:], blocks, strict=True):
            height, width = images[row].shape[:2]
            axes.imshow(images[row].mean(axis=-1), cmap="gray", vmin=0, vmax=255)
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(patches[block, row].reshape(grid), cmap="inferno", alpha=0.6, extent=extent, vmin=0)
    return figure


def attention_shares(shares: np.ndarray, prompts: np.ndarray, even: float) -> Figure:
    """Plot the attention to prefix, prompts and patches in each block, and to each prompt.

    Args:
        shares: Attention to prefix, prompts and patches, (depth, 3); rows sum to 1.
        prompts: Attention to each prompt, mean over images, (depth, P).
        even: Share of the prompts under uniform attention, drawn as a dashed line.
    """
    figure = Figure(figsize=(NARROW, 6.8), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    blocks, below = range(len(shares)), np.zeros(len(shares))
    order = (1, 0, 2)  # prompts first: their bar starts at 0
    for part in order:
        name, colour = list(PARTS.items())[part]
        if shares[:, part].any():
            upper.bar(blocks, 100 * shares[:, part], bottom=below, color=colour, label=name, width=0.8)
        below = below + 100 * shares[:, part]
    upper.axhline(100 * even, color="black", linestyle="--", linewidth=1.2, label="prompts, uniform attention")
    upper.set_ylim(0, 100)
    upper.yaxis.set_major_formatter(PercentFormatter())
    _style_axes(upper, x="block", y="attention")
    upper.set_xticks(blocks)
    handles, names = upper.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", frameon=False, fontsize=FONT - 1, ncols=2)
    drawn = lower.imshow(100 * prompts, aspect="auto", cmap="inferno", vmin=0)
    figure.colorbar(drawn, ax=lower, format=PercentFormatter(decimals=1))
    lower.set_xlabel("prompt", fontsize=FONT)
    lower.set_ylabel("block", fontsize=FONT)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def token_maps(maps: Mapping[int, tuple[np.ndarray, np.ndarray, float]]) -> Figure:
    """Plot prompts and patch tokens on their first two principal components, one map per block.

    Args:
        maps: By block, coordinates of patches, (n, 2), and of prompts, (m, 2), and the explained share of the
            variance, in [0, 1].
    """
    blocks = shown_blocks(list(maps))
    columns = min(3 if len(blocks) <= 6 else 4, len(blocks))
    rows = math.ceil(len(blocks) / columns)
    figure = Figure(figsize=(2.7 * columns, 2.6 * rows + 0.4), layout="constrained")
    for index, block in enumerate(blocks):
        patches, prompts, share = maps[block]
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.scatter(patches[:, 0], patches[:, 1], s=5, color=PATCH, alpha=0.5, linewidths=0, rasterized=True)
        axes.scatter(
            prompts[:, 0],
            prompts[:, 1],
            s=34,
            color=PROMPT,
            marker="D",
            edgecolors="white",
            linewidths=0.7,
            rasterized=True,
        )
        axes.set_title(f"block {block}  ({100 * share:.0f} % of the variance)", fontsize=FONT - 1, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(LIGHT_GREY)
    handles = [
        Line2D([], [], linestyle="", marker="D", color=PROMPT, label="prompts"),
        Line2D([], [], linestyle="", marker="o", color=PATCH, label="patch tokens"),
    ]
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=FONT, ncols=2)
    return figure


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """Return a figure as the contents of a PNG file."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dpi)
    return written.getvalue()


def _tiles(images: np.ndarray, names: Sequence[str], columns: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a row per image: the image with its caption, then empty axes for each column."""
    size = (TILE * (len(columns) + 1) + 0.2, (TILE + 0.1) * len(images) + 0.35)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02))
    grid = figure.subplots(len(images), len(columns) + 1, squeeze=False)
    tiles = [list(row) for row in grid]
    for row, (image, name) in enumerate(zip(images, names, strict=True)):
        for axes in tiles[row]:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        tiles[row][0].imshow(image)
        tiles[row][0].set_xlabel(literal(truncated(name, 18)), fontsize=FONT - 3)
    for axes, title in zip(tiles[0][1:], columns, strict=True):
        axes.set_title(title, fontsize=FONT - 1)
    return figure, tiles


def _depth_colour(block: int, depth: int) -> Any:
    """Return a colour from dark (first block) to bright (last block)."""
    return colormaps["viridis"](0.05 + 0.85 * block / max(1, depth - 1))


def _style_axes(axes: Axes, *, x: str = "", y: str = "") -> None:
    if x:
        axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=LIGHT_GREY, linewidth=0.8)
