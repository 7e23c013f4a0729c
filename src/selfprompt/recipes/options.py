"""The options of data and training; the command line imports them, so this module imports nothing heavy."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from selfprompt.utils.matmul import Float32
from selfprompt.utils.validation import check_types

Tracker = Literal["tensorboard", "wandb", "mlflow"]

LATER_OPTIONS = {
    **{"views": 0, "compile": False, "on_empty_class": "skip"},
    **{"resize": "backbone", "crop": None, "flip": None, "calibrate": "auto", "image_size": None},
}
"""Options added later, with the default that keeps the old behaviour: ids and checkpoints leave them out at it."""


UNITS = {"s": 1, "min": 60, "h": 3600}
"""Seconds in a unit of time."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Images and classes of a run, and caches of their data."""

    shots: int = 16
    """Training images per class, drawn as in CoOp's protocol; 0 uses all images."""
    classes: Literal["all", "base", "new"] = "all"
    """All classes, or the first half (base) or second half (new) of the sorted classes."""
    holdout: float = 0.25
    """Fraction of each class held out for testing if the data have no test split; 0 trains on all images, which
    leaves the accuracy unknown."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """What to do with an unreadable image: skip it and report it, or stop."""
    on_empty_class: Literal["skip", "fail"] = "skip"
    """What to do with a class without a readable image: leave it out and report it, or stop."""
    resize: Literal["backbone", "crop", "pad", "squash"] | int = "backbone"
    """How an image becomes a square, in training and later: crop resizes the short side and cuts out the centre, pad
    shows the whole image on a square of the mean colour, squash stretches it; backbone does as in pretraining. A number
    of pixels resizes the short side to it before the centre is cut out, as 256 for an image size of 224."""
    memory: str = "2GB"
    """Memory for decoded images; at most the same again for frozen features, and for activations of the class texts.
    The rest is recomputed."""
    class_names: str | None = None
    """A classes.txt with names to use instead of the folder names, or a classes.yaml with more about each class."""
    feature_cache: str | None = None
    """Folder that caches the frozen features of images for later runs; processes may share it, files may be deleted."""

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        _check_range("shots", self.shots, at_least=0)
        _check_range("holdout", self.holdout, at_least=0, below=1)
        if isinstance(self.resize, int):
            _check_range("resize", self.resize, at_least=1)
        if not re.fullmatch(r"\d+(\.\d+)?\s*([KMG]i?)?B?", self.memory, flags=re.IGNORECASE):
            raise ValueError(f"memory must be a size such as '500MB' or '2GB', got {self.memory!r}.")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Training of a method. The defaults are those of CoOp, which suit prompts on a frozen CLIP."""

    epochs: int = 50
    """Passes over the training images."""
    batch_size: int = 32
    """Images per optimiser step, over all devices together."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """sgd with momentum; adam with weight decay in the gradient (L2); adamw with decoupled weight decay."""
    lr: float = 2e-3
    """Peak learning rate; not scaled with the batch size."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 5e-4
    """Weight decay; sgd and adam add it to the gradient."""
    head_weight_decay: float | None = None
    """Weight decay for the weights of a module called head; needs decay 'weights'."""
    eps: float = 1e-8
    """Term added to the denominator of adam and adamw."""
    decay: Literal["all", "weights"] = "all"
    """Decay all trainable parameters, or all but biases and other vectors (SPT's three groups)."""
    schedule: Literal["dassl_cosine", "warmup_cosine", "constant"] = "dassl_cosine"
    """dassl_cosine changes per epoch; warmup_cosine changes per step and starts at 0; constant has no warm-up."""
    warmup_epochs: int = 1
    """Epochs of warm-up."""
    warmup_lr: float = 1e-5
    """Learning rate during dassl_cosine's warm-up."""
    min_lr: float = 0.0
    """Learning rate that the cosine decays towards."""
    accumulate: int = 1
    """Number of parts that each batch is split into to save memory; the step still uses the whole batch."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Precision of the computation; trainable parameters are always float32. bf16-mixed is faster on GPUs and on CPUs
    with bfloat16 units, and cost SEP no measurable accuracy (docs/performance.md); 16-mixed needs a GPU."""
    float32: Float32 = "auto"
    """Path of float32 matrix products, in torch's words: highest, high or medium. auto takes the fastest exact one on a
    CPU, and high, which is TF32, on a GPU."""
    devices: int | str = 1
    """Number of devices on this machine, or 'auto' for all."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; 'auto' uses a GPU if there is one."""
    drop_last: bool = False
    """Drop the last batch of an epoch if it is not full, unless it is the only one."""
    augment: Literal["crop-flip", "half-crop-flip", "none"] = "crop-flip"
    """Random resized crops (of at least 8 %, or half, of the area) and horizontal flips; none uses the same view in
    every epoch."""
    crop: float | None = None
    """Smallest fraction of the area that a random crop covers, above 0; 1 crops as in evaluation, null does what
    augment says. With resize 'pad' the crop is taken of the padded square."""
    flip: bool | None = None
    """Mirror the view with probability 1/2; null does what augment says."""
    views: int = 0
    """0 draws a new random view of each image in every epoch; K uses K fixed views, and epoch n (from 0) uses view
    n mod K."""
    select: Literal["last", "best-val"] = "last"
    """Keep the last epoch, or the one with the best validation accuracy. Test images are never used for selection."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the trainable parameters, which is then kept; 0 averages nothing."""
    clip_grad: float = 0.0
    """Maximum norm of the gradient; 0 does not clip."""
    compile: bool = False
    """Compile the loss to one graph with torch.compile, from PyTorch 2.15 on. Meant for GPUs: on a CPU the first step
    takes minutes."""
    workers: int = 2
    """Threads that decode and augment images while the model computes; 0 uses the main thread."""
    checkpoint_every: int = 1
    """Epochs between two resume checkpoints; the last epoch always writes one."""
    keep_every: int = 0
    """Epochs between two copies of the trained tensors in epochs/, for selfprompt analyze; 0 keeps none."""
    log_to: Tracker | tuple[Tracker, ...] = ()
    """Where to follow the run besides log.csv: tensorboard, wandb, mlflow, or a list of these; each needs the extra of
    its name."""

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """The trackers of ``log_to``."""
        return (self.log_to,) if isinstance(self.log_to, str) else self.log_to

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        if isinstance(self.log_to, list):  # from YAML
            object.__setattr__(self, "log_to", tuple(self.log_to))
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every"):
            _check_range(name, getattr(self, name), at_least=1)
        for name in ("weight_decay", "warmup_epochs", "warmup_lr", "min_lr", "clip_grad"):
            _check_range(name, getattr(self, name), at_least=0)
        for name in ("views", "workers", "keep_every"):
            _check_range(name, getattr(self, name), at_least=0)
        _check_range("lr", self.lr, above=0)
        _check_range("eps", self.eps, above=0)
        _check_range("momentum", self.momentum, at_least=0, below=1)
        _check_range("ema_decay", self.ema_decay, at_least=0, below=1)
        if str(self.devices) != "auto" and not re.fullmatch(r"[1-9]\d*", str(self.devices)):
            raise ValueError(f"devices must be 'auto' or a number from 1, got {self.devices!r}.")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"crop must be above 0 and at most 1, got {self.crop}.")
        self._check_decay()
        self._check_schedule()
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate splits a batch into parts and must not exceed batch_size, "
                f"got {self.accumulate} parts of {self.batch_size} images."
            )

    def _check_decay(self) -> None:
        if self.head_weight_decay is None:
            return
        _check_range("head_weight_decay", self.head_weight_decay, at_least=0)
        if self.decay != "weights":
            raise ValueError(
                f"head_weight_decay needs decay 'weights', got decay {self.decay!r}. "
                "Set decay='weights', or leave head_weight_decay out."
            )

    def _check_schedule(self) -> None:
        if self.schedule == "constant":
            return
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be smaller than epochs, got {self.warmup_epochs} of {self.epochs}. "
                "Train longer, or set warmup_epochs to 0 or schedule to 'constant'."
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must not exceed lr, got min_lr {self.min_lr} and lr {self.lr}.")
        if self.schedule == "dassl_cosine" and self.warmup_epochs and self.warmup_lr > self.lr:
            raise ValueError(f"warmup_lr must not exceed lr, got warmup_lr {self.warmup_lr} and lr {self.lr}.")


