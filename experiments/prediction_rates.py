"""How many images a second are read and predicted here, from files, a tar file and a Parquet file.

    OMP_NUM_THREADS=1 python -m experiments.prediction_rates --backbones embedded/clip,open_clip/ViT-B-16/random

The images are JPEGs of 500 x 375 pixels and about 90 kB, as in ImageNet, of smooth noise. "read" decodes and resizes
only. Prints a table of images per second, and the days that ``--archive`` images take at the rate of the tar file. On
a CPU a second is one of processor time, of all threads together, so other load on the machine hardly matters; give one
thread to torch, which otherwise waits at the expense of the processor. On a GPU it is a second of the clock.
"""

import argparse
import io
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from perf.photos import draw_jpeg
from selfprompt.data.loading.archived_images import Columns
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.image_groups import image_groups
from selfprompt.inference.image_paths import image_paths
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import load_backbone

CLASSES = [f"kind {number}" for number in range(100)]


def write_inputs(folder: Path, count: int) -> dict[str, list[str]]:
    """Write the images three times; returns what to predict by form."""
    import pyarrow
    from pyarrow import parquet

    files, images = folder / "files", [draw_jpeg(seed) for seed in range(count)]
    files.mkdir()
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for number, content in enumerate(images):
            (files / f"{number:06d}.jpg").write_bytes(content)
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    parquet.write_table(pyarrow.table({"image": images}), folder / "photos.parquet", row_group_size=100)
    return {form: [str(folder / name)] for form, name in FORMS.items()}


FORMS = {"files": "files", "tar": "photos.tar", "Parquet": "photos.parquet"}


def rate(classifier: Classifier, names: list[str], workers: int, clock: Callable[[], float]) -> float:
    """Return the images per second that a classifier predicts, from the second batch on: the first one warms up."""
    stream = classifier.stream_groups(image_groups(image_paths(names), Columns()), workers=workers)
    next(stream)
    start, count = clock(), 0
    for batch in stream:
        count += len(batch)
    return count / (clock() - start)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default="embedded/clip")
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--archive", type=float, default=1e8)
    options = parser.parse_args()
    clock, unit = (time.perf_counter, "second") if options.device == "cuda" else (time.process_time, "core-second")
    print(f"{options.device}, {torch.get_num_threads()} threads; images per {unit}")
    print(f"| backbone | {' | '.join(FORMS)} | days for {options.archive:.0e} images |")
    print(f"|---|{'---:|' * (len(FORMS) + 1)}")
    with TemporaryDirectory() as folder:
        inputs = write_inputs(Path(folder), options.images)
        for name in ("read", *options.backbones.split(",")):
            classifier = make_classifier("embedded/clip" if name == "read" else name, options.batch, options.device)
            if name == "read":
                classifier.logits = partial(no_logits, len(CLASSES))  # type: ignore[method-assign]
            rates = {form: rate(classifier, names, options.workers, clock) for form, names in inputs.items()}
            shown = " | ".join(f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in rates.values())
            print(f"| {name} | {shown} | {options.archive / rates['tar'] / 86400:,.1f} |", flush=True)


def make_classifier(name: str, batch: int, device: str) -> Classifier:
    """Return a zero-shot classifier of `CLASSES`."""
    backbone = load_backbone(name)
    classifier = Classifier(build_method("zero-shot", backbone, CLASSES), backbone.preprocess, batch)
    return classifier.to(device)


def no_logits(classes: int, images: torch.Tensor) -> torch.Tensor:
    """Return zeros, without a model."""
    return torch.zeros(len(images), classes)


if __name__ == "__main__":
    main()
