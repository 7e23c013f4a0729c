"""What is measured, as records: names, sizes and targets; imports no torch."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

SHAPES = {
    "embedded": ("embedded/clip", "embedded/mae"),
    "ViT-B-16": ("open_clip/ViT-B-16-quickgelu/random", "timm/vit_base_patch16_224/random"),
    "ViT-B-32": ("open_clip/ViT-B-32-quickgelu/random", "timm/vit_base_patch32_224/random"),
}
"""By name, the backbone of the cases with texts, and that of those without."""


@dataclass(frozen=True)
class Target:
    """What a row has to reach on a CPU in float32 with ViT-B's shapes; None is no demand.

    Attributes:
        faster: Plain time divided by ours, at least.
        memory: Our memory divided by the plain one's, at most.
        megabytes: Our memory beyond the model, at most.
        of_peak: Share of the machine's matmul rate, at least; for ViT-B/16.
    """

    faster: float | None = None
    memory: float | None = None
    megabytes: float | None = None
    of_peak: float | None = None


@dataclass(frozen=True)
class Size:
    """How large a case is; 0 where it has no such size.

    Attributes:
        classes: Number of class names.
        batch: Images in a step.
        images: Images in all, where that is not one batch.
    """

    classes: int = 0
    batch: int = 0
    images: int = 0

    def __str__(self) -> str:
        parts = (f"{self.classes} classes", f"batch {self.batch}", f"{self.images:,} images")
        return ", ".join(
            part for part, number in zip(parts, (self.classes, self.batch, self.images), strict=True) if number
        )


@dataclass(frozen=True)
class Case:
    """A piece of work that both contenders do.

    Attributes:
        name: On the command line.
        title: In the table.
        what: One sentence about the work of both.
        unit: What is counted: "images" or "classes".
        rows: The sizes it is measured at, each with its target.
        on: Whether it needs a CLIP or a ViT.
        memory: Peak by the operating system's account, or activations saved for the backward pass by batch.
        grows: Which size decides whether the plain baseline fits into memory.
        tolerance: How far the results may lie apart, relative to their size.
        once: Whether one round is enough, because the case is not about time.
    """

    name: str
    title: str
    what: str
    unit: Literal["images", "classes"]
    rows: tuple[tuple[Size, Target], ...]
    on: Literal["clip", "vit"]
    memory: Literal["peak", "activations"] = "peak"
    grows: Literal["", "classes", "images"] = ""
    tolerance: float = 1e-4
    once: bool = False


@dataclass(frozen=True)
class Entry:
    """A case at one size: a row of the table."""

    case: Case
    size: Size
    target: Target = field(default_factory=Target)

    def __str__(self) -> str:
        return f"{self.case.title}, {self.size}"


CASES = (
    Case(
        "sep-step",
        "SEP training step",
        "SEP: forward, backward and Adam's step, images and class texts",
        "images",
        (
            (Size(100, 4), Target(faster=3.3)),
            (Size(100, 32), Target(faster=1.6, of_peak=0.6)),
            (Size(1000, 32), Target(faster=3.0, memory=0.25)),
        ),
        on="clip",
        grows="classes",
    ),
    Case(
        "sep-authors-step",
        "SEP as released, step",
        "the same with the released fusion across the batch",
        "images",
        ((Size(100, 4), Target()),),
        on="clip",
        grows="classes",
    ),
    Case(
        "sep-text",
        "SEP class texts, forward",
        "SEP: unit features of all class texts, as evaluation needs them",
        "classes",
        ((Size(100), Target(faster=7.0)),),
        on="clip",
        grows="classes",
    ),
    Case(
        "sep-images",
        "SEP images, frozen cached",
        "SEP: unit features of images in evaluation; ours is given the frozen ones, the plain one computes them again",
        "images",
        ((Size(100, 32), Target(faster=1.9)),),
        on="clip",
    ),
    Case(
        "sep-evaluation",
        "SEP evaluation batch",
        "SEP: logits of a batch after the first; the plain one encodes all class texts for each batch",
        "images",
        ((Size(100, 32), Target()),),
        on="clip",
        grows="classes",
    ),
    Case(
        "coop-text",
        "CoOp class texts, fwd+bwd",
        "CoOp with 16 context tokens: class features and their gradient",
        "classes",
        ((Size(100), Target(faster=10.0)),),
        on="clip",
        grows="classes",
    ),
    Case(
        "coop-epoch",
        "CoOp epoch, cached views",
        "CoOp: an epoch over fixed views after the first; the plain one encodes the images again",
        "images",
        ((Size(10, 32, 64), Target(faster=10.0)),),
        on="clip",
    ),
    Case(
        "linear-epoch",
        "linear probe epoch",
        "linear probe: an epoch over fixed views after the first; the plain one encodes the images again",
        "images",
        ((Size(10, 32, 64), Target(faster=50.0)),),
        on="vit",
    ),
    Case(
        "spt-step",
        "SPT-deep step, class token",
        "SPT: 20 prompts a block, forward, backward and AdamW's step",
        "images",
        ((Size(100, 16), Target(faster=1.1, memory=0.7, of_peak=0.6)),),
        on="vit",
        memory="activations",
    ),
    Case(
        "spt-average",
        "SPT-deep step, average",
        "the same with the mean over prompts and patches, as for masked autoencoders",
        "images",
        ((Size(100, 16), Target()),),
        on="vit",
        memory="activations",
    ),
    Case(
        "prototypes",
        "SPT prototypes",
        "SPT: 20 prompts a block drawn from the tokens of all images",
        "images",
        ((Size(images=10_000), Target(megabytes=300)),),
        on="vit",
        grows="images",
    ),
    Case(
        "kmeans",
        "k-means start",
        "SPT: 20 k-means centres a block; the plain one clusters all tokens; the difference is that of the inertia",
        "images",
        ((Size(images=64), Target()),),
        on="vit",
        tolerance=0.05,
        once=True,
    ),
    Case(
        "predict",
        "prediction",
        "SEP: classes of images given as arrays; the plain one encodes all class texts for each batch",
        "images",
        ((Size(100, 32, 64), Target()),),
        on="clip",
    ),
)


def entries(names: Sequence[str], classes: Sequence[int] = (), batches: Sequence[int] = ()) -> tuple[Entry, ...]:
    """The rows of some cases.

    Args:
        names: Of cases; none for all.
        classes: Class counts in place of the cases' own; such rows have the targets of that very size only.
        batches: Batch sizes, alike.

    Raises:
        ValueError: For a name that there is not.
    """
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown case {name!r}.{hint} Known: {', '.join(known)}.")
    chosen = [known[name] for name in names] if names else CASES
    return tuple(entry for case in chosen for entry in _entries(case, classes, batches))


def _entries(case: Case, classes: Sequence[int], batches: Sequence[int]) -> list[Entry]:
    targets = dict(case.rows)
    sizes = dict.fromkeys(
        replace(size, classes=count, batch=batch)
        for size in targets
        for count in (classes if classes and size.classes else (size.classes,))
        for batch in (batches if batches and size.batch else (size.batch,))
    )
    return [Entry(case, size, targets.get(size, Target())) for size in sizes]
