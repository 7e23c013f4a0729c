"""The page of an analysis: its sections, each with figures and the text that explains them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from selfprompt.reports import analysis_plots as plots
from selfprompt.reports.html import Block, figure, table, text, write_page
from selfprompt.utils.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from selfprompt.analysis.tower_runs import TowerRun
    from selfprompt.methods.base import Method
    from selfprompt.prompts.fusion import Selection

PAGE = "index.html"
ROWS = 40
"""Largest number of prompts in the table of words; class-specific contexts have many."""


@dataclass(frozen=True)
class AnalysedImages:
    """Images and their runs through the vision tower.

    Attributes:
        pixels: Normalised pixels, (B, 3, S, S), on the device of the model.
        pictures: Pixels to draw, (B, S, S, 3), 8-bit RGB.
        captions: Caption of each image.
        with_prompts: Run with the prompts of the method.
        without_prompts: Run of the backbone alone.
    """

    pixels: "Tensor"
    pictures: "np.ndarray"
    captions: tuple[str, ...]
    with_prompts: "TowerRun"
    without_prompts: "TowerRun"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in an image."""
        tower = self.with_prompts.tower
        rows, columns = (size // patch for size, patch in zip(tower.image_size, tower.patch_size, strict=True))
        return rows, columns


@dataclass(frozen=True)
class AnalysisInputs:
    """Everything that an analysis draws.

    Attributes:
        method: The tuned method, in eval mode.
        images: Images and their runs; None for a method without image prompts.
        epochs: Trained tensors by number of finished epochs; empty if training kept none.
        words: Number of nearest words to show per text prompt.
        command: Command line that made the page.
    """

    method: "Method"
    images: AnalysedImages | None
    epochs: "Mapping[int, Mapping[str, Tensor]]"
    words: int
    command: str


@dataclass(frozen=True)
class Section:
    """A section of the page, with the contents of its PNG files by name."""

    heading: str
    blocks: tuple[Block, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


def make_sections(inputs: AnalysisInputs, progress: Callable[[int, int], None]) -> tuple[list[Section], list[str]]:
    """Return the sections that apply to the method, and a sentence for each one that does not."""
    makers = (information_section, words_section, selection_section, attention_section, map_section)
    sections: list[Section] = []
    left_out = []
    for done, make in enumerate(makers):
        section = make(inputs)
        if isinstance(section, str):
            left_out.append(section)
        else:
            sections.append(section)
        progress(done + 1, len(makers))
    return sections, left_out


def write_analysis(out: Path, inputs: AnalysisInputs, sections: list[Section], left_out: list[str]) -> list[Path]:
    """Write a PNG per figure and, last, the page; return all paths."""
    files = {name: content for section in sections for name, content in section.files.items()}
    for name, content in files.items():
        write_atomically(out / name, content)
    method = inputs.method
    shown = f", on {len(inputs.images.captions)} images" if inputs.images else ""
    opening = f"{method.name} on {method.backbone.name}{shown}. Blocks are counted from 0."
    page = [
        ("Overview", [text(opening), *(text(sentence) for sentence in left_out)]),
        *((section.heading, section.blocks) for section in sections),
    ]
    facts = [("date", date.today().isoformat()), ("backbone", method.backbone.name), ("command", inputs.command)]
    write_page(out / PAGE, f"What the prompts of {method.name} do", page, method.backbone.note, facts=facts)
    return [out / name for name in (*files, PAGE)]


def information_section(inputs: AnalysisInputs) -> Section | str:
    """Mutual information of prompts and patch tokens, over the epochs if training kept them."""
    images = inputs.images
    if images is None:
        return "No mutual information with patch tokens: the method has no image prompts."
    if images.with_prompts.inputs[0].count < 2:
        return "No mutual information with patch tokens: with a single prompt it is 0 by definition."
    panels = information_values(inputs, images)
    along = bool(inputs.epochs)
    drawn = plots.information_curves(panels)
    how = (
        "Normalised mutual information of prompts and patch tokens: 0 if all prompts weight the patches alike, 1 if "
        "each prompt has its own patches. `tokens themselves`: products of the prompts at the input of each block "
        "and the patch tokens of the backbone without prompts. `through queries and keys`: attention logits from the "
        "prompts to the patches of the same input, with the block's projections. The definition is ours (SPT's code "
        "has none), and values depend on the scale of the tokens, so compare values within a panel only."
    )
    only = "Only the final state is shown; train with `--keep-every 1` to see the epochs."
    caption = "By finished epochs, one line per block." if along else "After tuning, by block."
    shown = figure(drawn, caption, "Normalised mutual information of prompts and patch tokens.")
    blocks = (text(how), *(() if along else (text(only),)), shown)
    return Section("Information shared with patch tokens", blocks, {"information.png": plots.to_png(drawn)})


def information_values(inputs: AnalysisInputs, images: AnalysedImages) -> dict[str, dict[int, list[float]]]:
    """Return the information by panel, finished epochs and block; the method keeps its trained state."""
    from selfprompt.analysis.nmi import projected_information, raw_information
    from selfprompt.analysis.tower_runs import run_with_prompts

    method = inputs.method
    tuned = {name: tensor.clone() for name, tensor in method.adapter_state_dict().items()}
    raw: dict[int, list[float]] = {}
    projected: dict[int, list[float]] = {}
    try:
        for epoch, tensors in (inputs.epochs or {-1: tuned}).items():
            method.load_adapter_state_dict(tensors)
            stream = run_with_prompts(method, images.pixels)
            assert stream is not None
            raw[epoch] = raw_information(stream, images.without_prompts)
            if why_no_attention(stream) is None:
                projected[epoch] = projected_information(stream)
    except ValueError as error:
        raise ValueError(f"The tensors of epoch {epoch} belong to another run: {error} Delete its epochs/.") from error
    finally:
        method.load_adapter_state_dict(tuned)
    return {"tokens themselves": raw, **({"through queries and keys": projected} if projected else {})}


def words_section(inputs: AnalysisInputs) -> Section | str:
    """Nearest words of the learned text prompts."""
    from selfprompt.analysis.words import input_prompts, nearest_words, spacing, vocabulary

    prompts = input_prompts(inputs.method)
    if not prompts:
        return "No nearest words: the method has no learned text prompts."
    tower, tokenizer = inputs.method.backbone.text_side()
    words = vocabulary(tower)
    rows = []
    for owner, vectors in prompts.items():
        for number, near in enumerate(nearest_words(vectors, words, tokenizer, inputs.words), 1):
            cells = [f"{entry.word} ({entry.distance:.2f})" for entry in near]
            rows.append([*([owner] if owner else []), str(number), *cells])
    columns = ["class"] if "" not in prompts else []
    columns += ["prompt", *(f"nearest {rank}" for rank in range(1, len(rows[0]) - len(columns)))]
    how = (
        "The vocabulary entries with the embeddings nearest to each learned text prompt at the input of the tower, "
        "with Euclidean distances. A hyphen marks a piece of a word. For comparison, the median distance from a word "
        f"to its nearest other word is {spacing(words):.2f}. A prompt much farther away than that does not resemble a "
        "word."
    )
    more = f"The first {ROWS} of {len(rows)} rows." if len(rows) > ROWS else ""
    return Section("Nearest words of text prompts", (text(how), table(columns, rows[:ROWS], more)))


def selection_section(inputs: AnalysisInputs) -> Section | str:
    """Patches that SEP selects as representatives."""
    from selfprompt.analysis.selection import selected_tokens

    images = inputs.images
    selection: Selection = getattr(inputs.method.options, "selection", "image")
    chosen = {} if images is None else selected_tokens(images.with_prompts, selection)
    if images is None or not chosen:
        return f"No selected patches: {inputs.method.name} does not select any."
    places = {block: index.cpu().numpy() for block, index in chosen.items()}
    drawn = plots.selection_pictures(
        images.pictures, images.captions, places, images.grid, images.with_prompts.inputs[0].prefix
    )
    how = (
        "At the input of each refreshed block, the tokens with the largest mean square become representatives, from "
        "which new prompts are made. Selected patches are framed, the strongest one with the widest frame; `+CLS` "
        "means that the class token is among them."
    )
    batch = "This method selects once per batch, so the selection holds for these images together only."
    shown = figure(drawn, "", "Images with the patches selected at the input of each block.")
    blocks = (text(how), *((text(batch),) if selection == "batch" else ()), shown)
    return Section("Patches that become new prompts", blocks, {"selection.png": plots.to_png(drawn)})


def attention_section(inputs: AnalysisInputs) -> Section | str:
    """Attention of the tokens that become the features."""
    from selfprompt.analysis.attention import attention_mass, pools_class_token

    images = inputs.images
    if images is None:
        return "No attention to prompts: the method has no image prompts."
    if fault := why_no_attention(images.with_prompts):
        return f"No attention: {fault}"
    stream = images.with_prompts
    attention = attention_mass(stream)
    tokens = stream.inputs[0]
    pictures = plots.attention_pictures(images.pictures, images.captions, attention.patches.cpu().numpy(), images.grid)
    even = tokens.count / tokens.x.shape[1]
    shares = plots.attention_shares(attention.shares().cpu().numpy(), attention.prompts.mean(dim=1).cpu().numpy(), even)
    by_class = pools_class_token(stream.tower, stream.pooling)
    asking = (
        "the class token, whose final state becomes the features"
        if by_class
        else "the patches (mean over their queries), since the features are an average of tokens"
    )
    how = (
        f"Attention weights of {asking}; mean over heads. They are computed from the input tokens of each block with "
        "the block's projections."
    )
    blocks = (
        text(how),
        figure(
            shares,
            "Above: attention by kind of token. Below: attention to each prompt.",
            "Share of attention on prompts.",
        ),
        figure(pictures, "Each picture is scaled to its largest weight.", "Attention to patches over the images."),
    )
    files = {"attention-shares.png": plots.to_png(shares), "attention.png": plots.to_png(pictures)}
    return Section("Attention to prompts and patches", blocks, files)


def map_section(inputs: AnalysisInputs) -> Section | str:
    """Prompts and patch tokens, projected onto a plane."""
    from selfprompt.analysis.map import token_map

    images = inputs.images
    if images is None:
        return "No maps of prompts and patch tokens: the method has no image prompts."
    maps = {}
    for block in plots.shown_blocks(range(len(images.with_prompts.inputs))):
        points = token_map(images.with_prompts, block)
        patches, prompts = (part.flatten(0, 1).cpu().numpy() for part in (points.patches, points.prompts))
        maps[block] = (patches, prompts, points.share)
    drawn = plots.token_maps(maps)
    how = (
        "Input tokens of each block, projected onto the first two principal components of patches and prompts "
        "together. Prompts that differ between images appear once per image."
    )
    shown = figure(drawn, "", "Maps of prompts and patch tokens.")
    return Section("Prompts and patch tokens", (text(how), shown), {"map.png": plots.to_png(drawn)})


def why_no_attention(stream: "TowerRun") -> str | None:
    """Return why the attention of the tower cannot be computed; None if it can."""
    try:
        stream.attention(0)
    except TypeError as error:
        return str(error)
    return None
