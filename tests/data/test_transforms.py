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
    image = picture(seed, width, height)
    crop = v2.RandomResizedCrop(16, scale=(smallest, 1.0), interpolation=InterpolationMode.BICUBIC)
    theirs = v2.Compose([crop, v2.RandomHorizontalFlip()])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = v2.functional.pil_to_tensor(theirs(image))
    generator = torch.Generator().manual_seed(seed)
    assert torch.equal(train_transform(Preprocess(), crop=smallest).pixels(image, generator), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["bicubic", "bilinear", "nearest"]),
    st.booleans(),
    st.sampled_from([None, 16, 19, 24]),
)
def test_eval_equals_torchvision(width: int, height: int, interpolation: str, squash: bool, resize: int | None) -> None:
    image, side = picture(width, width, height), resize or 16
    resized = v2.Resize([side, side] if squash else side, InterpolationMode(interpolation))
    theirs = v2.Compose([resized, v2.CenterCrop(16)])
    mode = "squash" if squash else "shortest"
    ours = eval_transform(Preprocess(interpolation=interpolation, mode=mode, resize=resize))
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
    assert repr(eval_transform(Preprocess(mode="pad"))) == f"PadTransform({fields})"
    random = train_transform(Preprocess(mode="pad"), crop=0.5, flip=False)
    assert repr(random) == f"RandomView({fields}, pad=True, scale=(0.5, 1.0), flip=False)"


def test_the_repr_names_the_size_before_the_crop_if_there_is_one() -> None:
    larger = Preprocess(resize=20)
    assert repr(eval_transform(larger)).endswith("squash=False, resize=20)")
    assert repr(train_transform(larger)).endswith("squash=False, resize=20, scale=(0.08, 1.0))")
    assert train_transform(larger).deterministic() == eval_transform(larger) != eval_transform(Preprocess())


def test_images_are_resized_to_no_less_than_the_crop() -> None:
    with pytest.raises(ValueError, match="at least the 16 pixels that are cropped, got 15"):
        eval_transform(Preprocess(resize=15))
    with pytest.raises(ValueError, match="pad shows the whole image"):
        eval_transform(Preprocess(resize=20, mode="pad"))


def test_no_augmentation_is_the_eval_transform() -> None:
    assert train_transform(Preprocess(), "none") == eval_transform(Preprocess())
    assert train_transform(Preprocess()).deterministic() == eval_transform(Preprocess())
    assert not eval_transform(Preprocess()).random
    assert train_transform(Preprocess()).random


def test_crops_keep_a_small_part_or_half_of_the_area() -> None:
    assert train_transform(Preprocess(), "crop-flip") == train_transform(Preprocess(), crop=0.08)
    assert train_transform(Preprocess(), "half-crop-flip") == train_transform(Preprocess(), crop=0.5)
    assert train_transform(Preprocess(), "none", crop=0.5, flip=True) == train_transform(Preprocess(), "half-crop-flip")
    assert train_transform(Preprocess(), crop=0.08, flip=True) == train_transform(Preprocess())


@pytest.mark.parametrize("mode", ["shortest", "squash", "pad"])
def test_without_crop_and_flip_nothing_is_random(mode: str) -> None:
    preprocess = Preprocess(mode=mode)
    assert train_transform(preprocess, crop=1, flip=False) == eval_transform(preprocess)
    for choice in ({"crop": 0.5}, {"flip": True}, {"crop": 0.5, "flip": True}):
        transform = train_transform(preprocess, "none", **choice)  # type: ignore[arg-type]
        assert transform.random
        assert transform.deterministic() == eval_transform(preprocess)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.08, 0.5]))
def test_a_crop_alone_equals_torchvision(seed: int, width: int, height: int, smallest: float) -> None:
    image = picture(seed, width, height)
    theirs = v2.RandomResizedCrop(16, scale=(smallest, 1.0), interpolation=InterpolationMode.BICUBIC)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = v2.functional.pil_to_tensor(theirs(image))
    ours = train_transform(Preprocess(), crop=smallest, flip=False)
    assert torch.equal(ours.pixels(image, torch.Generator().manual_seed(seed)), expected)


