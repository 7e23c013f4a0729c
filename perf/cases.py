"""The workloads, their sizes and their targets, as records; imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfprompt.utils.suggestions import did_you_mean

SHAPES = {
    "embedded": ("embedded/clip", "embedded/mae"),
    "ViT-B-16": ("open_clip/ViT-B-16-quickgelu/random", "timm/vit_base_patch16_224/random"),
    "ViT-B-32": ("open_clip/ViT-B-32-quickgelu/random", "timm/vit_base_patch32_224/random"),
}
"""By name, the CLIP and the ViT that the workloads run on."""


@dataclass(frozen=True)
class Target:
    """The targets of a case on a CPU in float32 with ViT-B's shapes; None where there is no target.

    Attributes:
        faster: Lower bound of the baseline's time divided by ours.
        memory: Upper bound of our memory divided by the baseline's.
        megabytes: Upper bound of our memory beyond the model, in MB.
        of_peak: Lower bound of our share of the machine's matmul rate, in [0, 1]; set for ViT-B/16.
    """

    faster: float | None = None
    memory: float | None = None
    megabytes: float | None = None
    of_peak: float | None = None


@dataclass(frozen=True)
class Size:
    """The size of a workload; 0 where a dimension does not apply.

    Attributes:
        classes: Number of class names.
        batch: Images per step.
        images: Total number of images, where it differs from one batch.
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
class Workload:
    """A computation that both contenders perform.

    Attributes:
        name: Its name on the command line.
        title: Its title in the table.
        description: One sentence about the computation.
        unit: What the throughput counts: "images" or "classes".
        sizes: The sizes it is measured at, each with its target.
        backbone: Whether it runs on a CLIP or a ViT.
        memory: What the memory column shows: the peak reported by the operating system, or the activations saved for
            the backward pass per image.
        grows: The dimension that decides whether the baseline fits into memory; empty if none does.
        tolerance: Largest relative difference of the two results.
        once: Whether a single round suffices, because the workload is not about time.
    """

    name: str
    title: str
    description: str
    unit: Literal["images", "classes"]
    sizes: tuple[tuple[Size, Target], ...]
    backbone: Literal["clip", "vit"]
    memory: Literal["peak", "activations"] = "peak"
    grows: Literal["", "classes", "images"] = ""
    tolerance: float = 1e-4
    once: bool = False


@dataclass(frozen=True)
class Case:
    """A workload at one size: a row of the table."""

    workload: Workload
    size: Size
    target: Target = field(default_factory=Target)

    def __str__(self) -> str:
        return f"{self.workload.title}, {self.size}"


WORKLOADS = (
    Workload(
        "sep-step",
        "SEP training step",
        "SEP: forward, backward and Adam step, images and class texts",
        "images",
        (
            (Size(100, 4), Target(faster=3.3)),
            (Size(100, 32), Target(faster=1.6, of_peak=0.6)),
            (Size(1000, 32), Target(faster=3.0, memory=0.25)),
        ),
        backbone="clip",
        grows="classes",
    ),
    Workload(
        "sep-authors-step",
        "SEP as released, step",
        "the same with the released fusion across the batch",
        "images",
        ((Size(100, 4), Target()),),
        backbone="clip",
        grows="classes",
    ),
    Workload(
        "sep-text",
        "SEP class texts, forward",
        "SEP: unit features of all class texts, as in evaluation",
        "classes",
        ((Size(100), Target(faster=7.0)),),
        backbone="clip",
        grows="classes",
    ),
    Workload(
        "sep-images",
        "SEP images, frozen cached",
        "SEP: unit features of images in evaluation; ours reads cached frozen features, the baseline recomputes them",
        "images",
        ((Size(100, 32), Target(faster=1.9)),),
        backbone="clip",
    ),
    Workload(
        "sep-evaluation",
        "SEP evaluation batch",
        "SEP: logits of a batch after the first; the baseline encodes all class texts for each batch",
        "images",
        ((Size(100, 32), Target()),),
        backbone="clip",
        grows="classes",
    ),
    Workload(
        "coop-text",
        "CoOp class texts, fwd+bwd",
        "CoOp with 16 context tokens: class features and their gradient",
        "classes",
        ((Size(100), Target(faster=10.0)),),
        backbone="clip",
        grows="classes",
    ),
    Workload(
        "coop-step",
        "CoOp training step",
        "CoOp with 16 context tokens: forward, backward and SGD step, new views of the images and class texts",
        "images",
        ((Size(100, 32), Target(faster=2.3)),),
        backbone="clip",
        grows="classes",
    ),
    Workload(
        "coop-epoch",
        "CoOp epoch, cached views",
        "CoOp: an epoch over fixed views after the first; the baseline encodes the images again",
        "images",
        ((Size(10, 32, 64), Target(faster=10.0)),),
        backbone="clip",
    ),
    Workload(
        "linear-epoch",
        "linear probe epoch",
        "linear probe: an epoch over fixed views after the first; the baseline encodes the images again",
        "images",
        ((Size(10, 32, 64), Target(faster=50.0)),),
        backbone="vit",
    ),
    Workload(
        "spt-step",
        "SPT-deep step, class token",
        "SPT: 20 prompts per block; forward, backward and AdamW step",
        "images",
        ((Size(100, 16), Target(faster=1.1, memory=0.7, of_peak=0.6)),),
        backbone="vit",
        memory="activations",
    ),
    Workload(
        "spt-average",
        "SPT-deep step, average",
        "the same with the mean over prompts and patches, as for masked autoencoders",
        "images",
        ((Size(100, 16), Target()),),
        backbone="vit",
        memory="activations",
    ),
    Workload(
        "prototypes",
        "SPT prototypes",
        "SPT: 20 prompts per block sampled from the tokens of all images",
        "images",
        ((Size(images=10_000), Target(megabytes=300)),),
        backbone="vit",
        grows="images",
    ),
    Workload(
        "kmeans",
        "k-means start",
        "SPT: 20 k-means centres per block; the baseline clusters all tokens; the difference is that of the inertia",
        "images",
        ((Size(images=64), Target()),),
        backbone="vit",
        tolerance=0.05,
        once=True,
    ),
    Workload(
        "predict",
        "prediction",
        "SEP: classes of images given as arrays; the baseline encodes all class texts for each batch",
        "images",
        ((Size(100, 32, 64), Target()),),
        backbone="clip",
    ),
)


def select_cases(names: Sequence[str], classes: Sequence[int] = (), batches: Sequence[int] = ()) -> tuple[Case, ...]:
    """Return the cases of the named workloads.

    Args:
        names: Names of workloads; all if empty.
        classes: Class counts that replace the workloads' own; a case keeps its target only if its size is a listed one.
        batches: Batch sizes, likewise.

    Raises:
        ValueError: If a name is unknown.
    """
    known = {workload.name: workload for workload in WORKLOADS}
    for name in names:
        if name not in known:
            raise ValueError(f"Unknown case {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    selected = [known[name] for name in names] if names else WORKLOADS
    return tuple(case for workload in selected for case in _cases(workload, classes, batches))


def _cases(workload: Workload, classes: Sequence[int], batches: Sequence[int]) -> list[Case]:
    targets = dict(workload.sizes)
    sizes = dict.fromkeys(
        replace(size, classes=count, batch=batch)
        for size in targets
        for count in (classes if classes and size.classes else (size.classes,))
        for batch in (batches if batches and size.batch else (size.batch,))
    )
    return [Case(workload, size, targets.get(size, Target())) for size in sizes]
