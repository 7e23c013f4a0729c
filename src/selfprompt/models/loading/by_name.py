"""Backbones by name: the forms of names, and the models that they stand for.

timm and open_clip are imported where they are used, which takes longer than predicting with the embedded CLIP.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from selfprompt.models.backbone import Backbone, Preprocess, Tokenizer
from selfprompt.models.embedded_clip import EmbeddedClip
from selfprompt.models.loading import embedded
from selfprompt.models.loading.checkpoint_files import load_strict, read_checkpoint

__all__ = ["Backbone", "Preprocess", "Tokenizer", "list_backbones", "load_backbone"]

_FORMS = (
    ("embedded/clip", "a small CLIP that ships with the package: for trying and testing"),
    (
        "embedded/mae",
        "a small masked autoencoder that ships with the package: for trying and testing",
    ),
    ("timm/<name>", "a plain ViT of timm with its pretrained weights"),
    ("timm/<name>@<file>", "the same architecture with the weights of a local file"),
    ("open_clip/<model>/<tag>", "a CLIP of open_clip with pretrained weights"),
    ("open_clip/<model>@<file>", "the same architecture with the weights of a local file"),
    ("file/<path>", "a local file that implies its architecture: OpenAI CLIP, MAE, MoCo v3, DINO, ViT .npz, ..."),
    ("timm/<name>/random", "random weights, always the same: for benchmarks and tests"),
    ("open_clip/<model>/random", "random weights, always the same: for benchmarks and tests"),
)
_RECOMMENDED = (
    ("timm/vit_base_patch16_224.augreg_in21k", "ViT-B/16 trained with labels on ImageNet-21k, as in SPT"),
    ("timm/vit_base_patch16_224.orig_in21k", "the first ViT-B/16 on ImageNet-21k, as in VPT"),
    ("timm/vit_base_patch16_224.mae", "ViT-B/16 masked autoencoder on ImageNet-1k"),
    ("timm/vit_base_patch14_dinov2.lvd142m", "ViT-B/14 of DINOv2, 518 pixels"),
    ("open_clip/ViT-B-16/openai", "OpenAI's CLIP ViT-B/16, as in CoOp and SEP"),
    ("open_clip/ViT-B-32/openai", "OpenAI's CLIP ViT-B/32: faster"),
    ("open_clip/ViT-L-14/openai", "OpenAI's CLIP ViT-L/14: larger"),
)
# modules of timm that build plain ViTs; checked before anything is downloaded
_PLAIN_MODULES = ("vision_transformer", "vision_transformer_hybrid", "deit")
_SEED = 0

Say = Callable[[str], None]
logger = logging.getLogger(__name__)


def list_backbones() -> list[tuple[str, str]]:
    """Return the forms of names, then recommended backbones, as (name, description) rows."""
    return [*_FORMS, *_RECOMMENDED]


def load_backbone(name: str, *, say: Say = logger.info) -> Backbone:
    """Load a backbone by name; ``list_backbones`` lists the forms.

    Args:
        name: A name of one of these forms.
        say: Called with a line about each download, before it starts.

    Raises:
        ValueError: For a name of no known form, an unknown model, or a file that does not fit.
        TypeError: For a model that prompts cannot enter (ResNet, Swin, EVA, ...).
        FileNotFoundError: If a local file is missing.
        RuntimeError: If pretrained weights or a tokenizer cannot be downloaded.
    """
    family, _, rest = name.partition("/")
    loaders: dict[str, Callable[[str, str, Say], Backbone]] = {
        "embedded": _load_embedded,
        "timm": _load_timm,
        "open_clip": _load_open_clip,
        "file": _load_file,
    }
    if family not in loaders or not rest:
        raise _unknown(name, [form for form, _ in list_backbones()])
    backbone = loaders[family](name, rest, say)
    backbone.check_finite()
    return backbone


def _load_file(name: str, rest: str, say: Say) -> Backbone:
    from selfprompt.models.loading import assemble

    return assemble.backbone_of_file(name, read_checkpoint(rest))


def _load_embedded(name: str, rest: str, say: Say) -> Backbone:
    if rest not in ("clip", "mae"):
        raise _unknown(name, ["embedded/clip", "embedded/mae"])
    with _seeded():
        model = embedded.build_clip() if rest == "clip" else embedded.build_mae()
    path = embedded.weights_file(rest)
    load_strict(model, read_checkpoint(path).state, path)
    note = f"{name}: a small backbone that ships with the package: for trying and testing, not for photographs"
    if isinstance(model, EmbeddedClip):
        return embedded.clip_backbone(name, model, note)

    from selfprompt.models.loading import assemble

    return assemble.vit_backbone(name, model, layout="mae", statistics=embedded.MAE_STATISTICS, note=note)


def _load_timm(name: str, rest: str, say: Say) -> Backbone:
    import timm

    from selfprompt.models.loading import assemble

    model_name, _, file = rest.partition("@")
    random = not file and model_name.endswith("/random")
    model_name = model_name.removesuffix("/random")
    _check_timm(name, model_name)
    mae = ".mae" in model_name
    if file:
        checkpoint = read_checkpoint(file)
        model: Any = _random_vit(model_name)
        assemble.fill_vit(model, checkpoint)
        return assemble.vit_backbone(name, model, layout=checkpoint.layout, mae=mae, note=checkpoint.note)
    if random:
        return assemble.vit_backbone(name, _random_vit(model_name), mae=mae, note=_random_note(name))
    _announce(name, getattr(timm.get_pretrained_cfg(model_name), "hf_hub_id", None), say)
    with _downloading(f"the weights of {name}", f"timm/{model_name}@<file>"):
        model = timm.create_model(model_name, pretrained=True, num_classes=0)
    return assemble.vit_backbone(name, model, mae=mae)


def _load_open_clip(name: str, rest: str, say: Say) -> Backbone:
    import open_clip

    from selfprompt.models.loading import assemble

    model_name, _, file = rest.partition("@")
    tag = ""
    if not file:
        model_name, _, tag = model_name.partition("/")
    _check_open_clip(name, model_name)
    if file:
        checkpoint = read_checkpoint(file)
        model = _random_clip(model_name)
        assemble.fill_clip(model, checkpoint)
    elif tag == "random":
        model = _random_clip(model_name)
    else:
        model = _pretrained_clip(name, model_name, tag, say)
    with _downloading(f"the tokenizer of {name}", "a model whose tokenizer ships with open_clip (no SigLIP)"):
        tokenizer = open_clip.get_tokenizer(model_name)
    images = model.visual.preprocess_cfg if tag not in ("", "random") else _images_of(model_name)
    note = checkpoint.note if file else _random_note(name) if tag == "random" else ""
    return assemble.clip_backbone(name, model, tokenizer, images=images, note=note)


def _random_vit(model_name: str) -> Any:
    import timm

    with _seeded():
        return timm.create_model(model_name, num_classes=0)


def _random_clip(model_name: str) -> Any:
    import open_clip

    with _seeded(), _without_random_warning():
        return open_clip.create_model(model_name, pretrained_text=False)


def _pretrained_clip(name: str, model_name: str, tag: str, say: Say) -> Any:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if tag not in tags:
        raise _unknown(name, [f"open_clip/{model_name}/{known}" for known in [*tags, "random"]])
    # OpenAI's weights need QuickGELU; open_clip 3.3 only warns if the model's config lacks it
    record = open_clip.get_pretrained_cfg(model_name, tag)
    quick = bool(record.get("quick_gelu"))
    _announce(name, "/".join(record.get("hf_hub", "").split("/")[:2]), say)
    with _downloading(f"the weights of {name}", f"open_clip/{model_name}@<file>"):
        return open_clip.create_model(model_name, pretrained=tag, force_quick_gelu=quick)


def _images_of(model_name: str) -> dict[str, Any]:
    """Return open_clip's preprocessing for a model if all its tags agree on it; empty otherwise (then OpenAI's)."""
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode")
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    records = [open_clip.get_pretrained_cfg(model_name, tag) for tag in tags]
    choices = [{key: record[key] for key in keys if key in record} for record in records]
    return choices[0] if choices and all(choice == choices[0] for choice in choices) else {}


def _check_timm(name: str, model_name: str) -> None:
    """Refuse unknown names and unsupported families before anything is downloaded."""
    import timm

    from selfprompt.models.timm_vit import why_unsupported

    architecture, _, tag = model_name.partition(".")
    if not timm.is_model(architecture):
        raise _unknown(name, [f"timm/{known}" for known in [*timm.list_models(), *timm.list_pretrained()]])
    known = [full for full in timm.list_pretrained() if full.partition(".")[0] == architecture]
    if tag and model_name not in known:
        raise _unknown(name, [f"timm/{full}" for full in known])
    module = getattr(timm.model_entrypoint(architecture), "__module__", "")
    if module.rpartition(".")[2] not in (*_PLAIN_MODULES, "_registry"):  # _registry: a deprecated name of a model
        raise TypeError(
            f"{name} is not supported: {why_unsupported(module)}. Supported: the plain ViTs of timm "
            f"(vit_*, deit_*, deit3_*)."
        )


def _check_open_clip(name: str, model_name: str) -> None:
    """Refuse unknown names and unsupported families before anything is downloaded."""
    import open_clip
    import timm

    from selfprompt.models.timm_vit import why_unsupported

    config = open_clip.get_model_config(model_name) if "/" not in model_name else None
    if config is None:
        raise _unknown(name, [f"open_clip/{known}" for known in open_clip.list_models()])
    reason = ""
    trunk = config["vision_cfg"].get("timm_model_name")
    if isinstance(config["vision_cfg"].get("layers"), list):
        reason = "its image side is a ResNet, not a sequence of blocks over tokens"
    elif "multimodal_cfg" in config:
        reason = "CoCa's text side appends a class token behind the padding"
    elif config["text_cfg"].get("hf_model_name"):
        reason = "its text side comes from Hugging Face and is not open_clip's own"
    elif ":" in model_name and config["text_cfg"].get("hf_tokenizer_name"):
        reason = "its tokenizer comes from a folder or repository and may contain code"
    elif trunk and timm.model_entrypoint(trunk).__module__.rpartition(".")[2] not in _PLAIN_MODULES:
        reason = f"of its image side {trunk}, {why_unsupported(timm.model_entrypoint(trunk).__module__)}"
    if reason:
        raise TypeError(f"{name} is not supported: {reason}. Supported: the ViT models of open_clip.")


def _unknown(name: str, known: Sequence[str]) -> ValueError:
    near = get_close_matches(name, known, n=4, cutoff=0.5)
    nearest = f" Nearest: {', '.join(near)}." if near else ""
    return ValueError(f"Unknown backbone {name!r}.{nearest} Forms: {', '.join(form for form, _ in _FORMS)}.")


def _random_note(name: str) -> str:
    return f"{name}: random weights: for trying only, not for results"


def _announce(name: str, repository: str | None, say: Say) -> None:
    """Announce the download of weights, unless the hub's cache has them."""
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    folder = Path(HF_HUB_CACHE) / f"models--{(repository or '').replace('/', '--')}" / "snapshots"
    if not HF_HUB_OFFLINE and not (repository and folder.is_dir()):
        source = f"{repository} on the Hugging Face hub" if repository else "its publisher"
        say(f"downloading the weights of {name} from {source}; they are cached")


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed the global random state, the only one that the libraries draw weights from, and restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield


@contextmanager
def _downloading(what: str, instead: str) -> Iterator[None]:
    """Turn any error of the hub clients into one sentence."""
    try:
        yield
    except Exception as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"Could not download {what}: {cause.rstrip('.')}. Instead, use {instead}.") from error


@contextmanager
def _without_random_warning() -> Iterator[None]:
    """Silence open_clip's warning about random weights, which are intended here."""

    def quiet(record: logging.LogRecord) -> bool:
        return "No pretrained weights loaded" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(quiet)
    try:
        yield
    finally:
        root.removeFilter(quiet)
