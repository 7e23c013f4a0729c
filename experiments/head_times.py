"""How long the heads on frozen features take to solve, on clustered random features: nothing is encoded.

    OMP_NUM_THREADS=2 python -m experiments.head_times --classes 1000 --shots 16 --width 512

Features are class means plus noise whose standard deviation falls over the channels, with an offset that all share.
The class texts are the means plus other noise. So zero-shot CLIP and the heads are right on part of the test images.
"""

import argparse
import math
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from selfprompt.data.known_features import KnownFeatures
from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.registry import find_method, make_options
from selfprompt.recipes.recipe import load_recipe

HEADS = (
    *("simpleshot", "ridge", "logistic", "ss-text", "gda", "lppp", "clap", "zs-lp"),
    *("proker", "prolip", "ape", "tipx", "tip-adapter", "semobridge"),
)
RANDOM_VIEWS = 2


def draw_features(classes: int, shots: int, width: int, seed: int = 0) -> tuple[KnownFeatures, Views, Tensor]:
    """Return training features, 4 test features a class, and class texts, (C, E)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    spread: Tensor = torch.linspace(0, -2, width).exp() / math.sqrt(width)
    means, offset = normal(classes, width) * spread.square() * math.sqrt(width), 2 * normal(width) * spread

    def images(labels: Tensor) -> Tensor:
        return offset + means[labels] + 1.9 * normal(len(labels), width) * spread

    labels, test = (torch.arange(classes).repeat_interleave(count) for count in (shots, 4))
    training = images(labels)
    views = training + 0.5 * normal(RANDOM_VIEWS, *training.shape) * spread
    texts = normal(width) * spread + means + 0.4 * normal(classes, width) * spread
    return KnownFeatures(training, labels, views), Views(None, images(test), test), texts


class Texts(nn.Module):
    """A text tower that looks up the features of the class texts by number."""

    causal = False

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = nn.Parameter(features, requires_grad=False)

    def projection(self) -> Tensor:
        """The identity, (E, E)."""
        return torch.eye(self.features.shape[1])

    def forward(self, ids: Tensor, pooling: str = "native") -> Tensor:
        rows: Tensor = self.features[ids[:, 1]]
        return rows


class Projection(nn.Module):
    """A vision tower of which only the projection is there: the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = width
        self.weight = nn.Parameter(torch.eye(width), requires_grad=False)

    def feature_size(self, pooling: str) -> int:
        """Width of the features."""
        return self.features

    def projection(self) -> Tensor:
        """The identity, (E, E)."""
        return self.weight


def build(name: str, texts: Tensor) -> Method:
    """Build a head with the options of its recipe on a backbone without blocks."""

    def tokenizer(names: Sequence[str]) -> Tensor:
        return torch.tensor([[0, int("".join(filter(str.isdigit, text))), 1] for text in names])

    towers = {"vision": Projection(texts.shape[1]), "text": Texts(texts), "tokenizer": tokenizer}
    backbone: Any = SimpleNamespace(name="simulated", scale=100.0, bias=0.0, pooling="native", **towers)
    backbone.text_side = lambda: (backbone.text, tokenizer)
    recipe = load_recipe(name)
    method = find_method(recipe.method)
    options = make_options(method, recipe.options)
    return method(backbone, [str(number) for number in range(len(texts))], options, torch.Generator()).eval()


def measure(name: str, training: KnownFeatures, test: Views, texts: Tensor) -> tuple[float, float, float]:
    """Return the processor's seconds to solve, and to score the test features, and the test accuracy in percent."""
    method, start = build(name, texts), time.process_time()
    method.prepare(training, torch.Generator().manual_seed(1))
    solved = time.process_time()
    with torch.no_grad():
        hits = [method.logits(rows).argmax(dim=1) == rows.labels for rows in test.chunk(-(-len(test) // 256))]
    return solved - start, time.process_time() - solved, 100 * float(torch.cat(hits).float().mean())


def main() -> None:
    """Print a line for each head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default=",".join(HEADS), help="recipes or methods, separated by commas")
    for name, default in (("classes", 1000), ("shots", 16), ("width", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    training, test, texts = draw_features(options.classes, options.shots, options.width)
    zero_shot = (test.features @ texts.t()).argmax(dim=1) == test.labels  # type: ignore[operator]
    print(f"{options.classes} classes, {options.shots} shots, width {options.width}; {torch.get_num_threads()} threads")
    print(f"{'texts alone':<14}{'':>19} {100 * float(zero_shot.float().mean()):>6.1f} %")
    for head in options.heads.split(","):
        solve, score, accuracy = measure(head, training, test, texts)
        print(f"{head:<14} {solve:>7.1f} s {score:>7.2f} s {accuracy:>6.1f} %", flush=True)


if __name__ == "__main__":
    main()