@pytest.mark.parametrize(("mode", "resize"), [("shortest", None), ("squash", None), ("pad", None), ("shortest", 19)])
def test_a_flip_alone_mirrors_the_view_of_the_evaluation_half_the_time(mode: str, resize: int | None) -> None:
    image, preprocess = picture(3, 40, 20), Preprocess(mode=mode, resize=resize)
    plain = eval_transform(preprocess).pixels(image)
    transform, generator = train_transform(preprocess, crop=1.0), torch.Generator().manual_seed(0)
    views = [transform.pixels(image, generator) for _ in range(200)]
    mirrored = sum(torch.equal(view, plain.flip(-1)) for view in views)
    assert 70 < mirrored < 130  # of 200 draws with probability 1/2, four standard deviations
    assert mirrored + sum(torch.equal(view, plain) for view in views) == 200


FILL = (123, 117, 104)  # of CLIP's mean


def padded(image: Image.Image) -> Image.Image:
    """Return an image on a square of CLIP's mean colour, at full size."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), FILL)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def test_pad_shows_the_whole_image_undistorted_on_the_mean_colour() -> None:
    image = Image.new("RGB", (100, 50), "white")
    image.paste("black", (0, 0, 50, 50))
    expected = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, 16, 16)
    expected[:, 4:12, :8], expected[:, 4:12, 8:] = 0, 255
    transform = eval_transform(Preprocess(mode="pad", interpolation="nearest"))
    assert torch.equal(transform.pixels(image), expected)
    upright = transform.pixels(image.transpose(Image.Transpose.TRANSPOSE))
    assert torch.equal(upright, expected.transpose(1, 2))
    assert transform(image)[:, 0].abs().max() < 0.01  # the padding is 0 for the network, up to rounding to 8 bits


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_pad_keeps_the_sides_in_proportion_and_the_image_in_the_middle(width: int, height: int) -> None:
    white = Image.new("RGB", (width, height), "white")
    shown = eval_transform(Preprocess(mode="pad")).pixels(white).eq(255).all(dim=0)
    for length, seen in ((width, shown.any(dim=0)), (height, shown.any(dim=1))):
        inside = seen.nonzero().flatten()
        assert abs(len(inside) - max(1, 16 * length / max(width, height))) <= 1
        assert len(inside) == inside[-1] - inside[0] + 1
        assert abs(int(inside[0]) - (15 - int(inside[-1]))) <= 2 + 16 / max(width, height)  # whole pixels of the image


@given(st.integers(1, 60), st.sampled_from(["bicubic", "bilinear", "nearest"]))
@settings(max_examples=20, deadline=None)
def test_pad_changes_nothing_about_a_square(side: int, interpolation: str) -> None:
    image = picture(side, side, side)
    views = [eval_transform(Preprocess(mode=m, interpolation=interpolation)).pixels(image) for m in ("pad", "squash")]
    assert torch.equal(*views)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_crop_with_pad_is_taken_of_the_padded_square(seed: int, width: int, height: int, flip: bool) -> None:
    image = Image.new("RGB", (width * 32, height * 32))
    image.paste(picture(seed, width, height).resize(image.size, Image.Resampling.NEAREST))
    transform = train_transform(Preprocess(mode="pad", interpolation="nearest"), crop=0.3, flip=flip)
    view = transform.pixels(image, torch.Generator().manual_seed(seed))
    plain = train_transform(Preprocess(interpolation="nearest"), crop=0.3, flip=flip)
    expected = plain.pixels(padded(image), torch.Generator().manual_seed(seed))
    differing = (view != expected).any(dim=0).float().mean()
    assert differing <= 0.13  # an edge may lie a pixel apart in each direction: it is rounded to the pixels of the view


def test_a_long_strip_is_padded_in_little_memory() -> None:
    view = eval_transform(Preprocess(mode="pad")).pixels(Image.new("RGB", (60_000, 1), "white"))
    assert view.eq(255).all(dim=0).sum() == 16  # one row


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown augment 'mixup'\. Known: crop-flip, half-crop-flip, none"):
        train_transform(Preprocess(), "mixup")  # type: ignore[arg-type]
    for wrong in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="crop must be above 0 and at most 1"):
            train_transform(Preprocess(), crop=wrong)
    with pytest.raises(ValueError, match=r"Unknown resize mode 'longest'\. Known: shortest, squash, pad"):
        eval_transform(Preprocess(mode="longest"))
    with pytest.raises(ValueError, match=r"Unknown interpolation 'cubic'\. Known: .*bicubic"):
        eval_transform(Preprocess(interpolation="cubic"))
