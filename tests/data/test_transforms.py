"""The transforms equal the published ones: golden arrays, and torchvision's classes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from selfprompt.data.loading.transforms import eval_transform, to_device, train_transform
from tests.data.images import Preprocess, golden_arrays, picture

SMALL = Preprocess(48)


def golden() -> tuple[Image.Image, dict[str, np.ndarray]]:
    arrays = golden_arrays()
    return Image.fromarray(arrays["transform/input_uint8_hwc"]), arrays


def test_eval_equals_golden() -> None:
    image, arrays = golden()
    expected = torch.from_numpy(arrays["transform/eval_output_48"])
    assert torch.equal(eval_transform(SMALL)(image), expected)


def test_train_equals_golden() -> None:
    image, arrays = golden()
    expected = torch.from_numpy(arrays["transform/train_output_48_torchseed5"])
    output = train_transform(SMALL)(image, torch.Generator().manual_seed(5))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)  # tied to versions
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert torch.equal(train_transform(SMALL)(image), output)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.08, 0.5]))
def test_train_equals_torchvision(seed: int, width: int, height: int, smallest: float) -> None:
    scale = (smallest, 1.0)
    image = picture(seed, width, height)
    crop = v2.RandomResizedCrop(16, scale=scale, interpolation=InterpolationMode.BICUBIC)
    theirs = v2.Compose([crop, v2.RandomHorizontalFlip()])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = v2.functional.pil_to_tensor(theirs(image))
    generator = torch.Generator().manual_seed(seed)
    assert torch.equal(train_transform(Preprocess(), scale=scale).pixels(image, generator), expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["bicubic", "bilinear", "nearest"]), st.booleans())
def test_eval_equals_torchvision(width: int, height: int, interpolation: str, squash: bool) -> None:
    image = picture(width, width, height)
    theirs = v2.Compose([v2.Resize([16, 16] if squash else 16, InterpolationMode(interpolation)), v2.CenterCrop(16)])
    ours = eval_transform(Preprocess(interpolation=interpolation, mode="squash" if squash else "shortest"))
    assert torch.equal(ours.pixels(image), v2.functional.pil_to_tensor(theirs(image)))


def test_normalise_is_the_same_for_one_and_for_many() -> None:
    transform = eval_transform(Preprocess())
    images = [picture(seed) for seed in range(3)]
    many = transform.normalise(torch.stack([transform.pixels(image) for image in images]))
    assert torch.equal(many, torch.stack([transform(image) for image in images]))
    assert many.dtype == torch.float32


def test_a_batch_is_its_images_on_the_device() -> None:
    transform = eval_transform(Preprocess())
    images = [picture(seed) for seed in range(3)]
    crops = [transform.pixels(image) for image in images]
    expected = torch.stack([transform(image) for image in images])
    assert torch.equal(transform.batch(crops, torch.device("cpu")), expected)
    away = transform.batch(crops, torch.device("meta"))
    assert (away.device.type, away.shape, away.dtype) == ("meta", expected.shape, torch.float32)
    assert transform.batch([], torch.device("cpu")).shape == (0, 3, 16, 16)


class Sent:
    """Stands in for a tensor and records calls, as there may be no GPU."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def pin_memory(self) -> "Sent":
        self.done.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> "Sent":
        self.done += [device.type, non_blocking]
        return self


def test_a_gpu_copies_from_pinned_memory_without_waiting() -> None:
    assert to_device(Sent(), torch.device("cuda", 0)).done == ["pinned", "cuda", True]  # type: ignore[arg-type, attr-defined]
    assert to_device(Sent(), torch.device("cpu")).done == ["cpu", False]  # type: ignore[arg-type, attr-defined]


def test_squash_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (100, 20), "black")
    image.paste("white", (0, 0, 10, 20))  # at the left edge, outside of the central square
    squash = eval_transform(Preprocess(mode="squash")).pixels(image)
    shortest = eval_transform(Preprocess()).pixels(image)
    assert squash.shape == shortest.shape == (3, 16, 16)
    assert squash.max() > 200
    assert shortest.max() < 10


def test_the_repr_is_pinned_as_keys_of_cached_features_contain_it() -> None:
    fields = (
        "size=16, normalise=Normalise(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, "
        "0.27577711)), interpolation=<Resampling.BICUBIC: 3>, squash=False"
    )
    assert repr(eval_transform(Preprocess())) == f"Transform({fields})"
    assert repr(train_transform(Preprocess())) == f"CropFlip({fields}, scale=(0.08, 1.0))"


def test_no_augmentation_is_the_eval_transform() -> None:
    assert train_transform(Preprocess(), "none") == eval_transform(Preprocess())
    assert train_transform(Preprocess()).deterministic() == eval_transform(Preprocess())
    assert not eval_transform(Preprocess()).random
    assert train_transform(Preprocess()).random


def test_crops_keep_a_small_part_or_half_of_the_area() -> None:
    assert train_transform(Preprocess(), "crop-flip") == train_transform(Preprocess(), scale=(0.08, 1.0))
    assert train_transform(Preprocess(), "half-crop-flip") == train_transform(Preprocess(), scale=(0.5, 1.0))


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown augment 'mixup'\. Known: crop-flip, half-crop-flip, none"):
        train_transform(Preprocess(), "mixup")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale must be"):
        train_transform(Preprocess(), scale=(0.5, 0.1))
    with pytest.raises(ValueError, match="Unknown resize mode 'longest'"):
        eval_transform(Preprocess(mode="longest"))
    with pytest.raises(ValueError, match=r"Unknown interpolation 'cubic'\. Known: .*bicubic"):
        eval_transform(Preprocess(interpolation="cubic"))
