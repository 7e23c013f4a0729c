"""Shared parts of all workloads: backbones, images, class names, a training step, and pairs of contenders."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perf.cases import SHAPES
from perf.compare import difference, gradient_difference, gradients
from perf.names import class_names
from perf.timing import Work
from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.compiled_loss import compiled_loss
from selfprompt.training.optim import build_optimizer
from selfprompt.utils.matmul import Float32, float32_products

Precision = Literal["32-true", "bf16-mixed"]
Loss = Callable[[], tuple[Tensor, Tensor | None]]
"""Returns the loss, a scalar, and the logits, (B, C)."""

RATE = 1e-5
"""Learning rate of measured steps, as in warm-up epochs, so that nothing diverges on random images."""


@dataclass(frozen=True)
class Contenders:
    """The library and the plain baseline, ready to do the same work.

    Attributes:
        ours: Runs the library once.
        plain_at: Returns a run of the baseline at a given size of the dimension that grows, ignored if none does.
        compare: Returns the relative differences of the results by name; called before the first run.
        count: Images or classes per run of ours.
        activations: Returns the bytes saved for the backward pass by contender, if the workload is about them.
        method: Our method if it may recompute something to save memory, which is not necessary arithmetic.
    """

    ours: Work
    plain_at: Callable[[int], Work]
    compare: Callable[[], Mapping[str, float]]
    count: int
    activations: Callable[[], Mapping[str, int]] | None = None
    method: Method | None = None


@dataclass(frozen=True)
class PerfSetup:
    """Backbones, device and precision of the measurements.

    Attributes:
        shape: A key of ``SHAPES``.
        device: Device of both contenders.
        precision: Precision of both contenders; results are always compared in float32.
        compile: Whether to compile the library's losses.
        float32: Path of the library's float32 products; the baseline takes torch's default, as a plain program does.

    Raises:
        ValueError: For an unknown shape or precision.
    """

    shape: str = "embedded"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "32-true"
    compile: bool = False
    float32: Float32 = "auto"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"backbone must be {', '.join(SHAPES)}, got {self.shape!r}.")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be {' or '.join(get_args(Precision))}, got {self.precision!r}.")

    def products(self) -> AbstractContextManager[None]:
        """Return a context with the path of the library's float32 products."""
        return float32_products(self.float32, self.device.type)

    @cached_property
    def clip(self) -> Backbone:
        """The CLIP."""
        return self._load(SHAPES[self.shape][0])

    @cached_property
    def vit(self) -> Backbone:
        """The ViT without a text tower."""
        return self._load(SHAPES[self.shape][1])

    def _load(self, name: str) -> Backbone:
        return load_backbone(name).to(self.device)

    def loss(self, method: Method) -> Callable[[Views], LossTerms]:
        """Return the method's loss, compiled if the setup says so."""
        return compiled_loss(method) if self.compile else method.loss

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the matrix products."""
        return torch.bfloat16 if self.precision == "bf16-mixed" else torch.float32

    def autocast(self) -> torch.autocast:
        """Return a context with the precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def names(self, count: int) -> tuple[str, ...]:
        """Return class names that fit into the CLIP's context."""
        text, tokenizer = self.clip.text_side()
        return class_names(count, lambda name: int(tokenizer([name]).argmax()) - 1, text.context)

    def images(self, backbone: Backbone, count: int) -> Tensor:
        """Return normalised noise, (count, 3, H, W)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, *backbone.vision.image_size, generator=generator).to(self.device)

    def labels(self, count: int, classes: int) -> Tensor:
        """Return labels spread over the classes, (count,)."""
        return (torch.arange(count) * classes // count).to(self.device)


@dataclass(frozen=True)
class NoiseImages:
    """Noise images generated on demand, each seeded by its index; a source for ``Method.prepare``."""

    size: int
    side: tuple[int, int]

    def batch(self, indices: Sequence[int], draw: int = 0) -> Tensor:
        """Return the images of some indices, (B, 3, H, W)."""
        seeds = [torch.Generator().manual_seed(int(index)) for index in indices]
        return torch.stack([torch.randn(3, *self.side, generator=generator) for generator in seeds])


def random_items(count: int, classes: int, side: int) -> list[Item]:
    """Return random images in memory, with labels spread over the classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, side, side, 3), generator=generator, dtype=torch.uint8).numpy()
    table = ImageTable("noise", lambda index: pixels[index])
    return [Item(IndexedSource(table, number), number * classes // count) for number in range(count)]


def training_step(setup: PerfSetup, loss: Callable[..., Tensor], optimizer: Optimizer) -> Callable[..., None]:
    """Return a function of a batch that runs forward, backward and the optimiser step."""

    def step(*batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with setup.autocast():
            total = loss(*batch)
        total.backward()
        optimizer.step()

    return step


def adam(module: nn.Module) -> Optimizer:
    """Return SEP's optimiser."""
    return _optimizer(module, TrainOptions(optimizer="adam", lr=RATE, eps=1e-3, weight_decay=5e-4))


def adamw(module: nn.Module) -> Optimizer:
    """Return SPT's optimiser."""
    return _optimizer(module, TrainOptions(optimizer="adamw", lr=RATE, weight_decay=1e-2))


def sgd(module: nn.Module) -> Optimizer:
    """Return CoOp's optimiser."""
    return _optimizer(module, TrainOptions(optimizer="sgd", lr=RATE, momentum=0.9, weight_decay=5e-4))


def _optimizer(module: nn.Module, options: TrainOptions) -> Optimizer:
    """Return the library's optimiser for its methods, and torch's defaults for the plain baseline."""
    if isinstance(module, Method):
        return build_optimizer(module.trainable().items(), options)
    parameters, lr, decay = trainable_parameters(module), options.lr, options.weight_decay
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=options.momentum, weight_decay=decay)
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr, eps=options.eps, weight_decay=decay)


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def trainable_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the trainable tensors by name."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def compare_losses(plain: nn.Module, plain_loss: Loss, ours: nn.Module, ours_loss: Loss) -> dict[str, float]:
    """Return the differences of logits, loss and gradients in float32.

    The baseline may have run its backward pass already; then its loss requires no gradient.
    """
    results = []
    for module, function in ((plain, plain_loss), (ours, ours_loss)):
        loss, logits = function()
        assert logits is not None
        if loss.requires_grad:
            loss.backward()
        results.append((loss, logits, gradients(module)))
        module.zero_grad(set_to_none=True)
    (loss, logits, plain_gradients), (our_loss, our_logits, our_gradients) = results
    return {
        "logits": difference(logits, our_logits),
        "loss": difference(loss, our_loss),
        "gradients": gradient_difference(plain_gradients, our_gradients),
    }


def epoch_counter() -> Callable[[], int]:
    """Return a function that counts its calls from 0, as epoch numbers."""
    counter = itertools.count()
    return lambda: next(counter)
