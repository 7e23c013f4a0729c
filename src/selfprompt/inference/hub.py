"""Saved classifiers on the Hugging Face hub: finding and downloading one, and publishing one."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from selfprompt.inference.artifact import CARD, CONFIG, TENSORS, read_artifact
from selfprompt.inference.model_card import Publication, model_card
from selfprompt.models.loading.names import HUB, REPOSITORY, REVISION
from selfprompt.utils.files import to_json
from selfprompt.utils.suggestions import did_you_mean

logger = logging.getLogger(__name__)

MAX_BYTES = {CONFIG: 1 << 28, TENSORS: 1 << 34, CARD: 1 << 24}
"""The files of a classifier in a repository, with the largest sizes that are downloaded."""
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
"""Identifier of a licence on the hub."""
LONGEST_DATA = 20_000
"""Letters of the description of the training images."""
PRIVATE_PATHS = ("class_names", "feature_cache")
"""Settings of a recipe that may be paths of this machine; they are not published."""


def artifact_folder(source: str | Path, *, say: Callable[[str], None] = logger.info) -> Path:
    """Return the folder of a saved classifier; download it if it is in a repository of the Hugging Face hub.

    Args:
        source: A local folder; or a repository, "owner/name" or "owner/name@revision", which "hf-hub:" may precede. A
            local folder of that name comes first, and one whose name is nearly the same needs the prefix.
        say: Receives one line before a download.

    Raises:
        ValueError: If there is no such folder or repository, or its files are too large.
    """
    if isinstance(source, str) and source.startswith(HUB):
        return _download(source, source.removeprefix(HUB), say)
    folder = Path(source)
    if os.path.isdir(folder):  # also False for a name that is too long
        return folder
    if os.path.exists(folder):
        raise ValueError(f"{source} is a file; give the folder of a saved classifier.")
    similar, named = _similar_folder(folder), str(source)
    if not _is_repository(named) or isinstance(source, Path):
        raise ValueError(f"{source}: there is no such folder.{similar}")
    if similar:
        raise ValueError(f"{source}: there is no such folder.{similar} A repository is written {HUB}{source}.")
    return _download(f"{source}: there is no such folder, and {HUB}{source}", named, say)


def origin_of(folder: Path) -> str:
    """Return the repository and commit of a folder in the hub's cache, "owner/name@commit"; empty for any other."""
    repository = folder.parent.parent.name.split("--")
    if folder.parent.name != "snapshots" or len(repository) != 3 or repository[0] != "models":
        return ""
    return f"{repository[1]}/{repository[2]}@{folder.name}"


def push(
    folder: str | Path,
    repository: str,
    *,
    license: str,
    data: str,
    private: bool = False,
    say: Callable[[str], None] = logger.info,
) -> str:
    """Publish a saved classifier on the Hugging Face hub, as one commit.

    The configuration, the trained tensors and a model card are uploaded; images are not. The card states the result,
    the licence and the data. Paths of this machine are left out.

    Args:
        folder: The saved classifier.
        repository: "owner/name"; it is made if it does not exist.
        license: Identifier of the classifier's licence on the hub, such as "apache-2.0", or "other".
        data: What the training images are, where they are from and under which terms; Markdown.
        private: Whether a new repository can be seen by its owners only.
        say: Receives a line about what others need besides these files.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If an argument is wrong, or the folder is not a saved classifier.
        RuntimeError: If the hub refuses it or cannot be reached; nothing is published then.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"repository must be written owner/name, got {repository!r}.")
    if not LICENSE.fullmatch(license):
        raise ValueError(
            f"license must be an identifier of the hub such as apache-2.0, cc-by-4.0 or other, got {license!r}."
        )
    if not data.strip() or len(data) > LONGEST_DATA:
        raise ValueError(f"data must describe the training images in 1 to {LONGEST_DATA:,} letters, got {len(data):,}.")
    folder = Path(folder)
    config = _publishable(read_artifact(folder).config)
    for remark in _remarks(config):
        say(remark)
    published = Publication(repository, license, data.strip(), _base_model(config["backbone"]["name"]))
    card = model_card(config, TENSORS, published)
    content: dict[str, bytes | Path] = {CARD: card.encode()}
    content |= {CONFIG: (to_json(config, indent=2) + "\n").encode(), TENSORS: folder / TENSORS}
    return _upload(repository, content, private)


def _publishable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without paths, and without notes on the training images, which may name files."""
    recipe = {name: None if name in PRIVATE_PATHS else value for name, value in config["recipe"].items()}
    return {**config, "recipe": recipe, "results": {**config["results"], "notes": []}}


