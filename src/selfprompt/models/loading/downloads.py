"""What loading pretrained models of every library needs: announcing downloads, and their errors."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from selfprompt.models.loading.names import HUB, LOCAL, REPOSITORY, REVISION, shown

Say = Callable[[str], None]


@dataclass(frozen=True)
class ModelFolder:
    """A local folder, or a repository of the Hugging Face hub whose files are fetched when they are asked for.

    Attributes:
        name: Name of the backbone, for messages.
        folder: The local folder; None for a repository.
        repository: "org/name" on the hub; empty for a local folder.
        local_form: Form of the name of a local copy, for messages.
        say: Called with a line before each download; None if the caller announces it.
        revision: Branch, tag or commit of the repository; None for its newest commit.
    """

    name: str
    folder: Path | None
    repository: str = ""
    local_form: str = f"{LOCAL}FOLDER"
    say: Say | None = None
    revision: str | None = None

    def named(self, library: str) -> str:
        """Return the backbone's name in the layout of "timm" or "open_clip"."""
        return f"{library}/{LOCAL}{self.folder}" if self.folder is not None else f"{library}/{HUB}{self.repository}"

    def find(self, *names: str, optional: bool = False) -> Path | None:
        """Return the first of these files that exists; a repository's is fetched into the hub's cache.

        Args:
            names: Names of files.
            optional: Whether files that are not in the cache count as missing while downloads are forbidden.

        Raises:
            RuntimeError: If it cannot be downloaded, or without a network is not in the cache.
        """
        if self.folder is not None:
            return next((self.folder / name for name in names if os.path.isfile(self.folder / name)), None)
        from huggingface_hub.constants import HF_HUB_OFFLINE
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        unreachable: Exception | None = None
        with downloading(self.name, f"{self.local_form} with a copy of the repository's files"):
            for name in names:
                try:
                    return self._fetch(name)
                except LocalEntryNotFoundError as error:
                    unreachable = unreachable or error
                except EntryNotFoundError:
                    continue
            if unreachable and not (optional and HF_HUB_OFFLINE):
                raise unreachable
        return None

    def at_revision_of(self, path: Path) -> Self:
        """Return the same folder, with all files of a repository at the commit of one that was fetched."""
        return self if self.folder is not None else replace(self, revision=path.parent.name)

    def at_revision_with(self, name: str) -> Self:
        """Return the same folder, with all files of a repository at the commit of its newest file of this name."""
        path = None if self.folder is not None else self.find(name)
        return self if path is None else self.at_revision_of(path)

    def _fetch(self, file: str) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        repository, revision = self.repository, self.revision
        try:
            if self.say is not None:
                _announce_file(repository, file, revision, self.say)
            return Path(hf_hub_download(repository, file, revision=revision))
        except GatedRepoError as error:
            page = f"https://huggingface.co/{repository}"
            raise PermissionError(f"accept its terms on {page}, and log in with `hf auth login`") from error
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(f"the hub has no public repository {repository}") from error


def model_folder(name: str, source: str) -> ModelFolder:
    """Return the folder or repository that "local-dir:PATH" or "hf-hub:org/name[@revision]" means; fetches nothing.

    The name of a repository's ``ModelFolder`` does not contain the revision.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is not the name of a repository.
    """
    if source.startswith(LOCAL):
        folder = os.path.expanduser(source.removeprefix(LOCAL))
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{LOCAL} must be followed by a folder, and {shown(folder)} is none.")
        return ModelFolder(name, Path(folder))
    repository, at, revision = source.removeprefix(HUB).partition("@")
    if not REPOSITORY.fullmatch(repository) or (at and not REVISION.fullmatch(revision)):
        raise ValueError(
            "A repository of the Hugging Face hub is written org/name or org/name@revision, "
            f"got {shown(source.removeprefix(HUB))}."
        )
    return ModelFolder(name.removesuffix(at + revision), None, repository, revision=revision or None)


def announce(name: str, repository: str | None, say: Say) -> None:
    """Announce the download of weights, unless the hub's cache has them."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    folder = Path(HF_HUB_CACHE) / f"models--{(repository or '').replace('/', '--')}" / "snapshots"
    if not HF_HUB_OFFLINE and not (repository and folder.is_dir()):
        source = f"{repository} on the Hugging Face hub" if repository else "its publisher"
        say(f"downloading the weights of {name} from {source}; they are cached")


def _announce_file(repository: str, file: str, revision: str | None, say: Say) -> None:
    """Announce the download of a file, unless it is cached; raises the hub's errors if there is no such file."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
        return
    size = get_hf_file_metadata(hf_hub_url(repository, file, revision=revision)).size or 0
    say(f"downloading {file} ({size / 1e6:,.1f} MB) of {repository} on the Hugging Face hub; it is cached")


def fetch_tokenizer(name: str, repository: str, say: Say) -> Path:
    """Return a repository's tokenizer.json, and nothing else of it, from the hub's cache or the hub.

    Args:
        name: Name of the backbone, for messages.
        repository: "org/name" on the Hugging Face hub.
        say: Called with a line before a download.

    Raises:
        RuntimeError: If it cannot be downloaded, or is not in the cache without a network.
    """
    source = ModelFolder(name, None, repository, say=say)
    instead = f"a copy in the hub's cache (`hf download {repository} tokenizer.json`), or a model with CLIP's tokenizer"
    with downloading(f"the tokenizer of {name}", instead):
        return source._fetch("tokenizer.json")


@contextmanager
def downloading(what: str, instead: str) -> Iterator[None]:
    """Turn any error of the hub clients into one sentence."""
    try:
        yield
    except Exception as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"Could not download {what}: {cause.rstrip('.')}. Instead, use {instead}.") from error
