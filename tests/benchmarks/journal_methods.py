"""Methods of the tests' own: quick ones that keep a journal, break, or die, as files beside the data say."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.traits import Traits


def place() -> Path:
    """Where the journal and the signs are."""
    return Path(os.environ["BENCH_TEST"])


class Quick(Method):
    """Scores that no image changes; each one that is trained writes a line."""

    def build(self, generator: torch.Generator) -> None:
        self.bias = nn.Parameter(torch.randn(len(self.classes), generator=generator))

    def prepare(self, source: object, generator: object, progress: object = None) -> None:
        with open(place() / "journal", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.05)

    def logits(self, views: Views) -> Tensor:
        return self.bias.expand(len(views), -1)


class Fragile(Quick):
    """Breaks for as long as there is a file "broken"."""

    def prepare(self, source: object, generator: object, progress: object = None) -> None:
        if (place() / "broken").exists():
            raise ValueError("it is broken today")


class Deadly(Quick):
    """Kills its process, the first time."""

    def prepare(self, source: object, generator: object, progress: object = None) -> None:
        try:
            (place() / "deadly").unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Fixed(Quick):
    """Scores that rise with a class's number, without training: of the classes it may choose, it takes the last."""

    @classmethod
    def traits_for(cls, options: object) -> Traits:
        return Traits(closed_form=True)

    def build(self, generator: torch.Generator) -> None:
        self.bias = nn.Parameter(torch.arange(float(len(self.classes))))

    def prepare(self, source: object, generator: object, progress: object = None) -> None:
        pass
