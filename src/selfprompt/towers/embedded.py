"""The two small backbones that ship with the package: their architectures and the tokenizer of the CLIP."""

from importlib.resources import files
from pathlib import Path

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from timm.models.vision_transformer import VisionTransformer
from torch import nn

IMAGE_SIZE = 64
CONTEXT = 32
VOCABULARY = 8192
_SPECIAL = ("<start_of_text>", "<end_of_text>")
_MERGES = VOCABULARY - 2 * 256 - len(_SPECIAL)


class EmbeddedTokenizer(SimpleTokenizer):
    """open_clip's tokenizer cut to its first 7,678 merges: 8,192 ids, 32 tokens a text.

    A call takes texts and returns ids, (N, 32), int64, filled up with 0; longer texts are cut, their last
    token is the end of text (8191, the greatest id, so CLIP's argmax pooling finds it).
    """

    def __init__(self) -> None:
        super().__init__(context_length=CONTEXT)
        ranks: dict[tuple[str, str], int] = vars(self)["bpe_ranks"]
        merges = sorted(ranks, key=ranks.__getitem__)[:_MERGES]
        letters = list(bytes_to_unicode().values())
        ends = [letter + "</w>" for letter in letters]
        words = [*letters, *ends, *("".join(pair) for pair in merges), *_SPECIAL]
        self.bpe_ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.encoder = {word: number for number, word in enumerate(words)}
        self.decoder = {number: word for word, number in self.encoder.items()}
        self.vocab_size = len(self.encoder)
        self.all_special_ids = [self.encoder[word] for word in _SPECIAL]
        self.sot_token_id, self.eot_token_id = self.all_special_ids


def build_clip() -> CLIP:
    """The embedded CLIP, with weights drawn from the global random state."""
    vision = CLIPVisionCfg(layers=6, width=192, head_width=64, patch_size=8, image_size=IMAGE_SIZE)
    text = CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCABULARY, width=128, heads=2, layers=4)
    return CLIP(embed_dim=128, vision_cfg=vision, text_cfg=text, quick_gelu=False)


def build_mae() -> VisionTransformer:
    """The encoder of the embedded masked autoencoder, drawn alike, without a classifier."""
    return VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=8, embed_dim=192, depth=6, num_heads=3, mlp_ratio=4, num_classes=0
    )


@torch.no_grad()
def draw_informative(model: nn.Module, generator: torch.Generator) -> None:
    """Random weights whose features tell images apart, for as long as no pretrained ones ship.

    The libraries' own starts are made for training: their blocks hardly do anything yet. With matrices drawn from
    N(0, 1.44 / inputs) and positions from N(0, 1) they mix place and content, and a linear probe has something to read.
    """
    for name, parameter in model.named_parameters():
        if "pos" in name.rpartition(".")[2]:
            parameter.normal_(generator=generator)
        elif name.endswith(("cls_token", "class_embedding")):
            parameter.normal_(std=0.5, generator=generator)
        elif name.endswith("token_embedding.weight"):
            parameter.normal_(generator=generator)
        elif parameter.ndim >= 2:
            inputs = parameter.shape[0] if name.endswith("proj") else parameter[0].numel()
            parameter.normal_(std=1.2 * inputs**-0.5, generator=generator)


def weights_file(name: str) -> Path:
    """Where the weights of the embedded model ``name`` ("clip", "mae") are shipped; may not exist."""
    return Path(str(files("selfprompt") / "weights" / f"{name}.safetensors"))
