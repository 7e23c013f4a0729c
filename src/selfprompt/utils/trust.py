"""Checks of the method and the backbone that an untrusted artifact names."""

import importlib.util
import re
from collections.abc import Collection
from pathlib import Path

# timm/<name>, timm/<name>/random, open_clip/<model>/<tag>, embedded/<name>: models that a library lists, never files
_PUBLISHED = re.compile(r"(embedded|timm|open_clip)(/\w[\w.+-]*){1,2}", re.ASCII)


def check_method(name: str, *, trust: bool, folder: Path) -> None:
    """Raise ValueError if loading the method of an artifact would run untrusted code.

    Args:
        name: Name of the method, or "package.module:Class", whose import runs that module.
        trust: Whether the user trusts the author of the artifact.
        folder: Folder of the artifact; modules in it are never imported.
    """
    if ":" not in name:
        return
    module = name.partition(":")[0]
    if not trust:
        raise ValueError(
            f"its method is code, {name!r}, and loading it would run the module {module!r}. If you trust that code and "
            "the author of this folder, allow it: --trust, or trust=True"
        )
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(f"the module of its method {name!r} cannot be found: {error}") from error
    paths = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
    if any(Path(path).resolve().is_relative_to(folder.resolve()) for path in paths if path):
        raise ValueError(
            f"the module of its method {name!r} is in the folder itself, and code is never imported from there. "
            "Review it, then install it or put it elsewhere on the path"
        )


def check_backbone(name: str, known: Collection[str] = ()) -> None:
    """Raise ValueError unless the backbone of an artifact is a published model.

    A file name would read a path of the author's choice, and any other repository would be fetched at the author's
    wish.

    Args:
        name: Name of the backbone.
        known: Hub repositories of published models.
    """
    if name not in known and not _PUBLISHED.fullmatch(name):
        raise ValueError(
            f"it was tuned on {name!r}, a local file or a repository, which is used only if you name it: "
            f"--backbone, or backbone=... (its fingerprint is checked)"
        )
