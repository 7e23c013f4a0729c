"""Zero-shot logits beside a trained classifier's: the same backbone and class texts, without training."""

from typing import TYPE_CHECKING

from torch import Tensor

from selfprompt.inference.classifier import Classifier, compute_logits
from selfprompt.methods.registry import build_method
from selfprompt.utils.progress import Progress

if TYPE_CHECKING:
    from selfprompt.data.loading.loader import Batches


def zero_shot_logits(
    classifier: Classifier, batches: "Batches", *, check: bool = True, progress: Progress | None = None
) -> Tensor | None:
    """Return the logits of images under the untrained CLIP, (N, C); None if the backbone has no text tower.

    Args:
        classifier: Its backbone, class descriptions and template, if it has one, are used.
        batches: The images.
        check: Whether to check the class names; those of a published protocol may repeat.
        progress: Called with (done, total) images.

    Raises:
        ValueError: If the class names cannot be read.
    """
    backbone = classifier.method.backbone
    if backbone.text is None:
        return None
    template = getattr(classifier.method.options, "template", None)
    options = {"template": template} if template else {}
    untrained = build_method("zero-shot", backbone, classifier.method.descriptions, check=check, **options)
    return compute_logits(untrained.to(classifier.device), batches, progress=progress)
