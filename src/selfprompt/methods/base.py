"""What every method is: parameters around a frozen backbone, logits, a loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypeVar

from selfprompt.data.class_names import clean_name
from selfprompt.data.loading.feature_cache import Encoder
from selfprompt.data.views import Views
from selfprompt.methods.class_texts import check_distinct_tokens
from selfprompt.methods.heads import pooling_for
from selfprompt.methods.traits import Traits
from selfprompt.models.backbone import first_not_finite
from selfprompt.models.loading.by_name import Backbone
from selfprompt.models.text_encoding import Encode, encode_in_buckets, encode_with_shared_prefix
from selfprompt.models.tower import Pooling, Prompter
from selfprompt.prompts.prototypes import SampleSource
from selfprompt.utils.wording import listing

OptionsT = TypeVar("OptionsT", default=Any)


@dataclass(frozen=True)
class LossTerms:
    """The terms of a loss by name, their weights (1 where none is given), and the logits they came from."""

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)
    logits: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The weighted sum, a scalar."""
        return torch.stack([self.weights.get(name, 1.0) * term for name, term in self.terms.items()]).sum()

    def backward(self) -> None:
        """Gradients of the total."""
        self.total.backward()


class TrainingSource(SampleSource, Protocol):
    """Training data as ``prepare`` sees it: images by index, their labels, and epochs in batches."""

    @property
    def labels(self) -> Tensor: ...
    @property
    def keeps_features(self) -> bool: ...
    @property
    def validation(self) -> "TrainingSource | None":
        """Images, never test images, on which hyper-parameters may be selected; None if there are none."""
        ...

    def deterministic(self) -> "TrainingSource":
        """The same images under the evaluation transform."""
        ...

    def epoch(
        self, number: int, start_step: int = 0, *, encoder: Encoder | None = None, pixels: bool = True
    ) -> Iterator[Views]:
        """The batches of an epoch in its order; with features, if the source keeps them and has an encoder."""
        ...


@dataclass(frozen=True)
class NoOptions:
    """Options of a method that has none."""


@dataclass(frozen=True)
class ClassTexts:
    """Features of class texts, (C, E), with copies of the tensors, the device and the precision they came from."""

    tensors: Mapping[str, Tensor]
    place: tuple[Any, ...]
    features: Tensor

    def holds(self, tensors: Mapping[str, Tensor], place: tuple[Any, ...]) -> bool:
        """Whether the features are those of these tensors."""
        return (
            place == self.place
            and tensors.keys() == self.tensors.keys()
            and all(torch.equal(tensor, self.tensors[name]) for name, tensor in tensors.items())
        )


