"""The sections of an analysis, each with its pictures and the words that explain them, and the page that holds them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from selfprompt.reports import analysis_plots as plots
from selfprompt.reports.html import Block, code, figure, table, text, write_page
from selfprompt.utils.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from selfprompt.analysis.tower_runs import TowerRun
    from selfprompt.methods.base import Method
    from selfprompt.prompts.fusion import Selection

PAGE = "index.html"
ROWS = 40
"""Prompts that the table of words shows; with an own context for each class there are many."""


@dataclass(frozen=True)
class ImageRun:
    """Images, and how they ran through the image tower.

    Attributes:
        images: Normalised, (B, 3, S, S), where the model computes.
        pictures: The images, (B, S, S, 3), 8-bit RGB.
        names: What to call them.
        stream: Their run with the method's prompts.
        unprompted: Their run without.
    """

    images: "Tensor"
    pictures: "np.ndarray"
    names: tuple[str, ...]
    stream: "TowerRun"
    unprompted: "TowerRun"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        tower = self.stream.tower
        rows, columns = (size // patch for size, patch in zip(tower.image_size, tower.patch_size, strict=True))
        return rows, columns


@dataclass(frozen=True)
class AnalysisInputs:
    """What is looked at.

    Attributes:
        method: The tuned method, in eval mode.
        run: Images and their runs; None for a method without image prompts.
        epochs: Tuned tensors by finished epochs, where training kept them.
        words: How many nearest words of a text prompt to show.
        command: What was typed.
    """

    method: "Method"
    run: ImageRun | None
    epochs: "Mapping[int, Mapping[str, Tensor]]"
    words: int
    command: str


@dataclass(frozen=True)
class Section:
    """A section of the page, and the content of its PNG files by their names."""

    heading: str
    blocks: tuple[Block, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


def make_sections(inputs: AnalysisInputs, progress: Callable[[int, int], None]) -> tuple[list[Section], list[str]]:
    """The sections that the method has, and a sentence about each one that is left out."""
    makers = (information_section, words_section, selection_section, attention_section, map_section)
    sections: list[Section] = []
    left_out = []
    for done, make in enumerate(makers):
        made = make(inputs)
        if isinstance(made, str):
            left_out.append(made)
        else:
            sections.append(made)
        progress(done + 1, len(makers))
    return sections, left_out


def write_analysis(out: Path, inputs: AnalysisInputs, sections: list[Section], left_out: list[str]) -> list[Path]:
    """Write a PNG for each figure, and the page, which comes last."""
    files = {name: content for section in sections for name, content in section.files.items()}
    for name, content in files.items():
        write_atomically(out / name, content)
    method = inputs.method
    shown = f", looked at on {len(inputs.run.names)} images" if inputs.run else ""
    opening = f"{method.name} on {method.backbone.name}{shown}. Blocks are counted from 0."
    page = [
        ("What this shows", [text(opening), code(inputs.command), *(text(sentence) for sentence in left_out)]),
        *((section.heading, section.blocks) for section in sections),
    ]
    write_page(out / PAGE, f"What the prompts of {method.name} do", page, method.backbone.note)
    return [out / name for name in (*files, PAGE)]


def information_section(inputs: AnalysisInputs) -> Section | str:
    """Mutual information of prompts and patch tokens, along training where epochs were kept."""
    run = inputs.run
    if run is None:
        return "Mutual information with patch tokens is left out: there are no image prompts."
    if run.stream.inputs[0].count < 2:
        return "Mutual information with patch tokens is left out: with one prompt it is 0 by definition."
    panels = information_values(inputs, run)
    along = bool(inputs.epochs)
    drawn = plots.information_curves(panels)
    how = (
        "Normalised mutual information of prompts and patch tokens: 0 when all prompts look at the patches alike, 1 "
        "when each has patches of its own. `tokens themselves`: products of the prompts in front of each block and the "
        "patch tokens of the backbone without prompts. `through queries and keys`: what the prompts ask the patches "
        "beside them with the block's own projections. The definition is ours (SPT's code has none), and values depend "
        "on the tokens' scale: compare only values of the same panel."
    )
    only = "Only the tuned state is shown; train with `--keep-every 1` to see how it came about."
    caption = "By finished epochs, a line for each block." if along else "After tuning, by block."
    shown = figure(drawn, caption, "Normalised mutual information of prompts and patch tokens.")
    blocks = (text(how), *(() if along else (text(only),)), shown)
    return Section("Information shared with patch tokens", blocks, {"information.png": plots.to_png(drawn)})


def information_values(inputs: AnalysisInputs, run: ImageRun) -> dict[str, dict[int, list[float]]]:
    """Information by panel, finished epochs and block; the method is the tuned one again afterwards."""
    from selfprompt.analysis.nmi import projected_information, raw_information
    from selfprompt.analysis.tower_runs import run_with_prompts

    method = inputs.method
    tuned = {name: tensor.clone() for name, tensor in method.adapter_state_dict().items()}
    raw: dict[int, list[float]] = {}
    asked: dict[int, list[float]] = {}
    try:
        for epoch, tensors in (inputs.epochs or {-1: tuned}).items():
            method.load_adapter_state_dict(tensors)
            stream = run_with_prompts(method, run.images)
            assert stream is not None
            raw[epoch] = raw_information(stream, run.unprompted)
            if why_no_attention(stream) is None:
                asked[epoch] = projected_information(stream)
    except ValueError as error:
        raise ValueError(
            f"The tensors kept of epoch {epoch} are of another run: {error} Delete its epochs/."
        ) from error
    finally:
        method.load_adapter_state_dict(tuned)
    return {"tokens themselves": raw, **({"through queries and keys": asked} if asked else {})}


def words_section(inputs: AnalysisInputs) -> Section | str:
    """The words of the vocabulary next to learned text prompts."""
    from selfprompt.analysis.words import input_prompts, nearest_words, spacing, vocabulary

    prompts = input_prompts(inputs.method)
    if not prompts:
        return "Nearest words are left out: there are no learned text prompts."
    tower, tokenizer = inputs.method.backbone.text_side()
    words = vocabulary(tower)
    rows = []
    for owner, vectors in prompts.items():
        for number, near in enumerate(nearest_words(vectors, words, tokenizer, inputs.words), 1):
            cells = [f"{entry.word} ({entry.distance:.2f})" for entry in near]
            rows.append([*([owner] if owner else []), str(number), *cells])
    columns = ["class"] if "" not in prompts else []
    columns += ["prompt", *(f"nearest {place}" for place in range(1, len(rows[0]) - len(columns)))]
    how = (
        "The entries of the vocabulary whose embeddings lie nearest to each learned text prompt at the tower's input, "
        "with their Euclidean distances. A hyphen marks a piece of a word. For comparison: from a word to its nearest "
        f"other word it is typically {spacing(words):.2f} (median). A prompt much farther away than that is no word, "
        "whatever stands in its row."
    )
    more = f"The first {ROWS} of {len(rows)} rows." if len(rows) > ROWS else ""
    return Section("Nearest words of text prompts", (text(how), table(columns, rows[:ROWS], more)))


def selection_section(inputs: AnalysisInputs) -> Section | str:
    """The patches that SEP takes as representatives."""
    from selfprompt.analysis.selection import selected_tokens

    run = inputs.run
    selection: Selection = getattr(inputs.method.options, "selection", "image")
    chosen = {} if run is None else selected_tokens(run.stream, selection)
    if run is None or not chosen:
        return f"Selected patches are left out: {inputs.method.name} does not select any."
    places = {block: index.cpu().numpy() for block, index in chosen.items()}
    drawn = plots.selection_pictures(run.pictures, run.names, places, run.grid, run.stream.inputs[0].prefix)
    how = (
        "In front of each refreshed block the tokens with the largest mean square become representatives, from which "
        "new prompts are made. The chosen patches are framed, the strongest one with the widest frame; `+CLS` means "
        "that the class token is among them."
    )
    batch = "This method chooses once for a whole batch: these choices hold for just these images together."
    shown = figure(drawn, "", "Images with the patches that were chosen in front of each block.")
    blocks = (text(how), *((text(batch),) if selection == "batch" else ()), shown)
    return Section("Patches that make new prompts", blocks, {"selection.png": plots.to_png(drawn)})


def attention_section(inputs: AnalysisInputs) -> Section | str:
    """Where the tokens that make the features look."""
    from selfprompt.analysis.attention import attention_mass, pools_class_token

    run = inputs.run
    if run is None:
        return "Attention to prompts is left out: there are no image prompts."
    if fault := why_no_attention(run.stream):
        return f"Attention is left out: {fault}"
    stream = run.stream
    found = attention_mass(stream)
    tokens = stream.inputs[0]
    pictures = plots.attention_pictures(run.pictures, run.names, found.patches.cpu().numpy(), run.grid)
    even = tokens.count / tokens.x.shape[1]
    shares = plots.attention_shares(found.shares().cpu().numpy(), found.prompts.mean(dim=1).cpu().numpy(), even)
    by_class = pools_class_token(stream.tower, stream.pooling)
    asking = (
        "the class token, whose last state becomes the features"
        if by_class
        else "the patches (mean over their queries), because the features are an average of tokens"
    )
    how = (
        f"Attention weights of {asking}; mean over heads. The weights are computed from the tokens that enter a block "
        "with the block's own projections."
    )
    blocks = (
        text(how),
        figure(shares, "Left: mass by kind of token. Right: mass on each prompt.", "Share of attention on prompts."),
        figure(pictures, "Each picture is scaled to its own greatest weight.", "Attention to patches over the images."),
    )
    files = {"attention-shares.png": plots.to_png(shares), "attention.png": plots.to_png(pictures)}
    return Section("Attention to prompts and patches", blocks, files)


def map_section(inputs: AnalysisInputs) -> Section | str:
    """Prompts among patch tokens, on a plane."""
    from selfprompt.analysis.map import token_map

    run = inputs.run
    if run is None:
        return "Maps of prompts among patch tokens are left out: there are no image prompts."
    maps = {}
    for block in plots.shown_blocks(range(len(run.stream.inputs))):
        found = token_map(run.stream, block)
        patches, prompts = (points.flatten(0, 1).cpu().numpy() for points in (found.patches, found.prompts))
        maps[block] = (patches, prompts, found.share)
    drawn = plots.token_maps(maps)
    how = (
        "Tokens in front of each block, on the plane of their two main directions (principal components of patches and "
        "prompts together). Prompts that differ between images appear once for each image."
    )
    shown = figure(drawn, "", "Maps of prompts among patch tokens.")
    return Section("Prompts among patch tokens", (text(how), shown), {"map.png": plots.to_png(drawn)})


def why_no_attention(stream: "TowerRun") -> str | None:
    """Why a tower's attention cannot be looked at; None where it can."""
    try:
        stream.attention(0)
    except TypeError as error:
        return str(error)
    return None
