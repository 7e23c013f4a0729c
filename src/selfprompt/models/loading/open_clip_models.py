"""open_clip's models by name: pretrained, random, or with the weights of a local file."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import open_clip
import timm
import torch

from selfprompt.models.backbone import Backbone, Tokenizer
from selfprompt.models.hf_text import EncoderConfig
from selfprompt.models.image_size import check_multiple
from selfprompt.models.loading import assemble
from selfprompt.models.loading.checkpoint_files import read_checkpoint
from selfprompt.models.loading.clip_tokenizers import clip_tokenizer
from selfprompt.models.loading.downloads import Say, announce, downloading, fetch_tokenizer
from selfprompt.models.loading.hf_encoders import build_clip, encoder_config
from selfprompt.models.loading.initial_values import seeded, unfilled
from selfprompt.models.loading.library_folders import load_clip_folder
from selfprompt.models.loading.licences import say_licence
from selfprompt.models.loading.names import HUB, LOCAL, random_note, shown
from selfprompt.models.loading.unknown_names import unknown
from selfprompt.models.open_clip_vit import vision_tower


def load_open_clip(name: str, rest: str, image_size: int | None, say: Say) -> Backbone:
    """Load ``<model>/<tag>``, ``<model>@<file>``, ``<model>/random``, or a folder; see ``load_backbone``.

    ``image_size`` is only checked, before a download.
    """
    if rest.startswith((LOCAL, HUB)):
        return load_clip_folder(name, rest, check_config, say)
    model_name, at, file = rest.partition("@")
    tag = ""
    if not at:
        model_name, _, tag = model_name.partition("/")
    check_name(name, model_name)
    if image_size is not None:
        _check_image_size(model_name, image_size)
    if at:
        checkpoint = read_checkpoint(file)
    elif tag != "random":
        _check_tag(name, model_name, tag)
    tokenizer = _tokenizer(name, model_name, say)
    if file:
        with unfilled():
            model = random_clip(model_name)
        assemble.fill_clip(model, checkpoint)
    elif tag == "random":
        model = random_clip(model_name)
    else:
        model = _pretrained_clip(name, model_name, tag, say)
    images = model.visual.preprocess_cfg if tag not in ("", "random") else images_of(model_name)
    note = checkpoint.note if at else random_note(name) if tag == "random" else ""
    return assemble.clip_backbone(name, model, tokenizer, images=images, note=note)


def _tokenizer(name: str, model_name: str, say: Say) -> Tokenizer:
    """Build the tokenizer of a model, before its weights are asked for."""
    text, encoder = open_clip.get_model_config(model_name)["text_cfg"], _encoder(model_name)
    if encoder is not None:
        text["vocab_size"] = encoder.vocabulary
    source = text.get("hf_tokenizer_name", "")
    find = partial(fetch_tokenizer, name, source, say)
    return clip_tokenizer(name, text, source, text.get("tokenizer_kwargs", {}), find)


def random_clip(model_name: str, device: str = "cpu") -> Any:
    """Build a model with random weights; on the device "meta" without any."""
    encoder = _encoder(model_name)
    with seeded(), _without_random_warning():
        if encoder is None:
            return open_clip.create_model(model_name, device=device, pretrained_text=False)
        with torch.device(device):
            return build_clip(open_clip.get_model_config(model_name), encoder)


def _encoder(model_name: str) -> EncoderConfig | None:
    """Return the text encoder of a model whose text side is one of Hugging Face's; None for open_clip's own."""
    text_model = open_clip.get_model_config(model_name)["text_cfg"].get("hf_model_name")
    return encoder_config(model_name, text_model) if text_model else None


def _check_tag(name: str, model_name: str, tag: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if tag not in tags:
        raise unknown(name, [f"open_clip/{model_name}/{known}" for known in [*tags, "random"]])


def _pretrained_clip(name: str, model_name: str, tag: str, say: Say) -> Any:
    # OpenAI's weights need QuickGELU; open_clip 3.3 only warns if the model's config lacks it
    record = open_clip.get_pretrained_cfg(model_name, tag)
    quick = bool(record.get("quick_gelu"))
    repository = "/".join(record.get("hf_hub", "").split("/")[:2])
    say_licence(name, repository, say)
    announce(name, repository, say)
    with downloading(f"the weights of {name}", f"open_clip/{model_name}@<file>"):
        if _encoder(model_name) is None:
            with unfilled():  # the weights must all be in the file
                return open_clip.create_model(model_name, pretrained=tag, force_quick_gelu=quick)
        path = open_clip.download_pretrained(record)
    with unfilled():
        model = random_clip(model_name)
    assemble.fill_clip(model, read_checkpoint(path))
    model.visual.preprocess_cfg = _images(record)
    return model


def _images(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in record}


def images_of(model_name: str) -> dict[str, Any]:
    """Return open_clip's preprocessing for a model if all its tags agree on it; empty otherwise (then OpenAI's)."""
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    choices = [_images(open_clip.get_pretrained_cfg(model_name, tag)) for tag in tags]
    return choices[0] if choices and all(choice == choices[0] for choice in choices) else {}


def check_name(name: str, model_name: str) -> None:
    """Refuse unknown names and unsupported families before anything is downloaded."""
    config = open_clip.get_model_config(model_name) if not set("/:") & set(model_name) else None
    if config is None:
        raise unknown(name)
    check_config(name, config)


def _check_image_size(model_name: str, image_size: int) -> None:
    """Raise ValueError if a model cannot take images of this size; builds it without memory for weights."""
    with torch.device("meta"):
        tower = vision_tower(random_clip(model_name, device="meta").visual)
    if tower.has_blocks:
        check_multiple(image_size, tower.patch_size[0], "the patch size of this backbone")
    else:
        tower.set_image_size(image_size)


def check_config(name: str, config: dict[str, Any]) -> None:
    """Refuse a configuration of an unsupported family."""
    reason = ""
    trunk = config["vision_cfg"].get("timm_model_name")
    if "multimodal_cfg" in config and config["text_cfg"].get("hf_model_name"):
        reason = "it is a CoCa whose text side is Hugging Face's"
    elif trunk and not timm.is_model(trunk):
        reason = f"timm has no model {shown(trunk)}, of which its image side is made"
    if reason:
        raise TypeError(f"{name} is not supported: {reason}. Use another model of open_clip.")


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
