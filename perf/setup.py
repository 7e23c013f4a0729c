"""What all cases share: backbones, images, class names, a training step, and two contenders ready to run."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perf.cases import SHAPES
from perf.compare import difference, gradient_difference, gradients
from perf.names import class_names
from perf.timing import Work
from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.methods.base import Method
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.optim import build_optimizer

Precision = Literal["32-true", "bf16-mixed"]
Loss = Callable[[], tuple[Tensor, Tensor | None]]
"""Loss and logits."""

RATE = 1e-5
"""Learning rate of measured steps: that of warm-up epochs, so that nothing diverges on random images."""


@dataclass(frozen=True)
class Contenders:
    """Two contenders that do the same work at one size.

    Attributes:
        ours: Does the work once.
        plain_at: The plain baseline's work at another size of what grows; the same at any size if nothing does.
        compare: Relative differences of the results by name; called before the first run.
        count: Images or classes of one run of ours.
        activations: Bytes kept for the backward pass by contender, where that is what the case is about.
        method: Ours, where it may compute something again to save memory: that is no necessary arithmetic.
    """

    ours: Work
    plain_at: Callable[[int], Work]
    compare: Callable[[], Mapping[str, float]]
    count: int
    activations: Callable[[], Mapping[str, int]] | None = None
    method: Method | None = None


@dataclass(frozen=True)
class PerfSetup:
    """Where the cases are set up.

    Attributes:
        shape: A key of ``SHAPES``.
        device: Where the contenders compute.
        precision: Of both contenders; the comparison of results is in float32 always.
        compile: Whether the blocks of ours are compiled.

    Raises:
        ValueError: For an unknown shape or precision.
    """

    shape: str = "embedded"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "32-true"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"backbone must be {', '.join(SHAPES)}, got {self.shape!r}.")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be {' or '.join(get_args(Precision))}, got {self.precision!r}.")

    @cached_property
    def clip(self) -> Backbone:
        """The backbone with texts."""
        return self._load(SHAPES[self.shape][0])

    @cached_property
    def vit(self) -> Backbone:
        """The backbone without."""
        return self._load(SHAPES[self.shape][1])

    def _load(self, name: str) -> Backbone:
        backbone = load_backbone(name).to(self.device)
        for tower in (backbone.vision, backbone.text):
            if self.compile and tower is not None:
                tower.compile_blocks()
        return backbone

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products."""
        return torch.bfloat16 if self.precision == "bf16-mixed" else torch.float32

    def autocast(self) -> torch.autocast:
        """The precision as a context."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def names(self, count: int) -> tuple[str, ...]:
        """Class names that the CLIP's texts have room for."""
        text, tokenizer = self.clip.text_side()
        return class_names(count, lambda name: int(tokenizer([name]).argmax()) - 1, text.context)

    def images(self, backbone: Backbone, count: int) -> Tensor:
        """NoiseImages that looks normalised, (count, 3, S, S)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, *backbone.vision.image_size, generator=generator).to(self.device)

    def labels(self, count: int, classes: int) -> Tensor:
        """Labels that spread over the classes, (count,)."""
        return (torch.arange(count) * classes // count).to(self.device)


@dataclass(frozen=True)
class NoiseImages:
    """Images that are made when they are asked for, each from its own number; as ``prepare`` wants them."""

    size: int
    side: tuple[int, int]

    def batch(self, indices: Sequence[int], draw: int = 0) -> Tensor:
        """(B, 3, S, S)."""
        seeds = [torch.Generator().manual_seed(int(index)) for index in indices]
        return torch.stack([torch.randn(3, *self.side, generator=generator) for generator in seeds])


def random_items(count: int, classes: int, side: int) -> list[Item]:
    """Pictures of random colours, in memory."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (count, side, side, 3), generator=generator, dtype=torch.uint8).numpy()
    table = ImageTable("noise", lambda index: pictures[index])
    return [Item(IndexedSource(table, number), number * classes // count) for number in range(count)]


def training_step(setup: PerfSetup, loss: Callable[..., Tensor], optimizer: Optimizer) -> Callable[..., None]:
    """Forward, backward, and the optimiser's step, as a function of a batch."""

    def step(*batch: Tensor | None) -> None:
        optimizer.zero_grad(set_to_none=True)
        with setup.autocast():
            total = loss(*batch)
        total.backward()
        optimizer.step()

    return step


def adam(module: nn.Module) -> Optimizer:
    """SEP's optimiser."""
    return _optimizer(module, TrainOptions(optimizer="adam", lr=RATE, eps=1e-3, weight_decay=5e-4))


def adamw(module: nn.Module) -> Optimizer:
    """SPT's optimiser."""
    return _optimizer(module, TrainOptions(optimizer="adamw", lr=RATE, weight_decay=1e-2))


def sgd(module: nn.Module) -> Optimizer:
    """CoOp's optimiser."""
    return _optimizer(module, TrainOptions(optimizer="sgd", lr=RATE, momentum=0.9, weight_decay=5e-4))


def _optimizer(module: nn.Module, options: TrainOptions) -> Optimizer:
    """The library's own for a method of the library, torch's as it comes for the plain baseline."""
    if isinstance(module, Method):
        return build_optimizer(module.trainable().items(), options)
    own, lr, decay = trainable_parameters(module), options.lr, options.weight_decay
    if options.optimizer == "sgd":
        return torch.optim.SGD(own, lr, momentum=options.momentum, weight_decay=decay)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(own, lr, eps=options.eps, weight_decay=decay)


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are tuned."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def trainable_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors that are tuned."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def compare_losses(plain: nn.Module, plain_loss: Loss, ours: nn.Module, ours_loss: Loss) -> dict[str, float]:
    """Differences of logits, loss and gradients; both functions return loss and logits, float32.

    The plain one may have gone backward already; then its loss needs no gradient.
    """
    found = []
    for module, function in ((plain, plain_loss), (ours, ours_loss)):
        loss, logits = function()
        assert logits is not None
        if loss.requires_grad:
            loss.backward()
        found.append((loss, logits, gradients(module)))
        module.zero_grad(set_to_none=True)
    (loss, logits, slopes), (our_loss, our_logits, our_slopes) = found
    return {
        "logits": difference(logits, our_logits),
        "loss": difference(loss, our_loss),
        "gradients": gradient_difference(slopes, our_slopes),
    }


def epoch_counter() -> Callable[[], int]:
    """Counts its calls from 0: the numbers of epochs."""
    counter = itertools.count()
    return lambda: next(counter)
