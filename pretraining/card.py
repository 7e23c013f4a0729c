"""The model cards: what the embedded backbones were made of and how, their curves, what was measured, their limits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template
from matplotlib.figure import Figure

from pretraining.corpus import write_text

CARD = Template(
    """\
# The embedded backbones

Two small models ship with the package, so that everything can be tried without a download: `embedded/clip` and
`embedded/mae`. They are toys: they know pictograms of 64 x 64 pixels, not photographs. For real work name a real
backbone: `--backbone open_clip/ViT-B-16/openai`.

This page is written by `python -m pretraining measure`; `make pretrain` makes everything from nothing.

## What they are

| | `embedded/clip` | `embedded/mae` |
|---|---|---|
| image side | ViT, 64 px, patch 8, width 128, 6 blocks, 4 heads, class token | the same shape, averaged patches |
| text side | causal, width 128, 4 blocks, 4 heads, 32 tokens, CLIP's BPE cut to 8,192 ids | none |
| library | `open_clip.model.CLIP`, architecture in `weights/clip.json` | timm's `VisionTransformer` |
| trained with | images, names and tags of pictograms | images alone, 75 % of the patches masked |
| numbers | {{ many(manifest.clip.numbers) }} | {{ many(manifest.mae.numbers) }} |
| file (fp16) | {{ mb(manifest.clip.bytes) }} MB | {{ mb(manifest.mae.bytes) }} MB |
| SHA-256 | `{{ manifest.clip.sha256[:16] }}...` | `{{ manifest.mae.sha256[:16] }}...` |
| views in training | {{ many(manifest.clip.training.samples) }} | {{ many(manifest.mae.training.samples) }} |
| minutes of training | {{ minutes(manifest.clip.training.seconds) }} | {{ minutes(manifest.mae.training.seconds) }} |

The licence of the weights is Apache-2.0, as the code's. The drawings they learnt from are listed with authors and
licences in [THIRD_PARTY.md](../THIRD_PARTY.md); artwork under share-alike terms was not used.

## How they were made

{{ drawings }} drawings of {{ sets }} sets of emoji and icons; {{ labelled }} of them show one of {{ concepts }}
concepts that at least two sets draw. A view is a drawing moved, turned, recoloured and put on a background. Held out
are whole families of drawings (Fluent, FxEmoji, Streamline's and OpenMoji's emoji, 11 families of icons, flags drawn as
plain rectangles) and one emoji concept in eight, with everything that speaks of it.

The masked autoencoder follows He et al. 2022 with a narrow decoder. The CLIP starts from it; image and text each learn
to find their concept in one table of concept vectors, the image tower also its group in Unicode's chart, and images are
contrasted with their texts. Its image tower sees a part of the patches, those with something on them more often, until
the last eighth of the training. All numbers are in `pretraining/`.

![Loss along training](embedded-training.png)

## Zero-shot accuracy of `embedded/clip` on families that it never saw

Per cent, for class names in four templates ("a picture of a {}." and others), averaged; drawings on white. *Colour*
joins the coloured sets. Held-out concepts are among the classes as they come. During development these accuracies were
looked at four times: a fault in matching the names of flags was found that way, and the training of 600,000 views that
ships took the place of one of 250,000; nothing else was changed by them.

{{ zero_shot }}

## Frozen features, from one family to others

Neighbours or ridge classifier from the Fluent family (icons: Lucide, Phosphor, Solar, Heroicons; flags: rectangles),
accuracy on all other held-out sets, in per cent. *Random* is the same network with random weights, *pixels* the image
itself at 16 x 16. Among the other sets of emoji is Fluent's own black-and-white one with the same silhouettes, which is
why pixels do so well; the autoencoder alone does not reach them, the CLIP does.

{{ features }}

## Limits

- Pictograms only; nothing here tells how a method does on photographs. The text tower knows a few thousand words.
- Faces and people, whose drawings differ in small details, are the hardest: such details are lost at 64 pixels.
- Class names outside their vocabulary (breeds, car models) mean nothing to them.
- Every output that uses them says that they are for trying and testing.
"""
)


def write_card(folder: Path, manifest: Mapping[str, Any], measured: Mapping[str, Any], out: Path) -> None:
    """Write ``embedded-models.md`` and its picture into ``folder``."""
    curves({name: json.loads((out / f"{name}.log.json").read_text()) for name in ("clip", "mae")}).savefig(
        folder / "embedded-training.png", dpi=110
    )
    text = CARD.render(
        manifest=manifest,
        **measured["corpus"],
        zero_shot="\n\n".join(markdown(*zero_shot_rows(tasks)) for tasks in by_sets(measured["zero_shot"])),
        features=markdown(*feature_rows(measured["features"])),
        many="{:,}".format,
        mb=lambda size: f"{size / 1e6:.1f}",
        minutes=lambda seconds: round(seconds / 60),
    )
    write_text(folder / "embedded-models.md", text + "\n")


def by_sets(tasks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tasks that are drawn by the same sets stand in one table."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for name, task in tasks.items():
        found.setdefault(tuple(task["sets"]), {})[name] = task
    return list(found.values())


def zero_shot_rows(tasks: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: task, classes, chance, colour, times chance, then every set."""
    sets = list(dict.fromkeys(name for task in tasks.values() for name in task["sets"]))
    columns = ["task", "classes", "chance", "colour", "times chance", *sets]
    rows = []
    for name, task in tasks.items():
        chance = 100 / task["classes"]
        cells = [f"{100 * right / total:.0f}" for right, total in [task["colour"]] if total] or [""]
        times = f"{100 * task['colour'][0] / task['colour'][1] / chance:.1f}" if task["colour"][1] else ""
        each = [f"{100 * r / n:.0f}" if n else "" for r, n in (task["sets"].get(s, (0, 0)) for s in sets)]
        rows.append([name, str(task["classes"]), f"{chance:.1f}", *cells, times, *each])
    return columns, rows


def feature_rows(tasks: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: task, images, then each kind of features under both readers."""
    columns = ["task", "images"]
    kinds = list(next(iter(tasks.values()))["accuracy"])
    rows = [
        [name, str(task["images"]), *(f"{100 * task['accuracy'][kind]:.1f}" for kind in kinds)]
        for name, task in tasks.items()
    ]
    means = [f"{100 * sum(t['accuracy'][kind] for t in tasks.values()) / len(tasks):.1f}" for kind in kinds]
    return columns + kinds, [*rows, ["**mean**", "", *means]]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def curves(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Losses over views, one panel a model."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(logs))
    for panel, (name, log) in zip(panels, logs.items(), strict=True):
        for key in log[0]:
            if key not in ("samples", "seconds", "right"):
                panel.plot([entry["samples"] / 1000 for entry in log], [entry[key] for entry in log], label=key)
        panel.set(title=f"embedded/{name}", xlabel="thousand views", ylabel="loss")
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    return figure
