"""The trained classifier: predict, evaluate, save, load, and change class names."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from selfprompt.data.class_description import description_record
from selfprompt.data.class_names import ClassNames, other_classes
from selfprompt.data.dataset import Item
from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.inference.answers import Model, collect
from selfprompt.inference.artifact import Artifact, library_versions, save_artifact
from selfprompt.inference.calibration import Calibration, calibrated_metrics
from selfprompt.inference.evaluation import EvaluationSplit, find_images, readable_images
from selfprompt.inference.inputs import iterate_images
from selfprompt.inference.notebook import classifier_table
from selfprompt.inference.predictions import Prediction, Request
from selfprompt.methods.base import Method
from selfprompt.metrics import Metrics, compute_metrics
from selfprompt.models.loading.by_name import Preprocess
from selfprompt.utils.cores import reader_threads
from selfprompt.utils.matmul import Float32, float32_products
from selfprompt.utils.progress import Progress
from selfprompt.utils.wording import listing

logger = logging.getLogger(__name__)

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
LOW_PRECISION = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Type of the products under a mixed precision."""


@dataclass(repr=False)
class Classifier:
    """An image classifier: a trained method with the preprocessing of its images.

    Attributes:
        method: The trained method, a ``torch.nn.Module``.
        preprocess: Size and statistics of the images.
        batch_size: Images per batch; it affects predictions unless ``method.traits.batch_independent``.
        recipe: The recipe it was trained with, as keys and values.
        results: The record of its training: metrics by name, notes, seconds.
        calibration: What its probabilities and promises are based on; None if it has none.
        precision: Precision of the computation: "32-true", "bf16-mixed", or "16-mixed" on a GPU.
        float32: Path of float32 matrix products; "auto" is the fastest exact one on a CPU, TF32 on a GPU.
        origin: Repository and commit on the Hugging Face hub that it was loaded from; empty if it was trained here.
    """

    method: Method
    preprocess: Preprocess
    batch_size: int = 100
    recipe: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    origin: str = ""
    precision: Precision = "32-true"
    float32: Float32 = "auto"

    def __repr__(self) -> str:
        tuned = self.results.get("tuned")
        accuracy = f", {tuned['accuracy']:.1f} % of {tuned['total']} test images" if tuned else ""
        classes = listing([ascii(name)[1:-1] if not name.isprintable() else name for name in self.classes], 5)
        return f"Classifier({self.method.name} on {self.method.backbone.name}{accuracy}; classes: {classes})"

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        return classifier_table(self.method.name, self.method.backbone.name, self.classes, self.results)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.method.classes

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.method.vision.parameters()).device

    def to(self, device: str | torch.device) -> "Classifier":
        """Move the model to a device."""
        self.method.to(device)
        return self

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of preprocessed images, (B, 3, H, W) to (B, C), float32 on the CPU."""
        self.method.eval()
        with self.computing():
            return self.method(images.to(self.device)).detach().float().cpu()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Set the classifier's precision within the context."""
        kind, low = self.device.type, LOW_PRECISION.get(self.precision)
        with float32_products(self.float32, kind), torch.autocast(kind, low, enabled=low is not None):
            yield

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits of all classes, (..., C): calibrated, float64, if the classifier is."""
        if self.calibration is None:
            return logits.softmax(dim=-1)
        return torch.from_numpy(self.calibration.log_probabilities(logits)).exp()

    def predict(
        self,
        images: Any,
        *,
        top: int = 1,
        unknown: float | None = None,
        coverage: float | None = None,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Classify images.

        Args:
            images: One image: a path, a PIL image, an array (H, W, 3), a tensor (3, H, W), the bytes of a file, or an
                open binary file (which stays open). A folder, for all images below it. A batch, as array (N, H, W, 3)
                or tensor (N, 3, H, W). Or any iterable of images.
            top: Number of classes to return per image.
            unknown: Answer "unknown" for images unlike the trained classes, such that at most this share of images of
                these classes is refused, in (0, 1). None answers with a class for every image.
            coverage: Return a set of classes that contains the true one for this share of images, in (0, 1), instead of
                ``top`` classes. Unknown images have an empty set.
            progress: Called with (done, total) images; if the total is unknown, it equals done.

        Returns:
            One prediction per image, in order; unreadable images have an ``error``.

        Raises:
            ValueError: If an argument is out of range, a folder has no images, or ``unknown`` or ``coverage`` is given
                and the classifier is not calibrated.
        """
        stream = partial(self.stream, top=top, unknown=unknown, coverage=coverage)
        return collect(images, stream, progress)

    def stream(
        self,
        images: Any,
        *,
        top: int = 1,
        unknown: float | None = None,
        coverage: float | None = None,
        workers: int = 0,
    ) -> Iterator[list[Prediction]]:
        """Classify any number of images in constant memory, batch by batch.

        Args:
            images: As for ``predict``; consumed lazily, at most three batches ahead.
            top, unknown, coverage: As for ``predict``.
            workers: Threads that read images ahead of the model; they affect only the speed. 0 reads in the calling
                thread.

        Returns:
            An iterator over lists of ``batch_size`` predictions, in order; unreadable images have an ``error``.

        Raises:
            ValueError: If an argument is out of range, or ``unknown`` or ``coverage`` is given and the classifier is
                not calibrated.
        """
        groups = [iterate_images(images)]
        return self.stream_groups(groups, top=top, unknown=unknown, coverage=coverage, workers=workers)

    def stream_groups(
        self,
        groups: Iterable[Iterable[Any]],
        *,
        top: int = 1,
        unknown: float | None = None,
        coverage: float | None = None,
        workers: int = 0,
    ) -> Iterator[list[Prediction]]:
        """Classify groups of images as ``stream`` does, but begin a new batch with each group.

        Args:
            groups: Iterables of single images, such as those of an archive; consumed lazily, like the images in them.
            top, unknown, coverage, workers: As for ``stream``.
        """
        request = Request(top, unknown, coverage)
        for remark in self.check_request(request):
            logger.warning(remark)
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}.")
        return self.model().stream_groups(groups, request, workers)

    def check_request(self, request: Request) -> list[str]:
        """Return remarks on promises that the calibration keeps only trivially, because it has too few images.

        Raises:
            ValueError: If the request needs a calibration and there is none.
        """
        return self.model().remarks(request)

    def model(self) -> Model[Tensor]:
        """Return what answers need of this classifier."""
        transform = eval_transform(self.preprocess)

        def logits(pixels: Sequence[Tensor]) -> np.ndarray:
            result: np.ndarray = self.logits(transform.batch(pixels, self.device)).numpy()
            return result

        return Model(self.classes, transform.pixels, logits, self.batch_size, self.calibration)

    def evaluate(
        self,
        data: Any,
        store: ImageStore | None = None,
        features: FeatureStore | None = None,
        *,
        split: EvaluationSplit = "auto",
        among: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Metrics:
        """Measure accuracy and more on labelled images.

        Args:
            data: Whatever ``tune`` takes: a folder, a manifest, a task or an object. Copies of training images and
                unreadable images are left out, which is logged. Or the items of a split, such as
                ``read_dataset("photos").test``, with this classifier's labels, or those of ``among``; used as they are.
            store: Keeps decoded images.
            features: Keeps frozen features of the images.
            split: Which images of the data to use; "auto" is the test split if there is one, otherwise all images.
                Ignored for items.
            among: Class indices to choose from, for items; the scores of other classes are ignored.
            progress: Called with (done, total) images.

        Raises:
            ValueError: If there are no images, or the data cannot be read.
        """
        if not _are_items(data):
            images = find_images(data, self.classes, self.recipe, self.results, split=split, say=logger.info)
            store = store or ImageStore()
            data, bad = readable_images(images, store, on_bad="skip", progress=None, say=logger.info)
            for image in bad:
                logger.warning("Left out %s", image)
        logits, labels = self.item_logits(data, store, features, progress=progress)
        if among is None:
            return self.metrics(logits, labels)
        return compute_metrics(logits[:, list(among)], labels, [self.classes[label] for label in among])

    def item_logits(
        self,
        items: Sequence[Item],
        store: ImageStore | None = None,
        features: FeatureStore | None = None,
        *,
        progress: Progress | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of labelled images, (N, C), float32 on the CPU, and their labels, (N,); as ``evaluate``."""
        batches = self.batches(items, store, features)
        with self.computing():
            return compute_logits(self.method, batches, progress=progress), batches.labels

    def metrics(self, logits: Tensor, labels: Tensor) -> Metrics:
        """Compute metrics from logits of all classes, (N, C), and labels, (N,), with calibrated probabilities."""
        if self.calibration:
            return calibrated_metrics(logits, labels, self.classes, self.calibration)
        return compute_metrics(logits, labels, self.classes)

    def batches(
        self, items: Sequence[Item], store: ImageStore | None = None, features: FeatureStore | None = None
    ) -> Batches:
        """Return batches of the images in order, under the evaluation transform."""
        transform = eval_transform(self.preprocess)
        return Batches(
            items,
            store or ImageStore(0),
            transform,
            self.batch_size,
            shuffle=False,
            workers=reader_threads(),
            features=features,
            device=self.device,
        )

    def with_classes(self, classes: ClassNames, *, check: bool = True) -> "Classifier":
        """Return a classifier with the same trained prompts for other class names or descriptions, without training.

        Args:
            classes: A list of at least two classes, each a name or a mapping with names, descriptions and templates; a
                mapping from names to these; or a file, classes.yaml or classes.txt. A mapping that has all present
                classes, or no others, changes what is said about these; any other mapping is a new list.
            check: Whether to reject repeated or single names, which published protocols may have.

        Raises:
            ValueError: If the head of the method was trained for its classes, or a class or the file is wrong.
        """
        method = self.method.with_classes(other_classes(classes, self.method.descriptions), check=check)
        # what was measured and calibrated holds for the former classes
        return replace(self, method=method, results={}, calibration=None)

    def save(self, folder: str | Path) -> None:
        """Save the classifier to a folder: trained tensors, configuration and model card.

        Raises:
            RuntimeError: If a file cannot be written.
        """
        backbone = self.method.backbone
        config = {
            "method": self.method.name,
            "options": asdict(self.method.options),
            "backbone": {
                **backbone.source,
                "fingerprint": backbone.fingerprint,
                "architecture": backbone.architecture,
                "note": backbone.note,
            },
            "classes": list(self.classes),
            **description_record(self.method.descriptions),
            "preprocess": self.preprocess.record(),
            "batch_size": self.batch_size,
            "sample_wise": self.method.traits.batch_independent,
            "recipe": dict(self.recipe),
            "results": artifact_results(self.results),
            "versions": library_versions(),
        }
        if self.calibration:
            config["calibration"] = self.calibration.to_json()
        if self.origin:
            config["origin"] = self.origin
        save_artifact(Path(folder), Artifact(config, self.method.adapter_state_dict()))


def _are_items(data: Any) -> bool:
    """Return whether these are items of a data set."""
    return isinstance(data, Sequence) and len(data) > 0 and all(isinstance(item, Item) for item in data)


def artifact_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results without what is private, large (history, confusion) or stored in the artifact elsewhere."""
    kept = {
        name: value
        for name, value in results.items()
        if name not in ("history", "recipe", "versions", "data", "preprocess", "class_descriptions")
    }
    for name in ("tuned", "zero_shot", "ridge"):
        if kept.get(name):
            kept[name] = {key: value for key, value in kept[name].items() if key != "confusion"}
    return kept


@torch.no_grad()
def compute_logits(method: Method, batches: Batches, *, progress: Progress | None = None) -> Tensor:
    """Return the logits of all images in order, (N, C), float32, on the CPU."""
    method.eval()
    logits: list[Tensor] = []
    done = 0
    for views in method.views(batches, 0):
        logits.append(method.logits(views).float())  # on the device: a copy would wait for it
        done += len(views)
        if progress:
            progress(done, batches.size)
    return torch.cat(logits).cpu()
