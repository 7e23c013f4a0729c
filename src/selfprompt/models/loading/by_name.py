"""Backbones by name, whichever library builds them.

timm and open_clip are imported where they are used, which takes longer than predicting with the embedded CLIP.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from selfprompt.models.backbone import Backbone, Preprocess, Tokenizer
from selfprompt.models.embedded_clip import EmbeddedClip
from selfprompt.models.loading import embedded
from selfprompt.models.loading.aliases import find_alias
from selfprompt.models.loading.checkpoint_files import load_strict, read_checkpoint
from selfprompt.models.loading.downloads import Say, model_folder
from selfprompt.models.loading.initial_values import unfilled
from selfprompt.models.loading.names import HUB, LOCAL, list_backbones, shown
from selfprompt.models.loading.unknown_names import unknown
from selfprompt.utils.wording import printable

__all__ = ["Backbone", "Preprocess", "Tokenizer", "list_backbones", "load_backbone"]

logger = logging.getLogger(__name__)


LARGEST_IMAGE = 4096
"""Largest image size, in pixels."""


def load_backbone(name: str, *, image_size: int | None = None, say: Say = logger.info) -> Backbone:
    """Load a backbone by name; ``list_backbones`` lists the forms.

    Args:
        name: A name of one of these forms, or one that the model is known by elsewhere ("facebook/dinov2-base");
            ``Backbone.name`` is then the name of the form.
        image_size: Height and width of the images in pixels, a multiple of the patch size; None for the model's own.
            Position embeddings are resampled from those in the weights.
        say: Called with a line about another name, a binding licence or a download, before it starts.

    Raises:
        ValueError: For a name of no known form, an unknown model, an image size that it cannot take, or a file that
            does not fit.
        TypeError: For a CLIP whose text side is not open_clip's own, or a model without one vector per image.
        FileNotFoundError: If a local file is missing.
        RuntimeError: If pretrained weights or a tokenizer cannot be downloaded, or a file cannot be read.
        ImportError: If the tokenizer needs a package that is not installed.
    """
    if not isinstance(name, str):
        raise TypeError(f"A backbone's name must be text, got {type(name).__name__}.")
    _check_image_size(image_size)
    with _readable_errors(name):
        backbone = _load(name, image_size, say)
        backbone.check_finite()
        return backbone if image_size is None else backbone.with_image_size(image_size)


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    """Escape control characters in messages, which may quote names and files of strangers; explain errors of files."""
    kinds = (ValueError, TypeError, FileNotFoundError, RuntimeError, ImportError)
    try:
        yield
    except kinds as error:
        if str(error).isprintable():
            raise
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(printable(str(error))) from error
    except OSError as error:
        raise RuntimeError(f"A file of {shown(name)} cannot be read: {error.strerror or error}.") from error


def _load(name: str, image_size: int | None, say: Say) -> Backbone:
    alias = find_alias(name)
    if alias:
        say(str(alias))
        name = alias.name
    family, _, rest = name.partition("/")
    loaders: dict[str, Callable[[str, str, int | None, Say], Backbone]] = {
        "embedded": _load_embedded,
        "timm": _load_timm,
        "open_clip": _load_open_clip,
        "file": _load_file,
        "hf": _load_hub,
    }
    if family not in loaders or not rest:
        raise unknown(name)
    return loaders[family](name, rest, image_size, say)


def _check_image_size(image_size: int | None) -> None:
    if image_size is None:
        return
    if isinstance(image_size, bool) or not isinstance(image_size, int):
        raise TypeError(f"image_size must be a whole number of pixels, got {image_size!r}.")
    if not 1 <= image_size <= LARGEST_IMAGE:
        raise ValueError(f"image_size must lie in 1..{LARGEST_IMAGE} pixels, got {image_size}.")


def _load_file(name: str, rest: str, image_size: int | None, say: Say) -> Backbone:
    if os.path.isdir(os.path.expanduser(rest)):
        return _load_transformers(name, f"{LOCAL}{rest}", image_size, say)

    from selfprompt.models.loading import assemble

    return assemble.backbone_of_file(name, read_checkpoint(rest))


def _load_hub(name: str, rest: str, image_size: int | None, say: Say) -> Backbone:
    from selfprompt.models.loading.licences import say_licence

    say_licence(name, rest.partition("@")[0], say)
    return _load_transformers(name, f"{HUB}{rest}", image_size, say)


def _load_transformers(name: str, source: str, image_size: int | None, say: Say) -> Backbone:
    from selfprompt.models.loading.transformers_format.folder import load_transformers

    folder = replace(model_folder(name, source), local_form="file/FOLDER", say=say)
    return load_transformers(folder, image_size)


def _load_embedded(name: str, rest: str, image_size: int | None, say: Say) -> Backbone:
    if rest not in ("clip", "mae"):
        raise unknown(name, ["embedded/clip", "embedded/mae"])
    with unfilled():
        model = embedded.build_clip() if rest == "clip" else embedded.build_mae()
    path = embedded.weights_file(rest)
    load_strict(model, read_checkpoint(path).state, path)
    note = f"{name}: a small backbone that ships with the package: for trying and testing, not for photographs"
    if isinstance(model, EmbeddedClip):
        return embedded.clip_backbone(name, model, note)

    from selfprompt.models.loading import assemble

    return assemble.vit_backbone(name, model, layout="mae", statistics=embedded.MAE_STATISTICS, note=note)


def _load_timm(name: str, rest: str, image_size: int | None, say: Say) -> Backbone:
    from selfprompt.models.loading.timm_models import load_timm

    return load_timm(name, rest, image_size, say)


def _load_open_clip(name: str, rest: str, image_size: int | None, say: Say) -> Backbone:
    from selfprompt.models.loading.open_clip_models import load_open_clip

    return load_open_clip(name, rest, image_size, say)
