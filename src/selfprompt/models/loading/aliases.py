"""Names under which people know a model, such as its repository on the Hugging Face hub, and the names that load it."""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Alias:
    """A name that means another one.

    Attributes:
        typed: The name as its publisher writes it; any case is understood.
        name: The name that loads the model, and that results store.
        remark: How the two differ; empty if they are the same weights, seen the same way.
    """

    typed: str
    name: str
    remark: str = ""

    def __str__(self) -> str:
        return f"{self.typed} = {self.name}" + (f" ({self.remark})" if self.remark else "")


_CLIP = {
    "openai/clip-vit-base-patch32": "ViT-B-32/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16/openai",
    "openai/clip-vit-large-patch14": "ViT-L-14/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336/openai",
    "ViT-B/32": "ViT-B-32/openai",
    "ViT-B/16": "ViT-B-16/openai",
    "ViT-L/14": "ViT-L-14/openai",
    "ViT-L/14@336px": "ViT-L-14-336/openai",
    "RN50": "RN50/openai",
    "RN101": "RN101/openai",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "ViT-B-32/laion2b_s34b_b79k",
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": "ViT-B-16/laion2b_s34b_b88k",
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": "ViT-L-14/laion2b_s32b_b82k",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "ViT-H-14/laion2b_s32b_b79k",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "ViT-bigG-14/laion2b_s39b_b160k",
    "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K": "ViT-B-16/datacomp_xl_s13b_b90k",
    "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K": "ViT-L-14/datacomp_xl_s13b_b90k",
    "laion/CLIP-convnext_base_w-laion2B-s13B-b82K": "convnext_base_w/laion2b_s13b_b82k",
    "apple/DFN2B-CLIP-ViT-B-16": "ViT-B-16/dfn2b",
    "apple/DFN2B-CLIP-ViT-L-14": "ViT-L-14-quickgelu/dfn2b",
    "apple/MobileCLIP2-B": "MobileCLIP2-B/dfndr2b",
    "apple/MobileCLIP2-S0": "MobileCLIP2-S0/dfndr2b",
    "google/siglip-base-patch16-224": "ViT-B-16-SigLIP/webli",
    "google/siglip-so400m-patch14-384": "ViT-SO400M-14-SigLIP-384/webli",
    "google/siglip2-base-patch16-224": "ViT-B-16-SigLIP2/webli",
    "google/siglip2-base-patch16-256": "ViT-B-16-SigLIP2-256/webli",
    "google/siglip2-large-patch16-256": "ViT-L-16-SigLIP2-256/webli",
    "google/siglip2-so400m-patch14-384": "ViT-SO400M-14-SigLIP2-378/webli",
    "facebook/PE-Core-B16-224": "PE-Core-B-16/meta",
    "facebook/PE-Core-L14-336": "PE-Core-L-14-336/meta",
    "facebook/PE-Core-G14-448": "PE-Core-bigG-14-448/meta",
    "facebook/metaclip-b16-fullcc2.5b": "ViT-B-16-quickgelu/metaclip_fullcc",
    "facebook/metaclip-2-worldwide-huge-quickgelu": "ViT-H-14-worldwide-quickgelu/metaclip2_worldwide",
    "EVA02-CLIP-B": "EVA02-B-16/merged2b_s8b_b131k",
    "BAAI/EVA02-CLIP-B": "EVA02-B-16/merged2b_s8b_b131k",
    "EVA02-CLIP-L": "EVA02-L-14/merged2b_s4b_b131k",
    "BAAI/EVA02-CLIP-L": "EVA02-L-14/merged2b_s4b_b131k",
    "jienengchen/ViTamin-L-224px": "ViTamin-L/datacomp1b",
}
_OPEN_CLIP_REPOSITORIES = (
    "imageomics/bioclip",
    "imageomics/bioclip-2",
    "imageomics/bioclip-2.5-vith14",
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
)
_TIMM = {
    "facebook/vit-mae-base": "vit_base_patch16_224.mae",
    "facebook/dino-vitb16": "vit_base_patch16_224.dino",
    "facebook/deit-base-patch16-224": "deit_base_patch16_224.fb_in1k",
    "facebook/dinov2-small": "vit_small_patch14_dinov2.lvd142m",
    "facebook/dinov2-base": "vit_base_patch14_dinov2.lvd142m",
    "facebook/dinov2-large": "vit_large_patch14_dinov2.lvd142m",
    "facebook/dinov2-giant": "vit_giant_patch14_dinov2.lvd142m",
    "facebook/dinov2-with-registers-base": "vit_base_patch14_reg4_dinov2.lvd142m",
    "facebook/dinov3-vits16-pretrain-lvd1689m": "vit_small_patch16_dinov3.lvd1689m",
    "facebook/dinov3-vitb16-pretrain-lvd1689m": "vit_base_patch16_dinov3.lvd1689m",
    "facebook/dinov3-vitl16-pretrain-lvd1689m": "vit_large_patch16_dinov3.lvd1689m",
    "facebook/dinov3-vith16plus-pretrain-lvd1689m": "vit_huge_plus_patch16_dinov3.lvd1689m",
    "facebook/dinov3-vitl16-pretrain-sat493m": "vit_large_patch16_dinov3.sat493m",
}
_TRANSFORMERS_REPOSITORIES = (
    "google/vit-base-patch16-224",
    "google/vit-base-patch16-224-in21k",
    "google/siglip2-so400m-patch16-naflex",
    "google/medsiglip-448",
    "OFA-Sys/chinese-clip-vit-base-patch16",
)
_REMARKS = {
    "google/siglip2-so400m-patch14-384": "378 pixels, not 384",
    "google/siglip2-so400m-patch16-naflex": "fixed at 256 pixels",
    **dict.fromkeys((name for name in _TIMM if "/dinov2-" in name), "518 pixels; as on the hub with --image-size 224"),
    **dict.fromkeys((name for name in _TIMM if "/dinov3-" in name), "256 pixels; as on the hub with --image-size 224"),
}


def list_aliases() -> list[Alias]:
    """Return all aliases, sorted by what is typed."""
    return sorted(_aliases().values(), key=lambda alias: alias.typed.lower())


def find_alias(name: str) -> Alias | None:
    """Return the alias that somebody typed, in any case."""
    return _aliases().get(name.casefold())


@cache
def _aliases() -> dict[str, Alias]:
    names = {
        **{typed: f"open_clip/{name}" for typed, name in _CLIP.items()},
        **{typed: f"open_clip/hf-hub:{typed}" for typed in _OPEN_CLIP_REPOSITORIES},
        **{typed: f"timm/{name}" for typed, name in _TIMM.items()},
        **{typed: f"hf/{typed}" for typed in _TRANSFORMERS_REPOSITORIES},
    }
    return {typed.casefold(): Alias(typed, name, _REMARKS.get(typed, "")) for typed, name in names.items()}
