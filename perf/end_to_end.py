"""From files to answers: the commands as a whole, against a plain script and against their own parts.

    python -m perf.end_to_end --images 96 --rounds 3

Measures child processes, from their start to their end, on JPEG files of 500 x 375 pixels and a zero-shot classifier
with random weights:

    predict   `selfprompt predict` on all images, against a plain script: open_clip, DataLoader, two workers
    eval      `selfprompt eval` on the same images, against `predict`
    start     `selfprompt predict` on one image, against a process that imports torch and reads the weights

The contenders take turns, in reverse order in every second round. Prints the medians of the clock and of the processor
time of all their threads and processes, which other work on the machine disturbs less; and the ratio of each round, as
median [lowest, highest].
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from perf import plain_predict
from perf.photos import draw_jpeg
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.loading.embedded import weights_file

CLASSES = 20
READ = """
import sys, torch
from safetensors.torch import load_file
weights = {name: tensor.clone() for name, tensor in load_file(sys.argv[1]).items()}
"""
"""A program that imports torch and reads a weight file into memory."""
RATIOS = (
    ("predict", "plain script", "predict", "plain / predict"),
    ("eval", "eval", "predict", "eval / predict"),
    ("start, ViT", "start", "read", "start / read"),
    ("start, embedded", "embedded start", "embedded read", "start / read"),
)
"""Goals: name, numerator and denominator among the contenders, and what the ratio is."""

Command = Sequence[str]


@dataclass(frozen=True)
class Time:
    """Seconds of a child process: by the clock, and of processor time with its own children."""

    clock: float
    processor: float


def write_inputs(folder: Path, config: Mapping[str, Any], images: int, batch: int) -> dict[str, Command]:
    """Write images, a model in open_clip's layout and classifiers; returns the commands to compare by name."""
    model, photos = folder / "model", folder / "photos"
    model.mkdir()
    (model / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**config).state_dict(), model / "open_clip_model.safetensors")
    for number in range(images):
        kind = photos / f"kind {number % CLASSES}"
        kind.mkdir(parents=True, exist_ok=True)
        (kind / f"{number}.jpg").write_bytes(draw_jpeg(number))
    name = f"open_clip/local-dir:{model}"
    for saved, backbone in (("classifier", load_backbone(name)), ("embedded", load_backbone("embedded/clip"))):
        classes = sorted(kind.name for kind in photos.iterdir())
        Classifier(build_method("zero-shot", backbone, classes), backbone.preprocess, batch).save(folder / saved)
    ours = (sys.executable, "-m", "selfprompt")
    of_model = (f"{folder}/classifier", f"--backbone={name}")
    one = str(photos / "kind 0" / "0.jpg")
    script = str(Path(plain_predict.__file__))
    return {
        "plain script": (sys.executable, script, f"local-dir:{model}", str(photos), str(batch)),
        "predict": (*ours, "predict", *of_model, str(photos), "--format=csv", "--quiet"),
        "eval": (*ours, "eval", *of_model, str(photos), "--format=json"),
        "read": (sys.executable, "-c", READ, str(model / "open_clip_model.safetensors")),
        "start": (*ours, "predict", *of_model, one, "--quiet"),
        "embedded read": (sys.executable, "-c", READ, str(weights_file("clip"))),
        "embedded start": (*ours, "predict", f"{folder}/embedded", one, "--quiet"),
    }


def run(command: Command, log: Path) -> tuple[Time, str]:
    """Run a child process to its end; returns its times and what it printed.

    Raises:
        RuntimeError: If it fails.
    """
    with log.open("w+b") as errors, log.with_suffix(".out").open("w+b") as output:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        clock = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {log.read_text()[-2000:]}")
    return Time(clock, usage.ru_utime + usage.ru_stime), log.with_suffix(".out").read_text()


def same_answers(plain: str, ours: str) -> tuple[int, int]:
    """Return for how many images of all both outputs name the same class."""
    theirs = dict(line.split("\t") for line in plain.splitlines())
    rows = [line.split(",") for line in ours.splitlines()[1:]]
    return sum(theirs[path] == label for path, _, label, _ in rows), len(theirs)


def measure(config: Mapping[str, Any], images: int, batch: int, rounds: int) -> dict[str, list[Time]]:
    """Return the times of all contenders, one for each round, and print how many answers agree."""
    times: dict[str, list[Time]] = {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        commands = write_inputs(folder, config, images, batch)
        printed = {}
        for number in range(rounds):
            for name in list(commands)[:: -1 if number % 2 else 1]:
                spent, printed[name] = run(commands[name], folder / "log")
                times.setdefault(name, []).append(spent)
    same, count = same_answers(printed["plain script"], printed["predict"])
    print(f"The plain script and predict name the same class for {same} of {count} images.\n")
    return times


def spread(values: Sequence[float]) -> str:
    """Return the median with the lowest and the highest value."""
    return f"{median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def table(times: Mapping[str, Sequence[Time]]) -> str:
    """Return the ratios as a Markdown table."""
    lines = ["| goal | ratio | clock, s | clock ratio | processor, s | processor ratio |", "|---|---|---|---|---|---|"]
    for goal, above, below, meaning in RATIOS:
        cells = []
        for kind in ("clock", "processor"):
            pairs = [(getattr(a, kind), getattr(b, kind)) for a, b in zip(times[above], times[below], strict=True)]
            cells += [" / ".join(f"{median(values):.1f}" for values in zip(*pairs, strict=True))]
            cells += [spread([a / b for a, b in pairs])]
        lines.append(f"| {goal} | {meaning} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16-quickgelu", help="a model of open_clip")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    config = open_clip.get_model_config(options.model)
    print(table(measure(config, options.images, options.batch, options.rounds)))


if __name__ == "__main__":
    main()
