"""Makes image files and items for the tests of `selfprompt.data`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from selfprompt.data.items import Dataset, Item


@dataclass(frozen=True)
class Preprocess:
    """CLIP's preprocessing at a small size."""

    size: int = 16
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    mode: str = "shortest"


def picture(seed: int, width: int = 24, height: int = 20) -> Image.Image:
    """A noise image that depends on its seed only."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_classes(root: Path, counts: Mapping[str, int], suffix: str = ".png") -> Path:
    """A folder with a folder of ``n`` images for each class."""
    seed = 0
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            picture(seed).save(folder / f"{number}{suffix}")
            seed += 1
    return root


def fake_dataset(labels: list[int], val: list[int] | None = None, test: list[int] | None = None) -> Dataset:
    """A data set of files that do not exist."""
    splits = {
        split: tuple(Item(Path(f"{split}-{index}"), label) for index, label in enumerate(given or []))
        for split, given in (("train", labels), ("val", val), ("test", test))
    }
    count = max(labels, default=-1) + 1
    return Dataset("fake", tuple(f"name {label}" for label in range(count)), **splits)


def golden_arrays() -> dict[str, np.ndarray]:
    """The recorded draws, halves and transforms of the published protocol."""
    with np.load(Path(__file__).parents[1] / "golden" / "sep_protocol.npz") as file:
        return {name: file[name] for name in file.files}
