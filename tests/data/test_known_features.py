"""Known features as a training source: which view an epoch shows."""

import pytest
import torch

from selfprompt.data.known_features import KnownFeatures

FEATURES, LABELS = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0])
RANDOM = torch.stack([FEATURES + 10, FEATURES + 20])


def shown(source: KnownFeatures, epoch: int) -> torch.Tensor:
    [views] = source.epoch(epoch)
    assert views.labels.equal(source.labels)
    assert views.features is not None
    return views.features


def test_epochs_show_the_random_views_in_turn() -> None:
    source = KnownFeatures(FEATURES, LABELS, RANDOM)
    assert source.size == 3
    assert [shown(source, epoch).equal(RANDOM[epoch % 2]) for epoch in range(4)] == [True] * 4
    assert shown(source.deterministic(), 1).equal(FEATURES)


def test_without_random_views_epochs_show_the_evaluation_view() -> None:
    source = KnownFeatures(FEATURES, LABELS)
    assert shown(source, 3).equal(FEATURES)
    assert list(source.epoch(0, 1)) == []


def test_a_subset_keeps_all_views_of_its_images() -> None:
    part = KnownFeatures(FEATURES, LABELS, RANDOM).subset(torch.tensor([2, 0]))
    assert part.labels.tolist() == [0, 0]
    assert shown(part, 1).equal(RANDOM[1, [2, 0]])
    assert shown(part.deterministic(), 0).equal(FEATURES[[2, 0]])
    with pytest.raises(RuntimeError, match="only features"):
        part.batch([0])
