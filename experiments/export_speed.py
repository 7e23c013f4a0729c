"""How long an exported classifier takes on photos: the runtime against onnxruntime alone and against torch.

    OMP_NUM_THREADS=2 python -m experiments.export_speed --backbone timm/vit_base_patch16_224/random --images 64

Photos are JPEG files of 500 x 375 pixels with noise. "onnxruntime alone" is the model on pixels that are ready. The
contenders run in turns, and the median of the rounds is printed, with the ratio to onnxruntime alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

import selfprompt
import selfprompt.runtime
from selfprompt.exporting.export import export
from selfprompt.inference.classifier import Classifier
from selfprompt.utils.cores import cores

SIZE = (500, 375)


def write_photos(folder: Path, count: int) -> list[Path]:
    """Write JPEG files of smooth noise with grain, of about 100 kB each."""
    paths = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        smooth = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
        grain = np.asarray(smooth) + random.normal(0, 12, (SIZE[1], SIZE[0], 3))
        paths.append(folder / f"{seed}.jpg")
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=92)
    return paths


def compare(classifier: Classifier, precision: str, count: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of each contender for all photos."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(classifier, folder / "export", precisions=(precision,))
        runtime = selfprompt.runtime.load(folder / "export", threads=cores())
        paths = write_photos(folder, count)
        size = runtime.model().batch_size
        pixels = np.stack([runtime.pixels(path) for path in paths])
        batches = [pixels[start : start + size] for start in range(0, count, size)]
        contenders: dict[str, Callable[[], object]] = {
            "onnxruntime alone": lambda: [runtime.logits(batch) for batch in batches],
            "selfprompt.runtime": lambda: runtime.predict(paths),
            "torch": lambda: list(classifier.stream(paths, workers=cores())),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, work in contenders.items():
                start = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="timm/vit_base_patch16_224/random")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    backbone = selfprompt.load_backbone(options.backbone)
    method = selfprompt.build_method("linear", backbone, [f"class {number}" for number in range(100)])
    classifier = Classifier(method, backbone.preprocess, batch_size=32)
    for precision in ("fp32", "int8"):
        found = compare(classifier, precision, options.images, options.rounds)
        for name, seconds in found.items():
            ratio = seconds / found["onnxruntime alone"]
            print(f"{precision} {name:20} {options.images / seconds:7.1f} images/s   {ratio:.2f}")


if __name__ == "__main__":
    main()
