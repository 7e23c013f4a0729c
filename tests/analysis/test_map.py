"""The token map: the order of tokens does not matter, and points in a plane keep their distances."""

import pytest
import torch

from selfprompt.analysis.map import plane, token_map
from selfprompt.models.tokens import Tokens
from tests.analysis.tiny import by_hand, random, seen
from tests.methods.tiny import small


def test_the_order_of_points_does_not_matter() -> None:
    points = random(30, 8) @ torch.diag(torch.arange(8, 0, -1).double())
    centre, axes, share = plane(points)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    moved_centre, moved_axes, moved_share = plane(points[order])
    assert (centre - moved_centre).abs().max() < 1e-12
    assert (axes - moved_axes).abs().max() < 1e-9
    assert share == pytest.approx(moved_share)
    assert (axes.T @ axes - torch.eye(2)).abs().max() < 1e-12


def test_points_in_a_plane_keep_their_distances() -> None:
    flat = random(12, 2)
    turned = flat @ torch.linalg.qr(random(6, 6, seed=3)).Q[:2]
    centre, axes, share = plane(turned + 5)
    places = (turned + 5 - centre) @ axes
    assert share == pytest.approx(1)
    assert (torch.cdist(places, places) - torch.cdist(flat, flat)).abs().max() < 1e-9
    assert places[:, 0].var() > places[:, 1].var()


def test_equal_points_lie_in_the_middle() -> None:
    centre, axes, share = plane(torch.ones(5, 4))
    assert share == 1
    assert ((torch.ones(5, 4).double() - centre) @ axes).abs().max() == 0


def test_images_in_another_order_have_the_same_map() -> None:
    x = random(3, 9, 16)
    ours, theirs = (token_map(by_hand([Tokens(each, 1, 2)]), 0) for each in (x, x[[2, 0, 1]]))
    assert (ours.patches[[2, 0, 1]] - theirs.patches).abs().max() < 1e-9
    assert (ours.prompts[[2, 0, 1]] - theirs.prompts).abs().max() < 1e-9


def test_prompts_that_all_images_share_appear_once() -> None:
    assert token_map(seen(small("vpt", "mae"), 3), 1).prompts.shape == (1, 3, 2)
    assert token_map(seen(small("sep"), 3), 2).prompts.shape == (3, 4, 2)
