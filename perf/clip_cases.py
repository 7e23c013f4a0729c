"""The cases on a CLIP: SEP and CoOp, ours through the library's public names, the plain ones written out."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from perf.cases import Size
from perf.compare import difference, gradient_difference, gradients
from perf.epochs import epochs
from perf.measure import Run
from perf.plain_clip import plain_clip
from perf.plain_coop import PlainCoOp
from perf.plain_sep import PlainSEP
from perf.setup import Pair, PerfSetup, adam, compare_losses, learned_by_name, training_step
from selfprompt.data.loading.image_files import from_value
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.recipes.recipe import load_recipe

CHUNK = 100
"""Classes whose texts the check of many classes sends through the plain text side at once."""


def plain_sep(method: Method, lab: PerfSetup, classes: int) -> PlainSEP:
    """The plain SEP of a method's first classes, in its state."""
    tensors = learned_by_name(method)
    tensors["prototypes"] = tensors["prototypes"][:classes]
    return PlainSEP(plain_clip(lab.clip), method.classes[:classes], method.options, tensors)


def plain_coop(method: Method, lab: PerfSetup, classes: int) -> PlainCoOp:
    """The plain CoOp, alike."""
    return PlainCoOp(plain_clip(lab.clip), method.classes[:classes], learned_by_name(method)["context"])


def sep_step(lab: PerfSetup, size: Size, name: str = "sep") -> Pair:
    """A training step of SEP."""
    method = _method(lab, size, name).train()
    images, labels = lab.images(lab.clip, size.batch), lab.labels(size.batch, size.classes)

    def plain_at(classes: int) -> Run:
        plain = plain_sep(method, lab, classes)
        fewer = lab.labels(size.batch, classes)
        return partial(training_step(lab, lambda *batch: plain.loss(*batch)[0], adam(plain)), images, fewer)

    def compare() -> Mapping[str, float]:
        plain = plain_sep(method, lab, size.classes)

        def ours() -> tuple[Tensor, Tensor | None]:
            terms = method.loss(images, labels)
            return terms.total, terms.logits

        def theirs() -> tuple[Tensor, Tensor]:
            if size.classes <= CHUNK or method.options.fusion_axis == "batch":
                return plain.loss(images, labels)
            return loss_in_chunks(plain, images, labels)

        return compare_losses(plain, theirs, method, ours)

    step = training_step(lab, lambda *batch: method.loss(*batch).total, adam(method))
    return Pair(partial(step, images, labels), plain_at, compare, size.batch, method=method)


def sep_authors_step(lab: PerfSetup, size: Size) -> Pair:
    """The same as released."""
    return sep_step(lab, size, "sep-authors")


