"""The scikit-learn estimator: `tune` and `Classifier` behind fit, predict, predict_proba and score."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from selfprompt.data.dataset import Dataset, ImageTable, IndexedSource, Item, Source
from selfprompt.data.loading.image_inputs import is_path_like, to_path
from selfprompt.inference.classifier import Classifier
from selfprompt.models.backbone import Backbone
from selfprompt.training.tune import tune
from selfprompt.utils.spelling import clean_name
from selfprompt.utils.wording import plural

SET_BY_FIT = {
    "seed": "random_state",
    "device": "device",
    "class_names": "class_names",
    **dict.fromkeys(("shots", "holdout", "classes"), "what fit is given"),
}
"""Settings of a recipe that have another place in the estimator."""


class PromptClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An image classifier on a frozen backbone as a scikit-learn estimator.

    ``X`` is a sequence of images: paths, PIL images, arrays (H, W, 3), the bytes of files; or one array
    (N, H, W, 3), uint8. ``y`` are class labels of any type that scikit-learn takes. All images given to ``fit`` are
    trained on; ``cross_val_score`` and the like measure the accuracy.

    Args:
        method: "auto", which chooses by cross-validation on the images given to ``fit``, or the name of a method or
            recipe, as for `tune`.
        backbone: A name or a loaded backbone; None uses the recipe's.
        class_names: Label -> what to call the class in texts; None uses the labels themselves. Methods that read class
            names need words: for labels that are numbers give names.
        options: Options of the method.
        settings: Other values of the recipe: ``{"epochs": 20, "lr": 0.01}``.
        device: "cpu", "cuda", "mps", or "auto".
        random_state: Seed of everything random, a number, generator or None, as in scikit-learn.

    Attributes:
        classes_: The labels, sorted, (C,).
        classifier_: The trained `Classifier`; ``classifier_.save("folder")`` stores it.

    A fitted estimator may be pickled, with its backbone; load only pickles that you made. ``classifier_.save`` is safe
    to share.
    """

    classes_: NDArray[Any]
    classifier_: Classifier

    def __init__(
        self,
        method: str = "auto",
        *,
        backbone: str | Backbone | None = None,
        class_names: Mapping[Any, str] | None = None,
        options: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        device: str = "auto",
        random_state: Any = 1,
    ) -> None:
        self.method = method
        self.backbone = backbone
        self.class_names = class_names
        self.options = options
        self.settings = settings
        self.device = device
        self.random_state = random_state

    def fit(self, X: Sequence[Any] | NDArray[Any], y: ArrayLike) -> Self:
        """Train on labelled images.

        Args:
            X: N images.
            y: Their labels, (N,).

        Raises:
            ValueError: If there are fewer than two classes, an image cannot be read, or a parameter is wrong.
        """
        images, labels = _as_images(X), column_or_1d(y, warn=True)
        check_consistent_length(images, labels)
        check_classification_targets(labels)
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got {plural(len(self.classes_), 'class')}.")
        dataset = Dataset("images", self._names(), _items(images, indices))
        self.classifier_ = tune(
            dataset,
            method=self.method,
            backbone=self.backbone,
            options=self.options,
            **self._settings(),
        )
        return self

    def predict(self, X: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """Return the most likely label of each image, (N,).

        Raises:
            ValueError: If an image cannot be read.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of each class of ``classes_``, (N, C); calibrated, if the classifier is.

        Raises:
            ValueError: If an image cannot be read.
        """
        check_is_fitted(self)
        images, classifier = _as_images(X), self.classifier_
        column = {name: index for index, name in enumerate(classifier.classes)}
        result = np.zeros((len(images), len(column)))
        predictions = (one for batch in classifier.stream(images, top=len(column)) for one in batch)
        for row, prediction in zip(result, predictions, strict=True):
            if prediction.error:
                raise ValueError(f"{prediction.image} cannot be read: {prediction.error}.")
            for name, probability in prediction.top:
                row[column[name]] = probability
        return result

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.non_deterministic = False
        return tags

    def _names(self) -> tuple[str, ...]:
        """Return what the classes are called in texts.

        Raises:
            ValueError: If ``class_names`` lacks a label, or two names are the same.
        """
        named = self.class_names
        if named is not None and (missing := [label for label in self.classes_.tolist() if label not in named]):
            raise ValueError(f"class_names must have a name for every label, but {missing[0]!r} has none.")
        labels = self.classes_.tolist()
        names = tuple(clean_name(str(label if named is None else named[label])) for label in labels)
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(
                    f"The labels {labels[names.index(name)]!r} and {labels[index]!r} have the same name {name!r}; give "
                    "different ones in class_names."
                )
        return names

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = dict(self.settings or {})
        for name, place in SET_BY_FIT.items():
            if name in settings:
                raise ValueError(f"settings must not have {name!r}: {place} determines it.")
        fixed = {"shots": 0, "holdout": 0.0, "device": self.device, "seed": self._seed()}
        return {"on_bad_image": "fail", **settings, **fixed}


def _as_images(X: Any) -> Sequence[Any] | NDArray[Any]:
    """Return the images as a sequence.

    Raises:
        ValueError: If it is one image, one path or an array of another shape.
    """
    wanted = "X must be a sequence of images, or an array (N, H, W, 3)"
    if is_path_like(X) or isinstance(X, bytes):
        raise ValueError(f"{wanted}, got a single {type(X).__name__}; put it in a list.")
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) not in (1, 4):
        raise ValueError(f"{wanted}, got an array of shape {tuple(shape)}.")
    images = X if shape is not None and len(shape) == 4 else list(X)
    if len(images) == 0:
        raise ValueError(f"{wanted}, got 0 sample(s).")
    return images


def _items(images: Sequence[Any] | NDArray[Any], labels: NDArray[np.int64]) -> tuple[Item, ...]:
    """Return the images as items of a data set."""
    table = ImageTable("X", lambda index: images[index], in_memory=True)

    def source(index: int) -> Source:
        image = images[index]
        return Path(to_path(image)) if is_path_like(image) else IndexedSource(table, index)

    return tuple(Item(source(index), int(label)) for index, label in enumerate(labels))
