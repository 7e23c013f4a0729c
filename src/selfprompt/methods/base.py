"""Base class of all methods: trainable parameters around a frozen backbone, logits and a loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypeVar

from selfprompt.data.class_description import Described, describe_all
from selfprompt.data.loading.feature_cache import Encoder
from selfprompt.data.views import Views
from selfprompt.methods.checks import check_blocks, check_classes
from selfprompt.methods.class_feature_cache import ClassFeatureCache
from selfprompt.methods.class_texts import TEXT_MEMORY, ClassTexts, PromptedText, mean_of_texts, tokenize_for_tower
from selfprompt.methods.frozen_features import make_encoder
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
    """A loss as a weighted sum of named terms.

    Attributes:
        terms: Scalars by name.
        weights: Weights by name; a term without one has weight 1.
        logits: The logits that the loss was computed from, detached, (B, C); training accuracy is computed from them.
    """

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)
    logits: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Weighted sum of the terms, a scalar."""
        return torch.stack([self.weights.get(name, 1.0) * term for name, term in self.terms.items()]).sum()

    def backward(self) -> None:
        """Backpropagate the total."""
        self.total.backward()


class TrainingSource(SampleSource, Protocol):
    """Training data as ``prepare`` reads it: images by index, labels, and epochs of batches.

    Attributes:
        size: Number of images N.
        labels: Class indices, (N,), int64.
        keeps_features: Whether ``epoch`` fills in frozen features when it gets an encoder.
        validation: Images for selecting hyper-parameters, never test images; None if there are none.
    """

    @property
    def labels(self) -> Tensor: ...
    @property
    def keeps_features(self) -> bool: ...
    @property
    def validation(self) -> "TrainingSource | None": ...

    def deterministic(self) -> "TrainingSource":
        """Return the same images in order, under the evaluation transform instead of random crops."""
        ...

    def epoch(
        self, number: int, start_step: int = 0, *, encoder: Encoder | None = None, pixels: bool = True
    ) -> Iterator[Views]:
        """Yield the batches of an epoch, counted from 0.

        Args:
            number: The epoch, which determines order and random crops.
            start_step: Number of batches to skip.
            encoder: Computes the features to fill in, if the source keeps features.
            pixels: Whether pixels are needed where features are filled in.
        """
        ...


@dataclass(frozen=True)
class NoOptions:
    """Options of a method without options."""


