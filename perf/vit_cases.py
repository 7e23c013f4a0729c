"""The workloads on a ViT: deep prompts, the linear probe, and SPT's initialisation from image tokens."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from perf.cases import Size
from perf.epochs import epochs
from perf.kmeans import inertia, kmeans_centres
from perf.memory import saved_for_backward
from perf.plain_vit import PlainPrompted, PlainViT, plain_vit
from perf.setup import Contenders, NoiseImages, PerfSetup, adamw, compare_losses, trainable_tensors, training_step
from perf.timing import Work
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.data.suites import load_task
from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.registry import build_method
from selfprompt.recipes.recipe import load_recipe

FEW = 16
"""Number of images used to check sampled prototypes."""


def spt_step(setup: PerfSetup, size: Size, pooling: str = "cls") -> Contenders:
    """Build the contenders of a training step of deep prompts."""
    method = _method(setup, "spt-deep", size.classes, pooling=pooling).train()
    images, labels = setup.images(setup.vit, size.batch), setup.labels(size.batch, size.classes)

    def make_plain() -> PlainPrompted:
        return PlainPrompted(plain_vit(setup.vit), trainable_tensors(method), average=pooling == "avg")

    def plain_at(_: int) -> Work:
        plain = make_plain()
        return partial(training_step(setup, lambda *batch: plain.loss(*batch)[0], adamw(plain)), images, labels)

    def ours() -> tuple[Tensor, Tensor | None]:
        terms = method.loss(Views(images, labels=labels))
        return terms.total, terms.logits

    def compare() -> Mapping[str, float]:
        plain = make_plain()
        return compare_losses(plain, lambda: plain.loss(images, labels), method, ours)

    def activations() -> Mapping[str, int]:
        plain = make_plain()
        return {
            "plain": _saved(setup, plain, lambda: plain.loss(images, labels)[0]) // size.batch,
            "ours": _saved(setup, method, lambda: ours()[0]) // size.batch,
        }

    loss = setup.loss(method)
    step = training_step(setup, lambda views: loss(views).total, adamw(method))
    return Contenders(partial(step, Views(images, labels=labels)), plain_at, compare, size.batch, activations)


def spt_average(setup: PerfSetup, size: Size) -> Contenders:
    """Build the same with the mean over prompts and patches."""
    return spt_step(setup, size, "avg")


def linear_epoch(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of an epoch of a linear probe on the class token over fixed views."""
    method = _method(setup, "linear", size.classes, pooling="cls").train()
    return epochs(
        setup, size, method, lambda: PlainPrompted(plain_vit(setup.vit), trainable_tensors(method), average=False)
    )


def prototypes(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of sampling prompts from the tokens of all images."""
    method = _method(setup, "spt-deep", 2)
    plain, count = plain_vit(setup.vit), method.options.prompts
    side = setup.vit.vision.image_size

    def plain_at(images: int) -> Work:
        noise = NoiseImages(images, side)

        def run() -> Tensor:
            return random_tokens(plain.collect(noise.batch(range(images)).to(setup.device)), count)

        return run

    def compare() -> Mapping[str, float]:
        few = NoiseImages(FEW, side)
        _prepare(setup, method, few)
        with torch.no_grad():
            tokens = plain.collect(few.batch(range(FEW)).to(setup.device)).flatten(1, 2)
            nearest = torch.cdist(method.get_parameter("prompts"), tokens, compute_mode="donot_use_mm_for_euclid_dist")
            return {"tokens": float((nearest.min(dim=-1).values / tokens.norm(dim=-1).amax(dim=-1)[:, None]).max())}

    return Contenders(lambda: _prepare(setup, method, NoiseImages(size.images, side)), plain_at, compare, size.images)


def random_tokens(tokens: Tensor, count: int) -> Tensor:
    """Sample tokens of each layer, (layers, B, N, D) to (layers, count, D), by sorting random keys as released."""
    rows = tokens.flatten(1, 2)
    keys = torch.rand(rows.shape[:2], device=rows.device)
    chosen = keys.argsort(dim=1)[:, :count]
    return rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[-1]))


def kmeans(setup: PerfSetup, size: Size) -> Contenders:
    """Build the contenders of k-means on the tokens of real images, comparing the inertia over all tokens."""
    method = _method(setup, "spt-kmeans", 2)
    plain, count = plain_vit(setup.vit), method.options.prompts
    items = load_task("embedded/animals").dataset.train
    spread = [items[number * len(items) // size.images] for number in range(size.images)]
    batches = Batches(spread, ImageStore(), eval_transform(setup.vit.preprocess), 32, shuffle=False)

    def tokens() -> Tensor:
        return _collected(plain, batches, setup).flatten(1, 2)

    def ours() -> Tensor:
        _prepare(setup, method, batches)
        return method.get_parameter("prompts").detach()

    def theirs() -> Tensor:
        return torch.stack([kmeans_centres(layer, count) for layer in tokens()])

    def compare() -> Mapping[str, float]:
        rows = tokens()
        pairs = zip(rows, ours(), theirs(), strict=True)
        losses = [inertia(layer, centres) / inertia(layer, full) - 1 for layer, centres, full in pairs]
        return {"inertia": max(0.0, *losses)}

    return Contenders(ours, lambda _: theirs, compare, size.images)


@torch.no_grad()
def _collected(plain: PlainViT, batches: Batches, setup: PerfSetup) -> Tensor:
    """Return the tokens of all images, (layers, B, N, D)."""
    return torch.cat([plain.collect(views.pixels.to(setup.device)) for views in batches.epoch(0)], dim=1)


def _prepare(setup: PerfSetup, method: Method, source: NoiseImages | TrainingSource) -> None:
    """Initialise the prompts from the images, always with the same seed."""
    with setup.autocast():
        method.prepare(source, torch.Generator().manual_seed(0))  # type: ignore[arg-type]  # SPT needs images only


def _saved(setup: PerfSetup, module: Method | PlainPrompted, loss: Callable[[], Tensor]) -> int:
    """Return the bytes that a forward pass saves for the backward pass."""
    with saved_for_backward(module, setup.vit.vision) as saved, setup.autocast():
        total = loss()
    size = sum(saved.values())
    del total
    return size


def _method(setup: PerfSetup, name: str, classes: int, **options: object) -> Method:
    """Build the method of a recipe with some options changed."""
    recipe = load_recipe(name)
    names = [f"class {number}" for number in range(classes)]
    return build_method(recipe.method, setup.vit, names, **{**recipe.options, **options}).to(setup.device)
