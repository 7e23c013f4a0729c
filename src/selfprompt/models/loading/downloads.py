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


def fetch_tokenizer(name: str, repository: str, say: Say) -> Path:
    """Return a repository's tokenizer.json, and nothing else of it, from the hub's cache or the hub.

    Args:
        name: Name of the backbone, for messages.
        repository: "org/name" on the Hugging Face hub.
        say: Called with a line before a download.

    Raises:
        RuntimeError: If it cannot be downloaded, or is not in the cache without a network.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE

    cached = try_to_load_from_cache(repository, "tokenizer.json")
    if isinstance(cached, str):
        return Path(cached)
    if not HF_HUB_OFFLINE:
        say(f"downloading the tokenizer of {name} from {repository} on the Hugging Face hub; it is cached")
    instead = f"a copy in the hub's cache (hf download {repository} tokenizer.json), or a model with CLIP's tokenizer"
    with downloading(f"the tokenizer of {name}", instead):
        return Path(hf_hub_download(repository, "tokenizer.json"))


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
