"""What loading pretrained models of every library needs: announcing downloads, their errors, and a fixed seed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

Say = Callable[[str], None]
_SEED = 0


def announce(name: str, repository: str | None, say: Say) -> None:
    """Announce the download of weights, unless the hub's cache has them."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    folder = Path(HF_HUB_CACHE) / f"models--{(repository or '').replace('/', '--')}" / "snapshots"
    if not HF_HUB_OFFLINE and not (repository and folder.is_dir()):
        source = f"{repository} on the Hugging Face hub" if repository else "its publisher"
        say(f"downloading the weights of {name} from {source}; they are cached")


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the global random state, the only one that the libraries draw weights from, and restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Turn any error of the hub clients into one sentence."""
    try:
        yield
    except Exception as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"Could not download {what}: {cause.rstrip('.')}. Instead, use {instead}.") from error
