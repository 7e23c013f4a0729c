"""What a file of somebody else's may name without being trusted: shipped methods and published backbones."""

import importlib.util
import re
from pathlib import Path

# timm/<name>, timm/<name>/random, open_clip/<model>/<tag>, embedded/<name>: models that a library lists, and no files
_PUBLISHED = re.compile(r"(embedded|timm|open_clip)(/\w[\w.+-]*){1,2}", re.ASCII)


def check_method(name: str, *, trust: bool, folder: Path) -> None:
    """Raise ValueError if loading the method that an artifact names would run code that nobody vouches for.

    Args:
        name: "sep", or "package.module:Class", whose import runs that module.
        trust: Whether the caller trusts the artifact's author.
        folder: The artifact's; modules that lie in it are never imported.
    """
    if ":" not in name:
        return
    module = name.partition(":")[0]
    if not trust:
        raise ValueError(
            f"its method is code, {name!r}, and loading it would run the module {module!r}. If you trust that code and "
            "who made this folder, allow it: --trust, or trust=True"
        )
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(f"the module of its method {name!r} cannot be found: {error}") from error
    places = [] if found is None else [found.origin, *(found.submodule_search_locations or [])]
    if any(Path(place).resolve().is_relative_to(folder.resolve()) for place in places if place):
        raise ValueError(
            f"the module of its method {name!r} lies in the folder itself, and code is never taken from there. "
            "Look at it, and install it or put it elsewhere on the path"
        )


def check_backbone(name: str) -> None:
    """Raise ValueError unless a backbone's name that an artifact gives is that of a published model.

    Names of files would read whatever path the artifact's author chose, and configurations from a folder or a hub
    repository can name tokenizers that carry code.
    """
    if not _PUBLISHED.fullmatch(name):
        raise ValueError(
            f"it was tuned on {name!r}, a file or repository of somebody's own, which is used only where you name it: "
            f"--backbone, or backbone=... (its fingerprint is checked)"
        )
