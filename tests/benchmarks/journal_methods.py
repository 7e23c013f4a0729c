"""Quick methods for tests: they keep a journal, fail, or die, controlled by files in the folder $BENCH_TEST."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.traits import Traits


def control_folder() -> Path:
    """Return the folder of the journal and the control files."""
    return Path(os.environ["BENCH_TEST"])


class Quick(Method):
    """Scores independent of the image; each training writes a line to the journal."""

    def build(self, generator: torch.Generator) -> None:
        self.bias = nn.Parameter(torch.randn(len(self.classes), generator=generator))

    def prepare(self, source: object, generator: object, progress: object = None) -> None:
        with open(control_folder() / "journal", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.05)

    def logits(self, views: Views) -> Tensor:
        return self.bias.expand(len(views), -1)


class Fragile(Quick):
    """Fails as long as the file "broken" exists."""

    def prepare(self, source: object, generator: object, progress: object = None) -> None:
        if (control_folder() / "broken").exists():
            raise ValueError("it is broken today")


class Deadly(Quick):
    """Kills its process once."""

    def prepare(self, source: object, generator: object, progress: object = None) -> None:
        try:
            (control_folder() / "deadly").unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Fixed(Quick):
    """Untrained scores that increase with the class index: predicts the last of the classes to choose from."""

    @classmethod
    def traits_for(cls, options: object) -> Traits:
        return Traits(closed_form=True)

    def build(self, generator: torch.Generator) -> None:
        self.bias = nn.Parameter(torch.arange(float(len(self.classes))))

    def prepare(self, source: object, generator: object, progress: object = None) -> None:
        pass
