"""timm's models by name: pretrained, random, or with the weights of a local file."""

from typing import Any

import timm

from selfprompt.models.backbone import Backbone
from selfprompt.models.loading import assemble
from selfprompt.models.loading.checkpoint_files import read_checkpoint
from selfprompt.models.loading.downloads import Say, announce, downloading, seeded
from selfprompt.models.loading.library_folders import load_vit_folder
from selfprompt.models.loading.licences import say_licence
from selfprompt.models.loading.names import HUB, LOCAL, random_note
from selfprompt.models.loading.unknown_names import unknown
from selfprompt.models.timm_vit import why_unsupported

# modules that build ViTs whose blocks the towers know; "_registry" has deprecated names of models
_MODULES = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva", "vitamin", "_registry")
_SAPIENS = "its images are not square, and several of its heads share their keys; DINOv3 is similar"


def load_timm(name: str, rest: str, say: Say) -> Backbone:
    """Load ``<name>``, ``<name>@<file>``, ``<name>/random``, or a folder; see ``load_backbone``."""
    if rest.startswith((LOCAL, HUB)):
        return load_vit_folder(name, rest, check_name, say)
    model_name, _, file = rest.partition("@")
    random = not file and model_name.endswith("/random")
    model_name = model_name.removesuffix("/random")
    check_name(name, model_name)
    mae = ".mae" in model_name
    if file:
        checkpoint = read_checkpoint(file)
        model: Any = _random_vit(model_name)
        assemble.fill_vit(model, checkpoint)
        return assemble.vit_backbone(name, model, layout=checkpoint.layout, mae=mae, note=checkpoint.note)
    if random:
        return assemble.vit_backbone(name, _random_vit(model_name), mae=mae, note=random_note(name))
    repository = getattr(timm.get_pretrained_cfg(model_name), "hf_hub_id", None)
    say_licence(name, repository, say)
    announce(name, repository, say)
    with downloading(f"the weights of {name}", f"timm/{model_name}@<file>"):
        model = timm.create_model(model_name, pretrained=True, num_classes=0)
    return assemble.vit_backbone(name, model, mae=mae)


def _random_vit(model_name: str) -> Any:
    with seeded():
        return timm.create_model(model_name, num_classes=0)


def check_name(name: str, model_name: str) -> None:
    """Refuse unknown names and unsupported families before anything is downloaded."""
    architecture, _, tag = model_name.partition(".")
    if not timm.is_model(architecture):
        raise unknown(name)
    known = [full for full in timm.list_pretrained() if full.partition(".")[0] == architecture]
    if tag and model_name not in known:
        raise unknown(name, [f"timm/{full}" for full in known])
    if reason := why_refused(architecture):
        raise TypeError(
            f"{name} is not supported: {reason}. Supported: the ViTs of timm (vit_*, deit_*, deit3_*, eva*, "
            "vitamin_*), such as timm/vit_base_patch16_dinov3.lvd1689m."
        )


def why_refused(architecture: str) -> str:
    """Return why prompts cannot enter a model of timm, as a clause; empty if they can."""
    module = getattr(timm.model_entrypoint(architecture), "__module__", "")
    if architecture.endswith("_sapiens2"):
        return _SAPIENS
    return "" if module.rpartition(".")[2] in _MODULES else why_unsupported(module)