BUDGETS = ("5min", "85s")
"""The usual time for comparing candidates on a backbone without a text tower, and on a CLIP."""


@dataclass(frozen=True, kw_only=True)
class AutoOptions:
    """Options of auto."""

    budget: str = "auto"
    """Time for comparing candidates, such as 90s, 10min or 2h; a candidate that would exceed it has fewer folds or is
    skipped. auto is 85s on a CLIP, and 5min on a backbone without texts, where training inside the model gains more
    over frozen features."""
    candidates: tuple[str, ...] = ()
    """Methods or recipes to compare; empty compares the usual ones for the backbone."""
    views: tuple[str, ...] = ("mirror", "mild", "published")
    """Random views to try with the best head: mirror images, crops of at least half of the area, or the crops of most
    papers; empty tries none."""
    new_classes: bool = False
    """Compare only methods that take new class names later, without training; needs a CLIP."""
    folds: int = 5
    """Folds of the cross-validation; of a method that is trained only the first ones are tested, at least two, if all
    would exceed the budget."""
    repeats: int = 3
    """Repetitions of the cross-validation, for methods that need no epochs."""

    def __post_init__(self) -> None:
        self.seconds(with_text=True)
        for name in ("folds", "repeats"):
            least = 2 if name == "folds" else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")

    def seconds(self, *, with_text: bool) -> float:
        """Return the budget in seconds on a backbone with or without a text tower."""
        return parse_seconds(BUDGETS[with_text] if self.budget == "auto" else self.budget)


def parse_seconds(text: str) -> float:
    """Convert a time such as "90s", "10min" or "2h" to seconds.

    Raises:
        ValueError: If it cannot be read or is not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip())
    if not found or not float(found[1]):
        raise ValueError(f"budget must be a time such as 90s, 10min or 2h, got {text!r}.")
    return float(found[1]) * UNITS[found[2]]


def _check_range(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raise ValueError for a value outside its range; infinity and NaN are outside every range."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}.")
    if at_least is not None and not value >= at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}.")
    if above is not None and not value > above:
        raise ValueError(f"{name} must be above {above}, got {value}.")
    if below is not None and not value < below:
        raise ValueError(f"{name} must be below {below}, got {value}.")
