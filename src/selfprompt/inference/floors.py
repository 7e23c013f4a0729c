"""What an evaluation shows beside a saved classifier: the floors on the same images."""

from collections.abc import Sequence
from typing import Any

import torch

from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.loading.store import ImageStore
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.judged_images import JudgedImage
from selfprompt.inference.zero_shot import zero_shot_logits
from selfprompt.metrics import Metrics, compute_metrics, mcnemar
from selfprompt.utils.progress import Progress


def floors_of_evaluation(
    classifier: Classifier,
    metrics: Metrics,
    judged: Sequence[JudgedImage],
    store: ImageStore,
    progress: Progress | None = None,
    features: FeatureStore | None = None,
) -> dict[str, Any]:
    """Return the floors of an evaluation as JSON values, by their keys in the results.

    On the test images of the training these are the floors measured then. On other images it is the zero-shot accuracy
    of a CLIP alone, because ridge regression needs the training images; under "reference" stands the accuracy after the
    training.

    Args:
        classifier: The evaluated classifier.
        metrics: Its metrics on the images.
        judged: The images with their predictions.
        store: Keeps decoded images.
        progress: Called with (done, total) images.
        features: Keeps frozen features of the images, which a head and zero-shot share.
    """
    then, now = classifier.results.get("tuned"), metrics.to_json()
    same = ("correct", "total", "per_class")
    if then and [then.get(key) for key in same] == [now[key] for key in same]:
        return {key: classifier.results.get(key) for key in ("zero_shot", "ridge", "against")}
    shown = {"reference": then} if then else {}
    if classifier.method.name == "zero-shot":
        return shown
    batches = classifier.batches([one.item for one in judged], store, features)
    with classifier.computing():
        logits = zero_shot_logits(classifier, batches, check=False, progress=progress)
    if logits is None:
        return shown
    hits = torch.tensor([not one.wrong for one in judged])
    against = mcnemar(hits, logits.argmax(dim=1) == batches.labels)
    floor = compute_metrics(logits, batches.labels, classifier.classes)
    return {**shown, "zero_shot": floor.to_json(), "against": {"zero_shot": against.to_json()}}
