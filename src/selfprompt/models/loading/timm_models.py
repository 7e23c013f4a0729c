"""timm's models by name: pretrained, random, or with the weights of a local file."""

from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config

from selfprompt.models.backbone import Backbone
from selfprompt.models.feature_tower import FeatureTower
from selfprompt.models.image_size import check_multiple
from selfprompt.models.loading import assemble
from selfprompt.models.loading.checkpoint_files import read_checkpoint
from selfprompt.models.loading.downloads import Say, announce, downloading
from selfprompt.models.loading.initial_values import seeded, unfilled
from selfprompt.models.loading.library_folders import load_vit_folder
from selfprompt.models.loading.licences import say_licence
from selfprompt.models.loading.names import HUB, LOCAL, random_note
from selfprompt.models.loading.unknown_names import unknown
from selfprompt.models.timm_eva import has_blocks


def load_timm(name: str, rest: str, image_size: int | None, say: Say) -> Backbone:
    """Load ``<name>``, ``<name>@<file>``, ``<name>/random``, or a folder; see ``load_backbone``.

    ``image_size`` is only checked, before a download, and given to a model whose file may have yet another grid.
    """
    if rest.startswith((LOCAL, HUB)):
        return load_vit_folder(name, rest, check_name, say)
    model_name, at, file = rest.partition("@")
    random = not at and model_name.endswith("/random")
    model_name = model_name.removesuffix("/random")
    check_name(name, model_name)
    if image_size is not None:
        check_image_size(model_name, image_size)
    mae = ".mae" in model_name
    if at:
        checkpoint = read_checkpoint(file)
        with unfilled():
            model = _random_model(model_name)
        if image_size is not None and has_blocks(model):
            model.set_input_size(img_size=(image_size, image_size))  # so that the file's positions are resampled once
        assemble.fill_vit(model, checkpoint)
        return assemble.vit_backbone(name, model, layout=checkpoint.layout, mae=mae, note=checkpoint.note)
    if random:
        return assemble.vit_backbone(name, _random_model(model_name), mae=mae, note=random_note(name))
    repository = getattr(timm.get_pretrained_cfg(model_name), "hf_hub_id", None)
    say_licence(name, repository, say)
    announce(name, repository, say)
    with downloading(f"the weights of {name}", f"timm/{model_name}@<file>"):
        model = timm.create_model(model_name, pretrained=True, num_classes=0)
    return assemble.vit_backbone(name, model, mae=mae)


def _random_model(model_name: str) -> Any:
    with seeded():
        return timm.create_model(model_name, num_classes=0)


def check_image_size(model_name: str, image_size: int) -> None:
    """Raise ValueError if a model cannot take images of this size; builds it without memory for weights."""
    with torch.device("meta"):
        model: Any = timm.create_model(model_name, num_classes=0)
    if has_blocks(model):
        check_multiple(image_size, model.patch_embed.feat_ratio(as_scalar=False)[0], "the patch size of this backbone")
    else:
        size = tuple(resolve_model_data_config(model)["input_size"][-2:])
        FeatureTower(model, size).set_image_size(image_size)


def check_name(name: str, model_name: str) -> None:
    """Refuse unknown names and images that are not square before anything is downloaded."""
    architecture, dot, _ = model_name.partition(".")
    if not timm.is_model(architecture):
        raise unknown(name)
    known = [full for full in timm.list_pretrained() if full.partition(".")[0] == architecture]
    if dot and model_name not in known:
        raise unknown(name, [f"timm/{full}" for full in known])
    height, width = getattr(timm.get_pretrained_cfg(model_name), "input_size", (3, 0, 0))[-2:]
    if height != width:
        raise ValueError(
            f"{name} takes images of {height} x {width} pixels, and only square ones are supported; use a model of "
            "square images, such as timm/vit_base_patch16_dinov3.lvd1689m."
        )
