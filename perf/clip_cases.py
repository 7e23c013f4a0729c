"""The workloads on a CLIP: SEP and CoOp, with the library and with the plain baselines."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from perf.cases import Size
from perf.compare import difference, gradient_difference, gradients
from perf.epochs import epochs
from perf.plain_clip import plain_clip
from perf.plain_coop import PlainCoOp
from perf.plain_sep import PlainSEP
from perf.setup import Contenders, PerfSetup, adam, compare_losses, sgd, trainable_tensors, training_step
from perf.timing import Work
from selfprompt.data.loading.rgb import pixels_to_rgb
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.data.views import Views
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.recipes.recipe import load_recipe

PlainT = TypeVar("PlainT", PlainSEP, PlainCoOp)
CHUNK = 100
"""Number of classes per chunk when the results for many classes are compared."""


def plain_sep(method: Method, setup: PerfSetup, classes: int) -> PlainSEP:
    """Build the plain SEP for the first classes of a method, with its trainable tensors."""
    tensors = trainable_tensors(method)
    tensors["prototypes"] = tensors["prototypes"][:classes]
    return PlainSEP(plain_clip(setup.clip), method.classes[:classes], method.options, tensors)


def plain_coop(method: Method, setup: PerfSetup, classes: int) -> PlainCoOp:
    """Build the plain CoOp for the first classes of a method, with its context."""
    return PlainCoOp(plain_clip(setup.clip), method.classes[:classes], trainable_tensors(method)["context"])


def sep_step(setup: PerfSetup, size: Size, name: str = "sep") -> Contenders:
    """Build the contenders of a SEP training step."""
    method = _method(setup, size, name).train()

    def loss(plain: PlainSEP, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if size.classes <= CHUNK or method.options.fusion_axis == "batch":
            return plain.loss(images, labels)
        return loss_in_chunks(plain, images, labels)

    return _step(setup, size, method, lambda classes: plain_sep(method, setup, classes), adam, loss)


def sep_authors_step(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of a training step of SEP as released."""
    return sep_step(setup, size, "sep-authors")


