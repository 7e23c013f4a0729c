"""The two small backbones that ship with the package: their architectures and the tokenizer of the CLIP."""

import json
from importlib.resources import files
from pathlib import Path

from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from timm.models.vision_transformer import VisionTransformer

IMAGE_SIZE = 64
CONTEXT = 32
VOCABULARY = 8192
MAE_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and deviation of the images that the masked autoencoder was trained on."""
_FOLDER = Path(str(files("selfprompt") / "weights"))
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
    """The embedded CLIP as ``clip.json`` has it, with weights drawn from the global random state."""
    config = json.loads((_FOLDER / "clip.json").read_text())
    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    return CLIP(embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=text, quick_gelu=False)


def build_mae() -> VisionTransformer:
    """The encoder of the embedded masked autoencoder, drawn alike, without a classifier."""
    return VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=8, embed_dim=128, depth=6, num_heads=4, mlp_ratio=4, num_classes=0
    )


def weights_file(name: str) -> Path:
    """Where the weights of the embedded model ``name`` ("clip", "mae") are."""
    return _FOLDER / f"{name}.safetensors"