def loss_in_chunks(plain: PlainSEP, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The plain loss of many classes, and its gradients, in the memory of few: texts go forward and backward by parts.

    Exact where a class's features do not depend on other classes.
    """
    parts = [slice(start, start + CHUNK) for start in range(0, len(plain.ends), CHUNK)]
    with torch.no_grad():
        texts = torch.cat([plain.text_features(part) for part in parts])
    texts.requires_grad_()
    loss, logits = plain.loss(images, labels, texts)
    loss.backward()
    assert texts.grad is not None
    for part in parts:
        plain.text_features(part).backward(texts.grad[part])
    return loss.detach(), logits.detach()


def sep_text(lab: PerfSetup, size: Size) -> Pair:
    """SEP's class texts in evaluation."""
    method = _method(lab, size, "sep").eval()

    def plain_at(classes: int) -> Run:
        return quietly(lab, plain_sep(method, lab, classes).text_features)

    def compare() -> Mapping[str, float]:
        with torch.no_grad():
            return {
                "features": difference(plain_sep(method, lab, size.classes).text_features(), method.encode_classes())
            }

    return Pair(quietly(lab, method.encode_classes), plain_at, compare, size.classes)


def sep_images(lab: PerfSetup, size: Size) -> Pair:
    """SEP's images in evaluation, class texts known on both sides, frozen features known on ours."""
    method = _method(lab, size, "sep").eval()
    images = lab.images(lab.clip, size.batch)
    plain = plain_sep(method, lab, size.classes)
    with torch.no_grad(), lab.autocast():
        frozen, texts = method.frozen_features(images), method.class_features()

    def theirs() -> Tensor:
        return plain.clip.scale * plain.image_features(images)[1] @ texts.t()

    def compare() -> Mapping[str, float]:
        with torch.no_grad():
            known, texts = method.frozen_features(images), method.class_features()
            logits = plain.clip.scale * plain.image_features(images)[1] @ texts.t()
            return {"logits": difference(logits, method.logits(images, frozen=known))}

    ours = quietly(lab, lambda: method.logits(images, frozen=frozen))
    return Pair(ours, lambda _: quietly(lab, theirs), compare, size.batch)


def sep_evaluation(lab: PerfSetup, size: Size) -> Pair:
    """SEP's logits of one more batch."""
    method = _method(lab, size, "sep").eval()
    images = lab.images(lab.clip, size.batch)

    def plain_at(classes: int) -> Run:
        plain = plain_sep(method, lab, classes)
        return quietly(lab, lambda: plain.logits(images))

    def compare() -> Mapping[str, float]:
        with torch.no_grad():
            return {"logits": difference(plain_sep(method, lab, size.classes).logits(images), method.logits(images))}

    return Pair(quietly(lab, lambda: method.logits(images)), plain_at, compare, size.batch)


def coop_text(lab: PerfSetup, size: Size) -> Pair:
    """CoOp's class features and the gradient of the context, for some gradient of the features."""
    method = _method(lab, size, "coop-16").train()
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(size.classes, method.text.features, generator=generator).to(lab.device)

    def backward(module: PlainCoOp | Method, features: Callable[[], Tensor], classes: int) -> Run:
        def run() -> Tensor:
            module.zero_grad(set_to_none=True)
            with lab.autocast():
                encoded = features()
            encoded.backward(slope[:classes].to(encoded.dtype))
            return encoded

        return run

    def plain_at(classes: int) -> Run:
        plain = plain_coop(method, lab, classes)
        return backward(plain, plain.text_features, classes)

    def compare() -> Mapping[str, float]:
        plain = plain_coop(method, lab, size.classes)
        plain.zero_grad()
        method.zero_grad()
        encoded = method.encode_classes()
        encoded.backward(slope)
        parts = [slice(start, start + CHUNK) for start in range(0, size.classes, CHUNK)]
        far = 0.0
        for part in parts:
            features = plain.text_features(part)
            features.backward(slope[part])
            far = max(far, difference(features, encoded[part]))
        return {"features": far, "gradients": gradient_difference(gradients(plain), gradients(method))}

    ours = backward(method, method.encode_classes, size.classes)
    return Pair(ours, plain_at, compare, size.classes, method=method)


def coop_epoch(lab: PerfSetup, size: Size) -> Pair:
    """An epoch of CoOp over fixed views."""
    method = _method(lab, size, "coop-16").train()
    return epochs(lab, size, method, lambda: plain_coop(method, lab, size.classes))


def predict(lab: PerfSetup, size: Size) -> Pair:
    """Classes of images in memory, as arrays."""
    method = _method(lab, size, "sep").eval()
    classifier = Classifier(method, lab.clip.preprocess, size.batch)
    generator = torch.Generator().manual_seed(0)
    side = lab.clip.preprocess.size
    pictures = list(torch.randint(256, (size.images, side, side, 3), generator=generator, dtype=torch.uint8).numpy())
    transform = eval_transform(lab.clip.preprocess)

    def theirs(plain: PlainSEP) -> Tensor:
        found = []
        for start in range(0, len(pictures), size.batch):
            images = torch.stack([transform(from_value(picture)) for picture in pictures[start : start + size.batch]])
            with torch.no_grad(), lab.autocast():
                found.append(plain.logits(images.to(lab.device)).float().softmax(dim=-1).max(dim=-1).values.cpu())
        return torch.cat(found)

    def ours() -> Tensor:
        with lab.autocast():
            return torch.tensor([one.score for one in classifier.predict(pictures)])

    def plain_at(classes: int) -> Run:
        plain = plain_sep(method, lab, classes)
        return lambda: theirs(plain)

    def compare() -> Mapping[str, float]:
        scores = [one.score for one in classifier.predict(pictures)]
        return {"probabilities": difference(theirs(plain_sep(method, lab, size.classes)), torch.tensor(scores))}

    return Pair(ours, plain_at, compare, size.images)


def quietly(lab: PerfSetup, function: Callable[[], Tensor]) -> Run:
    """Without gradients, in the precision that is measured."""

    def run() -> Tensor:
        with torch.no_grad(), lab.autocast():
            return function()

    return run


def _method(lab: PerfSetup, size: Size, name: str) -> Method:
    """The method of a recipe."""
    recipe = load_recipe(name)
    return build_method(recipe.method, lab.clip, lab.names(size.classes), **recipe.options).to(lab.device)
