"""A suite of small tasks in the layout of the embedded suite: noisy squares, one colour per class."""

import json
from itertools import product
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image

CLASSES = ("red", "green", "blue", "grey", "pink")
"""Base: red, green, blue. New: grey, pink. The domain "dark" has only the last four."""
COLOURS = ((200, 20, 20), (20, 200, 20), (20, 20, 200), (120, 120, 120), (240, 130, 180))
TEMPLATE = "a picture of a {}."


def draw_suite(
    root: Path, names: tuple[str, ...] = ("animals",), train: int = 3, val: int = 1, test: int = 2, more: int = 0
) -> Path:
    """Write the tasks; the folder is the root of the suite."""
    for number, name in enumerate(names):
        rng, images = np.random.default_rng(number), []
        for label, (word, colour) in enumerate(zip(CLASSES, COLOURS, strict=True)):
            counts = {"train": train, "val": val, "test": test, "dark": 2 if label else 0}
            for part, count in counts.items():
                for index in range(count):
                    level = 0.4 if part == "dark" else 1.0
                    pixels = level * np.array(colour) + rng.normal(0, 40, (20, 20, 3))
                    file = root / name / part / word / f"{index}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
                    images.append([f"{part}/{word}/{index}.png", label, part, "drawn"])
        with ZipFile(root / name / "more_test.zip", "w") as archive:
            for word, index in product(CLASSES, range(more)):
                archive.write(root / name / "test" / word / "0.png", f"more_test/{word}/drawn-{index}.png")
        about = {"package": "none", "version": "1", "author": "these tests", "licence": "CC0"}
        index = {"name": name, "template": TEMPLATE, "classes": CLASSES, "domains": ["dark"], "images": images}
        (root / name / "index.json").write_text(json.dumps(index | {"shared": "Drawn.", "sets": {"drawn": about}}))
    return root