def loss_in_chunks(plain: PlainSEP, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the plain loss and gradients of many classes, with forward and backward passes of the texts in chunks.

    Exact if the features of a class do not depend on other classes.
    """
    chunks = [slice(start, start + CHUNK) for start in range(0, len(plain.ends), CHUNK)]
    with torch.no_grad():
        texts = torch.cat([plain.text_features(chunk) for chunk in chunks])
    texts.requires_grad_()
    loss, logits = plain.loss(images, labels, texts)
    loss.backward()
    assert texts.grad is not None
    for chunk in chunks:
        plain.text_features(chunk).backward(texts.grad[chunk])
    return loss.detach(), logits.detach()


def sep_text(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of SEP's class texts in evaluation."""
    method = _method(setup, size, "sep").eval()

    def plain_at(classes: int) -> Work:
        return without_gradients(setup, plain_sep(method, setup, classes).text_features)

    def compare() -> Mapping[str, float]:
        with torch.no_grad():
            return {
                "features": difference(plain_sep(method, setup, size.classes).text_features(), method.encode_classes())
            }

    return Contenders(without_gradients(setup, method.encode_classes), plain_at, compare, size.classes)


def sep_images(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of SEP's images in evaluation; both cache class texts, ours also frozen features."""
    method = _method(setup, size, "sep").eval()
    images = setup.images(setup.clip, size.batch)
    plain = plain_sep(method, setup, size.classes)
    with torch.no_grad(), setup.autocast():
        frozen, texts = method.frozen_features(Views(images)), method.class_features()

    def theirs() -> Tensor:
        return plain.clip.scale * plain.image_features(images)[1] @ texts.t()

    def compare() -> Mapping[str, float]:
        with torch.no_grad():
            known, texts = method.frozen_features(Views(images)), method.class_features()
            logits = plain.clip.scale * plain.image_features(images)[1] @ texts.t()
            return {"logits": difference(logits, method.logits(Views(images, known)))}

    ours = without_gradients(setup, lambda: method.logits(Views(images, frozen)))
    return Contenders(ours, lambda _: without_gradients(setup, theirs), compare, size.batch)


def sep_evaluation(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of SEP's logits of a batch after the first."""
    method = _method(setup, size, "sep").eval()
    images = setup.images(setup.clip, size.batch)

    def plain_at(classes: int) -> Work:
        plain = plain_sep(method, setup, classes)
        return without_gradients(setup, lambda: plain.logits(images))

    def compare() -> Mapping[str, float]:
        with torch.no_grad():
            return {"logits": difference(plain_sep(method, setup, size.classes).logits(images), method(images))}

    return Contenders(without_gradients(setup, lambda: method(images)), plain_at, compare, size.batch)


def coop_text(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of CoOp's class features and the context's gradient, given a gradient of the features."""
    method = _method(setup, size, "coop-16").train()
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(size.classes, method.text.features, generator=generator).to(setup.device)

    def backward(module: PlainCoOp | Method, features: Callable[[], Tensor], classes: int) -> Work:
        def run() -> Tensor:
            module.zero_grad(set_to_none=True)
            with setup.autocast():
                encoded = features()
            encoded.backward(upstream[:classes].to(encoded.dtype))
            return encoded

        return run

    def plain_at(classes: int) -> Work:
        plain = plain_coop(method, setup, classes)
        return backward(plain, plain.text_features, classes)

    def compare() -> Mapping[str, float]:
        plain = plain_coop(method, setup, size.classes)
        plain.zero_grad()
        method.zero_grad()
        encoded = method.encode_classes()
        encoded.backward(upstream)
        chunks = [slice(start, start + CHUNK) for start in range(0, size.classes, CHUNK)]
        largest = 0.0
        for chunk in chunks:
            features = plain.text_features(chunk)
            features.backward(upstream[chunk])
            largest = max(largest, difference(features, encoded[chunk]))
        return {"features": largest, "gradients": gradient_difference(gradients(plain), gradients(method))}

    ours = backward(method, method.encode_classes, size.classes)
    return Contenders(ours, plain_at, compare, size.classes, method=method)


def coop_step(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of a CoOp training step on new views, of which no features are kept."""
    method = _method(setup, size, "coop-16").train()
    return _step(setup, size, method, lambda classes: plain_coop(method, setup, classes), sgd, PlainCoOp.loss)


def coop_epoch(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of a CoOp epoch over fixed views."""
    method = _method(setup, size, "coop-16").train()
    return epochs(setup, size, method, lambda: plain_coop(method, setup, size.classes))


def predict(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of predicting the classes of arrays."""
    method = _method(setup, size, "sep").eval()
    classifier = Classifier(method, setup.clip.preprocess, size.batch)
    generator = torch.Generator().manual_seed(0)
    side = setup.clip.preprocess.size
    pictures = list(torch.randint(256, (size.images, side, side, 3), generator=generator, dtype=torch.uint8).numpy())
    transform = eval_transform(setup.clip.preprocess)

    def theirs(plain: PlainSEP) -> Tensor:
        scores = []
        for start in range(0, len(pictures), size.batch):
            images = torch.stack(
                [transform(pixels_to_rgb(picture)) for picture in pictures[start : start + size.batch]]
            )
            with torch.no_grad(), setup.autocast():
                scores.append(plain.logits(images.to(setup.device)).float().softmax(dim=-1).max(dim=-1).values.cpu())
        return torch.cat(scores)

    def ours() -> Tensor:
        with setup.autocast():
            return torch.tensor([one.score for one in classifier.predict(pictures)])

    def plain_at(classes: int) -> Work:
        plain = plain_sep(method, setup, classes)
        return lambda: theirs(plain)

    def compare() -> Mapping[str, float]:
        scores = [one.score for one in classifier.predict(pictures)]
        return {"probabilities": difference(theirs(plain_sep(method, setup, size.classes)), torch.tensor(scores))}

    return Contenders(ours, plain_at, compare, size.images)


def without_gradients(setup: PerfSetup, function: Callable[[], Tensor]) -> Work:
    """Return a run of a function without gradients, in the measured precision."""

    def run() -> Tensor:
        with torch.no_grad(), setup.autocast():
            return function()

    return run


def _step(
    setup: PerfSetup,
    size: Size,
    method: Method,
    make_plain: Callable[[int], PlainT],
    optimizer: Callable[[nn.Module], Optimizer],
    compared: Callable[[PlainT, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Contenders:
    """Build the contenders of a training step.

    Args:
        setup: Backbones, device and precision.
        size: Classes and images.
        method: Ours, in training mode.
        make_plain: Builds the baseline for a number of classes.
        optimizer: Builds the optimiser of either.
        compared: Returns loss and logits of the baseline when results are compared, given it, images and labels.
    """
    images, labels = setup.images(setup.clip, size.batch), setup.labels(size.batch, size.classes)

    def plain_at(classes: int) -> Work:
        plain, fewer = make_plain(classes), setup.labels(size.batch, classes)
        return partial(training_step(setup, lambda *batch: plain.loss(*batch)[0], optimizer(plain)), images, fewer)

    def compare() -> Mapping[str, float]:
        plain = make_plain(size.classes)

        def ours() -> tuple[Tensor, Tensor | None]:
            terms = method.loss(Views(images, labels=labels))
            return terms.total, terms.logits

        return compare_losses(plain, lambda: compared(plain, images, labels), method, ours)

    loss = setup.loss(method)
    step = training_step(setup, lambda views: loss(views).total, optimizer(method))
    return Contenders(partial(step, Views(images, labels=labels)), plain_at, compare, size.batch, method=method)


def _method(setup: PerfSetup, size: Size, name: str) -> Method:
    """Build the method of a recipe."""
    recipe = load_recipe(name)
    return build_method(recipe.method, setup.clip, setup.names(size.classes), **recipe.options).to(setup.device)