class Method(nn.Module, Generic[OptionsT]):
    """A prompt-tuning method, or a baseline, on a frozen backbone.

    A subclass sets ``Options`` (a frozen dataclass with the paper's values as defaults), makes its parameters in
    ``build`` and writes ``logits``; the other methods have defaults that suit most papers. Parameters that require a
    gradient are what is tuned; an artifact stores them and the persistent buffers. A buffer that depends on the class
    names is not persistent.

    Attributes:
        traits: What the library must know about it, from ``traits_for(options)``.
        pooling: How the vision tower's tokens become features, from the traits.
        memory: Bytes that encoded class texts may keep for gradients; what does not fit is computed again.
        chosen: Hyper-parameters that were chosen on validation images, by name.

    Args:
        backbone: The frozen towers; they are shared, not copied.
        classes: Class names, in the order of the logits.
        options: The method's options.
        generator: Source of every random start.
    """

    Options: ClassVar[type[Any]] = NoOptions
    text_cache_bytes: int = 2 * 10**9
    text: Any  # the text tower, None for a plain ViT
    ids: Tensor  # token ids of the class texts, (C, L), where there are any

    def __init__(
        self, backbone: Backbone, classes: Sequence[str], options: OptionsT, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.traits = self.traits_for(options)
        if self.traits.needs_text and backbone.text is None:
            raise ValueError(f"{self.name} needs a CLIP backbone; {backbone.name} has no text tower.")
        self.backbone = backbone
        self.classes = tuple(clean_name(name) for name in classes)
        self.options = options
        self.pooling: Pooling = pooling_for(self.traits.pooling, backbone)
        self.vision = backbone.vision
        self.text = backbone.text
        self.selected: dict[str, float] = {}
        self._encoded: ClassTexts | None = None
        self.build(generator)

    @classmethod
    def traits_for(cls, options: OptionsT) -> Traits:
        """The traits of a method with these options, before there is one."""
        return Traits()

    def build(self, generator: torch.Generator) -> None:
        """Make parameters and buffers; ``backbone``, ``vision``, ``text``, ``classes`` and ``options`` are there.

        Args:
            generator: Source of every random start.
        """

    @property
    def name(self) -> str:
        """The name that ``find`` knows: the file's name with hyphens, or "package.module:Class"."""
        kind = type(self)
        package, _, module = kind.__module__.rpartition(".")
        return module.replace("_", "-") if package == __package__ else f"{kind.__module__}:{kind.__qualname__}"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that ``logits`` takes."""
        return self.vision.image_size

    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Start from the data, where the paper does: SPT's prototypes, SEP's class means."""

    def logits(self, views: Views) -> Tensor:
        """Scores of images, (B, C).

        Args:
            views: They have pixels, (B, 3, H, W), or features, (B, E), or both, as the traits' ``inputs`` ask. Features
                may be unknown in every case; ``frozen_features(views)`` gives them, computed or not.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Scores of preprocessed images, (B, 3, H, W) to (B, C)."""
        return self.logits(Views(images))

    def loss(self, views: Views) -> LossTerms:
        """Mean cross-entropy, unless the paper has more terms. Views as in ``logits``, with labels."""
        logits = self.logits(views)
        return LossTerms({"ce": F.cross_entropy(logits, views.labels)}, logits=logits.detach())

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Called at the end of each epoch, counted from 0."""

    def training_state(self) -> dict[str, Tensor]:
        """Tensors besides the parameters that training moves, by name: a checkpoint keeps them, the best epoch too."""
        return self._persistent_buffers()

    def set_gradients(self, terms: LossTerms, mean: Callable[[Tensor], Tensor]) -> None:
        """Set the gradient of each trainable parameter from a loss, for a method that combines the terms' gradients.

        By default training follows the gradient of the total; a class that overrides this is asked instead, and is
        trained without accumulation and without the precision 16-mixed.

        Args:
            terms: Of ``loss``, with their graph.
            mean: Averages a tensor over the processes.
        """
        raise NotImplementedError

    @property
    def sets_gradients(self) -> bool:
        """Whether the class overrides ``set_gradients``."""
        return type(self).set_gradients is not Method.set_gradients

    def frozen_features(self, views: Views) -> Tensor:
        """Features of images from the frozen vision tower, not normalised, (B, E); computed where not yet known."""
        if views.features is not None:
            return views.features
        with torch.no_grad():
            return self.vision(views.pixels, pooling=self.pooling)

    def encoder(self) -> Encoder | None:
        """Computes frozen features under the current autocast; None if the method reads no features in this mode."""
        if self.traits.inputs == "pixels" or (self.traits.features_in_training_only and not self.training):
            return None
        probe = next(self.vision.parameters())
        kind, enabled = probe.device.type, torch.is_autocast_enabled(probe.device.type)
        autocast = torch.get_autocast_dtype(kind) if enabled else None

        def encode(images: Tensor) -> Tensor:
            with torch.autocast(kind, autocast, enabled):
                return self.frozen_features(Views(images.to(probe.device)))

        precision = (probe.dtype, autocast, matmul_precision(kind), kind)
        return Encoder(" ".join(map(str, (self.backbone.fingerprint, self.pooling, *precision))), encode)

    def views(self, source: TrainingSource, number: int) -> Iterator[Views]:
        """The batches of an epoch on the method's device, with the inputs that its traits ask for.

        Features are filled in where the source keeps them, computed under the current autocast; others are left to
        ``frozen_features``.
        """
        return self._views(source, number, pixels=self.traits.inputs != "features")

    def feature_views(self, source: TrainingSource, number: int) -> Iterator[Views]:
        """The batches of an epoch on the method's device with their frozen features; pixels may be missing."""
        for views in self._views(source, number, pixels=False):
            yield views.with_features(self.frozen_features(views))

    def _views(self, source: TrainingSource, number: int, *, pixels: bool) -> Iterator[Views]:
        device = next(self.vision.parameters()).device
        if source.keeps_features:
            epoch = source.epoch(number, encoder=self.encoder(), pixels=pixels)
        else:
            epoch = source.epoch(number)
        return (views.to(device) for views in epoch)

    def encode_classes(self) -> Tensor:
        """Unit features of the classes, (C, E); for methods that have a text tower."""
        raise NotImplementedError

    def encode_texts(self, encode: Encode, *, min_length: int = 0, prefix_length: int = 0) -> Tensor:
        """Features of the class texts ``ids``, (C, E), within ``memory``; see ``encode_in_buckets``."""
        return encode_in_buckets(
            self.text,
            self.ids,
            encode,
            min_length=min_length,
            prefix_length=prefix_length,
            memory=self.text_cache_bytes,
        )

    def encode_texts_with_shared_prefix(self, prompter: Prompter) -> Tensor:
        """The same for texts that open with the same prompts; see ``encode_with_shared_prefix``."""
        return encode_with_shared_prefix(self.text, self.ids, prompter, memory=self.text_cache_bytes)

    def class_features(self) -> Tensor:
        """``encode_classes()``, kept from one evaluation batch to the next while nothing that it depends on changes.

        Whether something did is told by the tuned tensors' values, not by torch's version counters: fused optimisers,
        ``tensor.data`` and other libraries change values without raising those. In training mode, where dropout is
        random, and where gradients are wanted, the texts are encoded each time.
        """
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            return self.encode_classes()
        probe = next(self.vision.parameters())
        kind = probe.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        now, place = self._stored(), (probe.device, probe.dtype, autocast)
        if self._encoded is None or not self._encoded.holds(now, place):
            tensors = {name: tensor.detach().clone() for name, tensor in now.items()}
            self._encoded = ClassTexts(tensors, place, self.encode_classes())
        return self._encoded.features

    def class_logits(self, features: Tensor, classes: Tensor) -> Tensor:
        """CLIP's scores: scale times the cosine, plus the bias some models have. Both arguments are unit vectors."""
        return self.backbone.scale * features @ classes.t() + self.backbone.bias

    def with_classes(self, names: Sequence[str], *, check: bool = True) -> "Method":
        """The same tuned method for other class names, without training.

        Args:
            names: At least two, all different.
            check: Whether to refuse others. A published protocol's may repeat (ImageNet's list) or be a single one.

        Raises:
            ValueError: If the method's classifier belongs to its training classes, or the names are wrong.
        """
        if not self.traits.open_vocabulary:
            raise ValueError(
                f"{self.name} cannot take new class names: its head was trained for {len(self.classes)} classes. "
                "Use a method that reads class names (sep, coop, zero-shot)."
            )
        generator = torch.Generator().manual_seed(0)
        names = check_names(names, self.backbone) if check else names
        other = type(self)(self.backbone, names, self.options, generator)
        other.to(next(self.vision.parameters()).device)
        other.load_adapter_state_dict(self.adapter_state_dict())
        return other.train(self.training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Everything that is tuned, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """What an artifact stores: the trained parameters that a prediction needs, and the persistent buffers."""
        return {name: tensor.detach() for name, tensor in self._stored().items()}

    def _stored(self) -> dict[str, Tensor]:
        trained = {name: p for name, p in self.trainable().items() if name not in self.traits.training_only}
        return {**trained, **self._persistent_buffers()}

    def _persistent_buffers(self) -> dict[str, Tensor]:
        """The persistent buffers by name, without those of the towers."""
        tensors = self.state_dict(keep_vars=True)
        towers = ("vision.", "text.")
        return {
            name: tensor
            for name, tensor in tensors.items()
            if not isinstance(tensor, nn.Parameter) and not name.startswith(towers)
        }

    def load_adapter_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of ``adapter_state_dict``.

        Raises:
            ValueError: If they do not fit; nothing is changed then.
        """
        problems = self.problems_with(tensors)
        if problems:
            raise ValueError(f"The tensors do not fit {self.name}: {listing(sorted(problems), 8, '; ')}.")
        with torch.no_grad():
            for name, tensor in self._stored().items():
                if name in self.traits.variable_length:
                    tensor.data = tensor.new_empty(tensors[name].shape)
                tensor.copy_(tensors[name])

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Why tensors cannot be loaded: what is missing, unexpected, of another shape or not finite."""
        own = self._stored()
        problems = [f"missing {name}" for name in own.keys() - tensors.keys()]
        problems += [f"unexpected {name}" for name in tensors.keys() - own.keys()]
        for name in own.keys() & tensors.keys():
            shape, expected = tuple(tensors[name].shape), tuple(own[name].shape)
            if name in self.traits.variable_length:
                expected = shape[:1] + expected[1:]
            if shape != expected:
                problems.append(f"{name} has shape {shape}, expected {expected}")
        if name := first_not_finite(tensors):
            problems.append(f"{name} holds NaN or infinity")
        return problems


def matmul_precision(kind: str) -> str:
    """How float32 matrices are multiplied on a kind of device, in torch's words: "highest", "high" or "medium".

    ``torch.get_float32_matmul_precision`` raises after someone has used torch's newer switches, such as
    ``torch.backends.cuda.matmul.fp32_precision = "tf32"``; so these are read if torch has them.
    """
    switches = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}
    newer = getattr(getattr(switches.get(kind), "matmul", None), "fp32_precision", None)
    if newer is None:
        return torch.get_float32_matmul_precision() if kind in switches else "highest"
    return {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}.get(newer, newer)


def normal(*shape: int, std: float, generator: torch.Generator) -> nn.Parameter:
    """A parameter drawn from N(0, std^2)."""
    return nn.Parameter(torch.randn(*shape, generator=generator) * std)


def check_names(class_names: Sequence[str], reader: Backbone | None = None) -> tuple[str, ...]:
    """Cleaned class names.

    Args:
        class_names: As the user gave them.
        reader: A backbone whose text tower is to tell them apart.

    Raises:
        ValueError: Unless there are at least two, all different, for the reader too, and none empty.
        TypeError: If they are one text.
    """
    if isinstance(class_names, str):
        raise TypeError(f"Class names must be a list of texts, got the text {class_names!r}.")
    names = [clean_name(str(n)) for n in class_names]
    if len(names) < 2:
        raise ValueError(f"A classifier needs at least 2 class names, got {len(names)}.")
    if not all(names):
        raise ValueError(f"Class names must not be empty, got {list(class_names)}.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        given = [str(n) for n, name in zip(class_names, names, strict=True) if name in twice and str(n) != name]
        written = f" (written {', '.join(map(ascii, given))})" if given else ""
        raise ValueError(f"Class names must differ, got {', '.join(twice)} twice{written}: merge them, or rename one.")
    if reader is not None and reader.text is not None:
        check_distinct_tokens(reader, names)
    return tuple(names)


def check_positive(**numbers: int) -> None:
    """Raise ValueError for the first option that is not at least 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
