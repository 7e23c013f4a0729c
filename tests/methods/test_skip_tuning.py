"""Skip Tuning: which half of each tower is trained, and with which classes."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.heads import unit
from selfprompt.methods.skip_tuning import SkipTuningOptions, draw_kept_ranks, kept_classes
from tests.methods.tiny import NAMES, images, labelled_views, small

MANY = tuple(f"thing {number}" for number in range(20))


def slow_kept_ranks(classes: int, share: float, most: int, decay: float, seed: int) -> list[bool]:
    """Rank by rank, with the probabilities scaled by their own least and greatest."""
    sure = min(math.ceil(classes * share), most)
    rest = classes - sure
    falling = [math.exp(-(5 * i / (rest - 1)) / decay) for i in range(rest)]
    scaled = [(p - min(falling)) / (max(falling) - min(falling)) for p in falling]
    drawn = torch.rand(rest, generator=torch.Generator().manual_seed(seed)).tolist()
    return [True] * sure + [random < p for random, p in zip(drawn, scaled, strict=True)]


def slow_kept_classes(cosines: Tensor, labels: Tensor, ranks: list[bool]) -> set[int]:
    """Sort the classes as pairs, and keep those whose rank is kept."""
    there = set(labels.tolist())
    pairs = [(c not in there, -max(row[c] for row in cosines.tolist()), c) for c in range(cosines.shape[1])]
    return there | {c for (_, _, c), kept in zip(sorted(pairs), ranks, strict=True) if kept}


@pytest.mark.parametrize(
    ("classes", "options"),
    [
        (4, SkipTuningOptions()),
        (37, SkipTuningOptions()),
        (397, SkipTuningOptions()),
        (60, SkipTuningOptions(share=0.1, most=3, decay=3.0)),
    ],
)
def test_skipped_classes_equal_those_of_a_slow_reference(classes: int, options: SkipTuningOptions) -> None:
    for seed in range(5):
        ranks = draw_kept_ranks(classes, options, torch.Generator().manual_seed(seed))
        assert ranks.tolist() == slow_kept_ranks(classes, options.share, options.most, options.decay, seed)
        generator = torch.Generator().manual_seed(100 + seed)
        cosines = torch.randn(4, classes, generator=generator)
        labels = torch.randint(classes, (4,), generator=generator)
        kept = kept_classes(cosines, labels, ranks)
        assert set(kept.nonzero()[:, 0].tolist()) == slow_kept_classes(cosines, labels, ranks.tolist())


def test_a_seed_fixes_the_ranks_that_are_kept_and_other_seeds_keep_others() -> None:
    options = SkipTuningOptions(decay=3.0)
    first, again, other = (draw_kept_ranks(100, options, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("classes", [2, 3])
def test_one_further_class_is_kept(classes: int) -> None:
    assert draw_kept_ranks(classes, SkipTuningOptions(), torch.Generator()).all()


def test_no_class_of_the_batch_is_skipped() -> None:
    labels = torch.tensor([5, 0, 3, 1])
    kept = kept_classes(torch.zeros(4, 6), labels, torch.tensor([True, True, False, False, False, False]))
    assert kept.nonzero()[:, 0].tolist() == [0, 1, 3, 5]


def test_the_loss_in_training_reads_the_kept_classes_alone() -> None:
    method: Any = small("skip-tuning", names=MANY, most=3)
    views = Views(images(3), labels=torch.tensor([4, 17, 4]))
    scores = method.logits(views).detach()
    kept = kept_classes(unit(method.vision(views.pixels)) @ method.texts.t(), views.labels, method.kept_ranks)
    terms = method.train().loss(views)
    assert terms.logits.isfinite().any(dim=0).equal(kept)
    assert 3 <= int(kept.sum()) < 20
    assert torch.allclose(terms.logits[:, kept], scores[:, kept], atol=1e-4)
    expected = F.cross_entropy(scores.masked_fill(~kept, -torch.inf), views.labels)
    assert torch.allclose(terms.total, expected, atol=1e-4)
    assert torch.allclose(method.eval().loss(views).total, F.cross_entropy(scores, views.labels), atol=1e-4)


def test_classes_with_several_texts_are_skipped_as_a_whole() -> None:
    described: list[Any] = [{"names": [f"thing {i}", *([f"other {i}"] if i % 2 else [])]} for i in range(8)]
    method: Any = small("skip-tuning", names=described)
    classes = torch.tensor([1, 4, 5])
    assert torch.allclose(method.encode_some_classes(classes), method.encode_classes()[classes], atol=1e-5)


def test_only_the_upper_half_gets_a_gradient_and_is_stored() -> None:
    method: Any = small("skip-tuning").train()
    method.loss(labelled_views(4)).backward()
    for tower in (method.vision, method.text):
        trained = {id(p) for p in tower.parameters() if p.grad is not None}
        assert trained == {id(p) for p in tower.parameters() if p.requires_grad}
        for index in range(tower.depth):
            own = [id(weight) in trained for weight in tower.block_weights(index).values()]
            assert set(own) == {index >= tower.depth // 2}
        assert any(p.grad is None for p in tower.parameters())
    stored = method.adapter_state_dict()
    assert stored.keys() == {name for name, p in method.named_parameters() if p.grad is not None}
    assert {"vision.visual.ln_post.weight", "vision.visual.proj"} <= stored.keys()
    assert not {"vision.visual.conv1.weight", "vision.visual.ln_pre.weight"} & stored.keys()


def test_at_first_it_is_the_zero_shot_clip() -> None:
    ours, theirs = (small(name, names=NAMES)(images(3)).detach() for name in ("skip-tuning", "zero-shot"))
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
        ({"most": 0}, "most must be at least 1, got 0"),
        ({"decay": 0.0}, "decay must be above 0, got 0.0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("skip-tuning", **options)
