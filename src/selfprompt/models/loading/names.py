"""The forms of backbone names, recommended models, and how a name is shown in a message."""

import re

LOCAL, HUB = "local-dir:", "hf-hub:"
"""How timm and open_clip mark a local folder and a repository of the Hugging Face hub."""
REPOSITORY = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
"""A repository of the Hugging Face hub, org/name."""
REVISION = re.compile(r"\w[\w-]*([./]\w[\w-]*)*", re.ASCII)
"""A branch, tag or commit of a repository."""
LONGEST_SHOWN = 300
"""Characters of a name that a message shows at most."""
EMBEDDED = (
    ("embedded/clip", "a small CLIP that ships with the package: for trying and testing"),
    (
        "embedded/mae",
        "a small masked autoencoder that ships with the package: for trying and testing",
    ),
)
FORMS = (
    *EMBEDDED,
    ("timm/<name>", "an image model of timm with its pretrained weights"),
    ("timm/<name>@<file>", "the same architecture with the weights of a local file"),
    ("open_clip/<model>/<tag>", "a CLIP of open_clip with pretrained weights"),
    ("open_clip/<model>@<file>", "the same architecture with the weights of a local file"),
    ("open_clip/hf-hub:<org>/<name>", "a repository of the Hugging Face hub in open_clip's layout; local-dir:<folder>"),
    ("timm/hf-hub:<org>/<name>", "a repository of the Hugging Face hub in timm's layout; local-dir:<folder>"),
    ("file/<path>", "a local file that implies its architecture: OpenAI CLIP, MAE, MoCo v3, DINO, ViT .npz, ..."),
    ("file/<folder>", "a folder in transformers' format: CLIP, Chinese-CLIP, SigLIP, ViT, MAE, DINOv2, DINOv3"),
    (
        "hf/<org>/<name>",
        "the same on the Hugging Face hub, such as hf/google/vit-base-patch16-224; @<revision> may follow",
    ),
    ("timm/<name>/random", "random weights, always the same: for benchmarks and tests"),
    ("open_clip/<model>/random", "random weights, always the same: for benchmarks and tests"),
)
RECOMMENDED = (
    ("timm/vit_base_patch16_224.augreg_in21k", "ViT-B/16 trained with labels on ImageNet-21k, as in SPT"),
    ("timm/vit_base_patch16_224.orig_in21k", "the first ViT-B/16 on ImageNet-21k, as in VPT"),
    ("timm/vit_base_patch16_224.mae", "ViT-B/16 masked autoencoder on ImageNet-1k"),
    ("timm/vit_base_patch14_dinov2.lvd142m", "ViT-B/14 of DINOv2, 518 pixels"),
    ("timm/vit_base_patch16_dinov3.lvd1689m", "ViT-B/16 of DINOv3, 256 pixels; under Meta's DINOv3 licence"),
    ("open_clip/ViT-B-16/openai", "OpenAI's CLIP ViT-B/16, as in CoOp and SEP"),
    ("open_clip/ViT-B-32/openai", "OpenAI's CLIP ViT-B/32: faster"),
    ("open_clip/ViT-L-14/openai", "OpenAI's CLIP ViT-L/14: larger"),
)


def shown(text: object) -> str:
    """Return what somebody typed or wrote in a file for a message: in quotes, without control characters, cut."""
    text = text if isinstance(text, str) else str(text)
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}...")


def list_backbones() -> list[tuple[str, str]]:
    """Return the forms of names, then recommended backbones, as (name, description) rows."""
    return [*FORMS, *RECOMMENDED]


def random_note(name: str) -> str:
    """Return the remark on random weights that every output must show."""
    return f"{name}: random weights: for trying only, not for results"