def _remarks(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what others need to load the classifier besides its files."""
    name = config["backbone"]["name"]
    if name.startswith("file/") or "local-dir:" in name or "@" in name:
        yield f"{name} is a file of this machine: others need it to load the classifier, with --backbone."
    if ":" in config["method"]:
        yield f"{config['method']} is code outside of selfprompt: others must install it, and load with --trust."


def _base_model(name: str) -> str:
    """Return the repository of a backbone that is named by it; empty for others."""
    family, _, rest = name.partition("/")
    repository = rest if family == "hf" else rest.removeprefix(HUB) if rest.startswith(HUB) else ""
    return repository if REPOSITORY.fullmatch(repository) else ""


def _upload(repository: str, content: Mapping[str, bytes | Path], private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    with _readable_errors(repository):
        hub = HfApi(library_name="selfprompt")
        hub.create_repo(repository, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, value) for name, value in content.items()]
        commit = hub.create_commit(repository, operations, commit_message="Upload a classifier of selfprompt")
        return str(commit.commit_url)


@contextmanager
def _readable_errors(repository: str) -> Iterator[None]:
    """Raise RuntimeError with the reason in one line, and what to do, for whatever goes wrong on the way to the hub."""
    try:
        yield
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = {
            401: " Log in with `hf auth login`, or set HF_TOKEN to a token that may write.",
            403: " Use a token that may write there, or another owner.",
        }.get(status or 0, "")
        if type(error).__name__ == "LocalTokenNotFoundError":
            advice = " Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
        raise RuntimeError(f"{repository} could not be published: {_first_line(error)}.{advice}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _similar_folder(folder: Path) -> str:
    """Suggest the sibling folder with the most similar name."""
    try:
        names = [entry.name for entry in islice(os.scandir(folder.parent), 10_000) if entry.is_dir()]
    except OSError:
        return ""
    return did_you_mean(folder.name, names, folder.parent.joinpath)


def _is_repository(name: str) -> bool:
    repository, at, revision = name.partition("@")
    return bool(REPOSITORY.fullmatch(repository)) and (not at or bool(REVISION.fullmatch(revision)))


def _download(source: str, named: str, say: Callable[[str], None]) -> Path:
    """Return the folder in the cache of the hub; download missing files."""
    if not _is_repository(named):
        raise ValueError(
            f"A repository of the hub is written {HUB}owner/name or {HUB}owner/name@revision, got {named}."
        )
    repository, _, revision = named.partition("@")
    try:
        return _download_files(repository, revision or None, say)
    except Exception as error:
        raise ValueError(
            f"{source} could not be downloaded from the Hugging Face hub: {_first_line(error)}."
        ) from error


def _download_files(repository: str, revision: str | None, say: Callable[[str], None]) -> Path:
    """Return the folder of a repository at one commit; without a network, the one downloaded earlier."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, RepositoryNotFoundError

    names = list(MAX_BYTES)
    try:
        planned = snapshot_download(repository, revision=revision, allow_patterns=names, dry_run=True)
    except DryRunError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise ValueError(f"it has no public repository {repository}; `hf auth login` shows your own") from error
        return Path(snapshot_download(repository, revision=revision, allow_patterns=names, local_files_only=True))
    missing = [file for file in planned if file.will_download]
    for file in missing:
        if (file.file_size or 0) > MAX_BYTES[file.filename]:
            limit = f"more than the allowed {MAX_BYTES[file.filename]:,}"
            raise ValueError(f"its {file.filename} has {file.file_size:,} bytes, {limit}")
    if missing:
        size = sum(file.file_size or 0 for file in missing)
        listed = ", ".join(file.filename for file in missing)
        say(f"downloading {listed} ({size:,} bytes) of {repository} from the Hugging Face hub")
    if planned:
        revision = planned[0].commit_hash  # exactly the commit that was checked
    return Path(snapshot_download(repository, revision=revision, allow_patterns=names))