class Method(nn.Module, Generic[OptionsT]):
    """A prompt-tuning method or baseline on a frozen backbone.

    A subclass sets ``Options`` (a frozen dataclass with the paper's values as defaults), creates its parameters in
    ``build`` and implements ``logits``; the other methods have defaults that suit most papers. Parameters that require
    a gradient are trained; an artifact stores them and the persistent buffers. Register a buffer that depends on the
    class names as not persistent.

    Attributes:
        classes: Name of each class, in the order of the logits.
        descriptions: What is known about each class: its names, sentences and templates.
        traits: What the library must know about the method, from ``traits_for(options)``.
        pooling: How the vision tower's tokens become features, from the traits.
        text_cache_bytes: Bytes of activations that encoded class texts may keep for gradients; the rest is recomputed.
        selected: Hyper-parameters that were selected on validation or training images, by name; results record them.

    Args:
        backbone: The frozen towers; they are shared, not copied.
        classes: Names or descriptions of the classes, in the order of the logits.
        options: The method's options.
        generator: Random generator for every initial value.

    Raises:
        ValueError: If the traits need a text tower and the backbone has none, the pooling does not suit it, or a
            description is wrong.
        TypeError: If the traits say that the vision tower is edited, and only its features are known.
    """

    __call__: Callable[..., Tensor]  # PyTorch declares Any
    Options: ClassVar[type[Any]] = NoOptions
    text_cache_bytes: int = TEXT_MEMORY
    text: Any  # the text tower; None for a plain ViT
    ids: Tensor  # token ids of the class texts, (T, L), in methods that prompt the text tower
    owners: Tensor | None  # class of each text in ids, (T,); None if every class has one text

    def __init__(
        self, backbone: Backbone, classes: Sequence[Described], options: OptionsT, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.traits = self.traits_for(options)
        if self.traits.needs_text and backbone.text is None:
            raise ValueError(f"{self.name} needs a CLIP backbone; {backbone.name} has no text tower.")
        check_blocks(self.name, self.traits, backbone)
        self.backbone = backbone
        self.descriptions = describe_all(classes)
        self.classes = tuple(one.name for one in self.descriptions)
        self.options = options
        self.pooling: Pooling = pooling_for(self.traits, backbone)
        self.vision = backbone.vision
        self.text = backbone.text
        self.selected: dict[str, float] = {}
        self._class_features = ClassFeatureCache()
        self.register_buffer("owners", None, persistent=False)
        self.build(generator)

    @classmethod
    def traits_for(cls, options: OptionsT) -> Traits:
        """Return the traits of a method with these options."""
        return Traits()

    def build(self, generator: torch.Generator) -> None:
        """Create parameters and buffers; ``backbone``, the towers, the classes and ``options`` are set.

        Args:
            generator: Random generator for every initial value.
        """

    def register_texts(
        self, texts: ClassTexts, written: Sequence[str | PromptedText] | None = None, min_length: int = 0
    ) -> Tensor:
        """Register the token ids of the class texts, ``ids``, and the class of each, ``owners``, for ``encode_texts``.

        Args:
            texts: The texts of the classes.
            written: The same texts with prompts in them, if there are any.
            min_length: Positions that a prompter reads.

        Returns:
            The positions of the prompts, (T, P).
        """
        ids, positions = tokenize_for_tower(self.backbone, texts.texts if written is None else written, min_length)
        owners = texts.owners()
        self.register_buffer("ids", ids, persistent=False)
        self.host_ids = ids.cpu()  # stays there when the method moves
        self.register_buffer("owners", None if owners is None else owners.to(ids.device), persistent=False)
        return positions

    @property
    def name(self) -> str:
        """Name for ``find_method``: the file's name with hyphens, or "package.module:Class"."""
        cls = type(self)
        package, _, module = cls.__module__.rpartition(".")
        return module.replace("_", "-") if package == __package__ else f"{cls.__module__}:{cls.__qualname__}"

    @property
    def has_descriptions(self) -> bool:
        """Whether there is more about a class than one name."""
        return not all(one.is_plain for one in self.descriptions)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of input images in pixels."""
        return self.vision.image_size

    @property
    def feature_size(self) -> int:
        """Size E of the features that the method's pooling gives."""
        return self.vision.feature_size(self.pooling)

    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Initialise parameters and buffers from the training data, before the first step; nothing by default.

        Args:
            source: All training images, the same in every process.
            generator: Random generator, seeded by the recipe.
            progress: Called with the number of images done and their total.
        """

    def logits(self, views: Views) -> Tensor:
        """Compute the logits of images, (B, C): by default those of ``encode_images`` and ``class_vectors``.

        Args:
            views: With pixels, (B, 3, H, W), features, (B, E), or both, according to the traits' ``inputs``. Features
                may be missing; ``frozen_features(views)`` returns those that are there and computes the others.
        """
        return self.class_logits(self.encode_images(views), self.class_vectors())

    def encode_images(self, views: Views) -> Tensor:
        """Compute the vectors of images that ``logits`` compares with those of the classes, (B, E).

        They must not depend on the classes. Methods with ``logits`` of their own do not need it.
        """
        raise NotImplementedError

    def class_vectors(self) -> Tensor:
        """Return the vectors of the classes that ``logits`` compares with those of images, (C, E)."""
        return self.class_features()

    @property
    def compares_vectors(self) -> bool:
        """Whether the logits are CLIP's, of ``encode_images`` and ``class_vectors``, which an export keeps apart."""
        return type(self).logits is Method.logits

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of preprocessed images: (B, 3, H, W) to (B, C)."""
        return self.logits(Views(images))

    def loss(self, views: Views) -> LossTerms:
        """Compute the loss of labelled images; the mean cross-entropy by default."""
        logits = self.logits(views)
        return LossTerms({"ce": F.cross_entropy(logits, views.labels)}, logits=logits.detach())

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Run at the end of epoch ``epoch``, counted from 0, of ``epochs``; nothing by default."""

    def training_state(self) -> dict[str, Tensor]:
        """Return the tensors besides the parameters that training changes, by name; checkpoints store them."""
        return self._persistent_buffers()

    def set_gradients(self, terms: LossTerms, mean: Callable[[Tensor], Tensor]) -> None:
        """Set the gradient of each trainable parameter from the terms of a loss.

        Override it in a method that combines gradients itself (ProGrad); otherwise the total is backpropagated. Such a
        method is trained without gradient accumulation and without the precision 16-mixed.

        Args:
            terms: Returned by ``loss``, with their graph.
            mean: Averages a tensor over the processes.
        """
        raise NotImplementedError

    @property
    def sets_gradients(self) -> bool:
        """Whether the class overrides ``set_gradients``."""
        return type(self).set_gradients is not Method.set_gradients

    def frozen_features(self, views: Views) -> Tensor:
        """Return features of images from the frozen vision tower, not normalised, (B, E); compute missing ones."""
        if views.features is not None:
            return views.features
        with torch.no_grad():
            return self.vision(views.pixels, pooling=self.pooling)

    def encoder(self) -> Encoder | None:
        """Return what computes frozen features for a cache; None if the method reads no features in this mode."""
        if self.traits.inputs == "pixels" or (self.traits.features_in_training_only and not self.training):
            return None
        return make_encoder(
            lambda pixels: self.frozen_features(Views(pixels)),
            next(self.vision.parameters()),
            self.backbone.fingerprint,
            self.pooling,
        )

    def views(self, source: TrainingSource, number: int) -> Iterator[Views]:
        """Yield the batches of an epoch on the method's device, with the inputs that its traits name.

        Features are filled in if the source keeps them, computed under the current autocast; if not, they are left to
        ``frozen_features``.
        """
        return self._views(source, number, pixels=self.traits.inputs != "features")

    def feature_views(self, source: TrainingSource, number: int) -> Iterator[Views]:
        """Yield the batches of an epoch on the method's device with frozen features; pixels may be missing."""
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
        """Compute unit features of the classes, (C, E); methods that prompt the text tower implement it."""
        raise NotImplementedError

    def encode_texts(self, encode: Encode, *, min_length: int = 0, prefix_length: int = 0) -> Tensor:
        """Encode the class texts ``ids``, (T, L) to (C, E), within ``text_cache_bytes``; see ``encode_in_buckets``.

        Of classes with several texts these are the means of their unit features.
        """
        features = encode_in_buckets(
            self.text,
            self.ids,
            encode,
            min_length=min_length,
            prefix_length=prefix_length,
            memory=self.text_cache_bytes,
            host_ids=self.host_ids,
        )
        return self.mean_of_texts(features)

    def encode_texts_with_shared_prefix(self, prompter: Prompter, *, throughout: bool = False) -> Tensor:
        """Encode class texts that begin with the same tokens (``encode_with_shared_prefix``), as ``encode_texts``."""
        features = encode_with_shared_prefix(
            self.text,
            self.ids,
            prompter,
            throughout=throughout,
            memory=self.text_cache_bytes,
            host_ids=self.host_ids,
        )
        return self.mean_of_texts(features)

    def mean_of_texts(self, features: Tensor) -> Tensor:
        """Return the mean of the unit features of each class's texts, (..., T, E) to (..., C, E).

        With one text a class, the features are returned as they are, not normalised.
        """
        return mean_of_texts(features, self.owners, len(self.classes))

    def class_features(self) -> Tensor:
        """Return ``encode_classes()``, cached in evaluation while no tensor that it depends on changes.

        In training mode, where dropout is random, and with gradients enabled, the texts are encoded each time.
        """
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            return self.encode_classes()
        return self._class_features.get(self._stored(), next(self.vision.parameters()), self.encode_classes)

    def class_logits(self, features: Tensor, classes: Tensor) -> Tensor:
        """Compute CLIP's logits, (B, C): the scaled cosines, plus the bias that some models have.

        Args:
            features: Unit features of images, (B, E).
            classes: Unit features of classes, (C, E).
        """
        return self.backbone.scale * features @ classes.t() + self.backbone.bias

    def with_classes(self, classes: Sequence[Described], *, check: bool = True) -> "Method":
        """Return the trained method with other class names or descriptions, without further training.

        Args:
            classes: At least two classes with different names.
            check: Whether to check the names; those of a published protocol may repeat (ImageNet's) or be a single one.

        Raises:
            ValueError: If the method has no open vocabulary, or the names are wrong.
        """
        if not self.traits.open_vocabulary:
            raise ValueError(
                f"{self.name} cannot take new class names: its head was trained for {len(self.classes)} classes. "
                "Use a method that reads class names (sep, coop, zero-shot)."
            )
        generator = torch.Generator().manual_seed(0)
        classes = check_classes(classes, self.backbone) if check else classes
        other = type(self)(self.backbone, classes, self.options, generator)
        other.to(next(self.vision.parameters()).device)
        other.load_adapter_state_dict(self.adapter_state_dict())
        return other.train(self.training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of an artifact: trained parameters that predictions need, and persistent buffers."""
        return {name: tensor.detach() for name, tensor in self._stored().items()}

    def _stored(self) -> dict[str, Tensor]:
        trained = {name: p for name, p in self.trainable().items() if name not in self.traits.training_only}
        return {**trained, **self._persistent_buffers()}

    def _persistent_buffers(self) -> dict[str, Tensor]:
        """Return the persistent buffers by name, without those of the towers."""
        tensors = self.state_dict(keep_vars=True)
        towers = ("vision.", "text.")
        return {
            name: tensor
            for name, tensor in tensors.items()
            if not isinstance(tensor, nn.Parameter) and not name.startswith(towers)
        }

    def load_adapter_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the tensors of ``adapter_state_dict``.

        Raises:
            ValueError: If they do not fit; nothing is loaded then.
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
        """Return why tensors cannot be loaded: missing, unexpected, of another shape or not finite."""
        expected = self._stored()
        problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
        problems += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
        for name in expected.keys() & tensors.keys():
            shape, needed = tuple(tensors[name].shape), tuple(expected[name].shape)
            if name in self.traits.variable_length:
                needed = shape[:1] + needed[1:]
            if shape != needed:
                problems.append(f"{name} has shape {shape}, expected {needed}")
        if name := first_not_finite(tensors):
            problems.append(f"{name} holds NaN or infinity")
        return problems
