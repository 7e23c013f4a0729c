"""What VIPAMIN and VFPT promise beyond the contract of all methods; recorded numbers are in tests/golden."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.loading.loader import Batches
from selfprompt.data.loading.store import ImageStore
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.prompts.vipamin_start import block_means, orthogonal_tokens, vipamin_start
from tests.conftest import photo
from tests.methods.tiny import backbone, images, small

MAE = backbone("mae")


class Pictures:
    """Ten pictures by index."""

    size = 10

    def batch(self, indices, draw: int = 0) -> torch.Tensor:
        return images(10)[list(indices)]


def start(orthogonal: float, layers: int = 1, neighbours: int = 4, count: int = 10) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    prompts, random = (torch.randn(layers, 3, MAE.vision.width, generator=generator) for _ in range(2))
    return vipamin_start(
        MAE.vision, Pictures(), prompts, random, images=range(count), neighbours=neighbours, orthogonal=orthogonal
    )


def test_a_matched_prompt_is_the_mean_of_mean_patches() -> None:
    with torch.no_grad():
        tokens = MAE.vision.embed(images(10)).body.mean(dim=0)
    matched = start(0.0, neighbours=1)[0]
    distances = (matched[:, None] - tokens).norm(dim=2)
    assert (distances.amin(dim=1) < 1e-4).all(), "one neighbour: each is one of the mean patches"
    everything = start(0.0, neighbours=10_000)[0]
    torch.testing.assert_close(everything, tokens.mean(dim=0).expand(3, -1), atol=1e-5, rtol=1e-4)


def test_the_value_of_a_new_prompt_is_orthogonal_to_the_attention() -> None:
    block = MAE.vision.block_parts(0)
    assert block is not None
    with torch.no_grad():
        x = MAE.vision.embed(images(10)).x.double()
        block = replace(
            block,
            norm=lambda x: F.layer_norm(x, x.shape[-1:]),
            weight=block.weight.double(),
            bias=None if block.bias is None else block.bias.double(),
            out_proj=lambda y, _: y,
            mlp=lambda x: x,
        )
        means = block_means(block, x, MAE.vision.prefix)
        new = orthogonal_tokens(block, torch.randn(3, MAE.vision.width).double(), means)
        assert block.bias is not None
        values = new @ block.weight.chunk(3)[2].t() + block.bias.chunk(3)[2]
    overlap = (values @ means.attended.t()).abs().amax()
    assert overlap < 1e-6 * values.norm(dim=1).amax() * means.attended.norm(dim=1).amax()


def test_batches_change_nothing() -> None:
    whole = start(0.5, layers=2)
    assert whole.shape == (2, 3, MAE.vision.width)
    assert not torch.allclose(whole[0], whole[1])
    ends = [start(0.0, count=count) for count in (8, 10)]  # 10 images are a batch of 8 and one of 2
    assert not torch.allclose(*ends)


def test_preparing_sets_the_prompts_from_images() -> None:
    method = small("vipamin", "mae", prompts=4)
    before = method.prompts.detach().clone()
    table = ImageTable("photos", lambda index: photo((200, 10 * index, 10), index), in_memory=True)
    items = [Item(IndexedSource(table, index), index % 4) for index in range(8)]
    batches = Batches(items, ImageStore(), eval_transform(method.backbone.preprocess), 4, shuffle=False)
    seen: list[tuple[int, int]] = []
    method.prepare(batches, torch.Generator().manual_seed(1), lambda done, total: seen.append((done, total)))
    assert not torch.allclose(method.prompts, before)
    assert seen == [(8, 8)]
    again = small("vipamin", "mae", prompts=4)
    again.prepare(batches, torch.Generator().manual_seed(1))
    assert torch.equal(again.prompts, method.prompts)


def test_too_many_tokens_leave_nothing_orthogonal() -> None:
    block = MAE.vision.block_parts(0)
    assert block is not None
    width = MAE.vision.width
    means = block_means(block, torch.randn(2, width + 1, width), 1)
    with pytest.raises(ValueError, match=rf"got {width + 1} tokens of {width} channels; set orthogonal to 0"):
        orthogonal_tokens(block, torch.randn(3, width), means)


@pytest.mark.parametrize(("prompts", "fourier", "transformed"), [(4, 0.5, 2), (5, 1.0, 5), (3, 0.0, 0)])
def test_the_first_prompts_pass_a_fourier_transform(prompts: int, fourier: float, transformed: int) -> None:
    method = small("vfpt", "mae", prompts=prompts, fourier=fourier)
    plain, ours = method.prompts.detach(), method.block_prompts().detach()
    expected = torch.fft.fft2(plain[:, :transformed].double()).real if transformed else plain[:, :0].double()
    torch.testing.assert_close(ours[:, :transformed].double(), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours[:, transformed:], plain[:, transformed:])


def test_without_a_transform_it_is_vpt() -> None:
    ours, vpt = small("vfpt", "mae", fourier=0.0), small("vpt", "mae")
    torch.testing.assert_close(ours(images(2)), vpt(images(2)))
