"""Text towers of Hugging Face's kinds in CLIPs of open_clip: BERT, RoBERTa (also XLM-R), M2M100 (NLLB) and mT5.

The modules are our own, under the names of the published files, so that these load strictly and without transformers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.models.block import BlockParts, Map, Weights, check_names, identity, layer_weights, with_weights
from selfprompt.models.text_layout import TextFormat, TextLayout
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import TextTower

Kind = Literal["bert", "roberta", "m2m_100", "mt5"]
Pooler = Literal["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"]

ACTIVATIONS: Mapping[str, Map] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
"""Activations by transformers' names."""
FURTHEST = 128
"""Distance from which mT5 does not tell distances apart."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and options of an encoder.

    Attributes:
        kind: Its architecture; XLM-R is a "roberta", NLLB an "m2m_100".
        vocabulary: Number of token ids.
        width: Channels per token, D.
        depth: Number of blocks.
        heads: Heads per block.
        inner: Channels inside the attention, A.
        hidden: Channels inside the MLP.
        positions: Rows of the table of positions of BERT and RoBERTa; of mT5, number of kinds of distances.
        types: Rows of the table of token types of BERT and RoBERTa.
        eps: Epsilon of the norms.
        activation: A key of ``ACTIVATIONS``.
        pad: Id of the padding.
    """

    kind: Kind
    vocabulary: int
    width: int
    depth: int
    heads: int
    inner: int
    hidden: int
    positions: int
    types: int
    eps: float
    activation: str
    pad: int


@dataclass(frozen=True)
class _Names:
    """Where the layers of an architecture are in its files, and how its blocks differ.

    Attributes:
        words: The token embedding.
        blocks: The blocks.
        layers: The layers of a block, by the names of ``Weights``; "up" is multiplied by the activated "gate".
        norm: The norm behind the last block; empty if there is none.
        post_norm: Whether the norms follow the sums of a block.
    """

    words: str
    blocks: str
    layers: Mapping[str, str]
    norm: str = ""
    post_norm: bool = False


_BERT = _Names(
    "embeddings.word_embeddings",
    "encoder.layer",
    {
        "norm1": "attention.output.LayerNorm",
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "out": "attention.output.dense",
        "norm2": "output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
    },
    post_norm=True,
)
_M2M = _Names(
    "embed_tokens",
    "layers",
    {
        "norm1": "self_attn_layer_norm",
        **{part: f"self_attn.{part}_proj" for part in "qkv"},
        "out": "self_attn.out_proj",
        "norm2": "final_layer_norm",
        "up": "fc1",
        "down": "fc2",
    },
    norm="layer_norm",
)
_T5 = _Names(
    "embed_tokens",
    "block",
    {
        "norm1": "layer.0.layer_norm",
        **{part: f"layer.0.SelfAttention.{part}" for part in "qkv"},
        "out": "layer.0.SelfAttention.o",
        "norm2": "layer.1.layer_norm",
        "gate": "layer.1.DenseReluDense.wi_0",
        "up": "layer.1.DenseReluDense.wi_1",
        "down": "layer.1.DenseReluDense.wo",
    },
    norm="final_layer_norm",
)
_NAMES: Mapping[str, _Names] = {"bert": _BERT, "roberta": _BERT, "m2m_100": _M2M, "mt5": _T5}
_DISTANCES = "block.0.layer.0.SelfAttention.relative_attention_bias"


class HfTextModel(nn.Module):
    """The weights of a text side, under the names of open_clip's ``HFTextEncoder``.

    Args:
        config: The encoder.
        features: Size of the features, E.
        context: Greatest number of tokens.
        pooler: How tokens become one vector: the mean of all but padding, or the first one, which in BERT and RoBERTa
            goes through a layer and tanh for "cls_pooler".
        proj: The projection: "linear", "mlp", or "" for none.

    Raises:
        ValueError: If there is no projection to another size, or the context is longer than the positions.
    """

    def __init__(self, config: EncoderConfig, features: int, context: int, pooler: Pooler, proj: str) -> None:
        super().__init__()
        self.config, self.context, self.pooler = config, context, pooler
        reserved = config.pad + 1 if config.kind == "roberta" else 0
        if _NAMES[config.kind] is _BERT and context + reserved > config.positions:
            raise ValueError(
                f"The context must be at most {config.positions - reserved} tokens, for which the text encoder has "
                f"positions, got {context}."
            )
        layers = _layers(config)
        if pooler == "cls_pooler" and _NAMES[config.kind] is _BERT:
            layers["pooler.dense"] = nn.Linear(config.width, config.width)
        self.transformer = _tree(layers)
        self.proj = _projection(config.width, features, proj)


class HfText(TextTower):
    """A text side of one of these kinds as a tower; no token attends to padding.

    Prompts replace the embeddings of words. Then ``enter`` adds what the architecture adds to them, such as positions.

    Args:
        model: The weights, frozen in place.
        text_format: What the tokenizer puts around the words of a text; None if there is no tokenizer.

    Raises:
        ValueError: If the tokenizer pads with another token than that which the encoder masks.
    """

    def __init__(self, model: HfTextModel, text_format: TextFormat | None) -> None:
        super().__init__()
        config = model.config
        if text_format is not None and text_format.pad != config.pad:
            raise ValueError(
                f"The tokenizer pads texts with the token {text_format.pad}, and the text encoder masks the token "
                f"{config.pad}: they do not belong together; check the tokenizer.json of the model."
            )
        self.config, self.text_format, self.pooler = config, text_format, model.pooler
        self.names = _NAMES[config.kind]
        self.transformer, self.proj = model.transformer, model.proj
        self.depth, self.width = config.depth, config.width
        self.context, self.causal = model.context, False
        reads: Literal["start", "mean"] = "mean" if model.pooler == "mean_pooler" else "start"
        start, end = (1, None) if text_format is None else (len(text_format.start), text_format.end)
        self.layout = TextLayout(start, end, config.pad, "mask", reads)
        self.freeze()
        self.features = self.proj(self._part(self.names.words).weight.new_zeros(1, self.width)).shape[-1]

    def embed(self, inputs: Tensor) -> Tokens:
        """Embed tokens, without positions: (C, L) -> (C, L, D).

        Raises:
            ValueError: If the ids are longer than the context.
        """
        if inputs.shape[1] > self.context:
            raise ValueError(f"Texts must have at most {self.context} tokens, got {inputs.shape[1]}.")
        x = self._part(self.names.words)(inputs)
        if self.config.kind == "m2m_100":
            x = x * math.sqrt(self.width)
        return Tokens(x, self.layout.start, padding=inputs == self.config.pad)

    def enter(self, tokens: Tokens) -> Tokens:
        """Add positions and the first token type, and apply BERT's norm; mT5 has none of these."""
        if self.config.kind == "mt5":
            return tokens
        positions = self._positions(tokens)
        if self.config.kind == "m2m_100":
            table = sinusoids(self.config.pad + 1 + tokens.x.shape[1], self.width, self.config.pad)
            return tokens._replace(x=tokens.x + table.to(tokens.x)[positions])
        first_type = self._part("embeddings.token_type_embeddings").weight[0]
        x = tokens.x + self._part("embeddings.position_embeddings")(positions) + first_type
        return tokens._replace(x=self._part("embeddings.LayerNorm")(x))

    def _positions(self, tokens: Tokens) -> Tensor:
        """Return the rows of the table of positions, (C, L); but for BERT, positions count from behind the padding."""
        assert tokens.padding is not None
        if self.config.kind == "bert":
            return torch.arange(tokens.x.shape[1], device=tokens.x.device).expand(tokens.x.shape[:2])
        read = (~tokens.padding).long()
        return read.cumsum(dim=1) * read + self.config.pad

    def attention_mask(self, before: int, length: int) -> Tensor | None:
        """Return mT5's bias, which depends on the distance, (heads, length, before + length)."""
        if self.config.kind != "mt5":
            return None
        table: Tensor = self._part(_DISTANCES).weight
        buckets = distance_buckets(before + length, len(table)).to(table.device)
        return table[buckets[before:]].movedim(-1, 0)

    def block_parts(self, index: int, weights: Weights | None = None) -> BlockParts:
        """Return the parts of a block."""
        own, config = self.block_weights(index), self.config
        if weights is not None:
            check_names(weights, own)
        own |= weights or {}
        layers = {name: with_weights(layer, name, weights) for name, layer in self._block(index).items()}
        head = config.inner // config.heads
        scale: Map = (lambda q: q * math.sqrt(head)) if config.kind == "mt5" else identity  # mT5 does not divide by it
        activation, norms = ACTIVATIONS[config.activation], (layers["norm1"], layers["norm2"])

        def out_proj(y: Tensor, _: Tensor) -> Tensor:
            return layers["out"](y)

        def mlp(x: Tensor) -> Tensor:
            x = x if self.names.post_norm else norms[1](x)
            up = layers["up"](x)
            return layers["down"](activation(layers["gate"](x)) * up if "gate" in layers else activation(up))

        first, after = (identity, norms) if self.names.post_norm else (norms[0], (identity, identity))
        projection = own["qkv.weight"], own.get("qkv.bias")
        return BlockParts(first, *projection, config.heads, scale, identity, out_proj, mlp, None, *after)

    def block_weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights of a block that can be replaced; mT5's norms cannot."""
        layers = self._block(index)
        stacked = layer_weights({part: layers.pop(part) for part in "qkv"})
        qkv = {
            f"qkv.{kind}": [stacked[f"{part}.{kind}"] for part in "qkv" if f"{part}.{kind}" in stacked]
            for kind in ("weight", "bias")
        }
        return {name: torch.cat(parts) for name, parts in qkv.items() if parts} | layer_weights(layers)

    def pool(self, tokens: Tokens, inputs: Tensor, pooling: str = "native") -> Tensor:
        """Apply final norm, pooler and projection, (C, E); "unprojected" has no projection.

        Raises:
            ValueError: For any other pooling.
        """
        if pooling not in ("native", "unprojected"):
            raise ValueError(f"Texts have only the poolings 'native' and 'unprojected', got {pooling!r}.")
        pooled = self._pool_mean(tokens) if self.pooler == "mean_pooler" else self._norm(tokens.x[:, 0])
        if self.pooler == "cls_pooler" and self.names is _BERT:
            pooled = self._part("pooler.dense")(pooled).tanh()
        return cast(Tensor, self.proj(pooled)) if pooling == "native" else pooled

    def _pool_mean(self, tokens: Tokens) -> Tensor:
        assert tokens.padding is not None
        read = (~tokens.padding)[..., None].to(tokens.x.dtype)
        return (self._norm(tokens.x) * read).sum(dim=1) / read.sum(dim=1)

    def _norm(self, x: Tensor) -> Tensor:
        return cast(Tensor, self._part(self.names.norm)(x)) if self.names.norm else x

    def projection(self) -> Tensor:
        """Return the projection, (U, E)."""
        return self.proj.weight.t() if isinstance(self.proj, nn.Linear) else super().projection()

    def facts(self) -> dict[str, object]:
        """Return the architecture as JSON values."""
        return {
            "family": "hugging_face",
            **asdict(self.config),
            "context": self.context,
            "pool": self.pooler,
            "tokenizer": None if self.text_format is None else asdict(self.text_format),
        }

    def _part(self, name: str) -> Any:
        """Return a module by its name in files."""
        return self.transformer.get_submodule(name)

    def _block(self, index: int) -> dict[str, nn.Module]:
        """Return the layers of a block."""
        block = self._part(f"{self.names.blocks}.{index}")
        return {name: block.get_submodule(path) for name, path in self.names.layers.items()}


def sinusoids(count: int, width: int, pad: int) -> Tensor:
    """Return M2M100's table of positions, sines, then cosines, (count, D); the row of the padding is zero."""
    half = width // 2
    speeds = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    angles = torch.arange(count)[:, None] * speeds
    table = F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))
    table[pad] = 0
    return table


def distance_buckets(length: int, count: int) -> Tensor:
    """Return the kind of distance between two positions in mT5, (length, length), from 0 to ``count - 1``.

    Half of the kinds are for positions behind. A quarter of all are for single distances; the others cover
    logarithmically growing ranges of distances, up to ``FURTHEST``.
    """
    position = torch.arange(length)
    distance = position - position[:, None]
    half = count // 2
    single, steps = half // 2, distance.abs()
    growth = torch.log(steps.clamp(min=1).float() / single) / math.log(FURTHEST / single) * (half - single)
    far = (single + growth.long()).clamp(max=half - 1)
    return half * (distance > 0) + torch.where(steps < single, steps, far)


def _layers(config: EncoderConfig) -> dict[str, nn.Module]:
    """Return all layers of an encoder by their names in files."""
    names, width = _NAMES[config.kind], config.width
    norm: Callable[[], nn.Module] = partial(nn.LayerNorm, width, config.eps)
    if names is _T5:
        norm = partial(nn.RMSNorm, width, config.eps)
    linear = partial(nn.Linear, bias=names is not _T5)
    layers: dict[str, nn.Module] = {names.words: nn.Embedding(config.vocabulary, width)}
    if names is _BERT:
        layers["embeddings.position_embeddings"] = nn.Embedding(config.positions, width)
        layers["embeddings.token_type_embeddings"] = nn.Embedding(config.types, width)
        layers["embeddings.LayerNorm"] = norm()
    if names is _T5:
        layers[_DISTANCES] = nn.Embedding(config.positions, config.heads)
    if names.norm:
        layers[names.norm] = norm()
    make: dict[str, Callable[[], nn.Module]] = {
        **dict.fromkeys(("norm1", "norm2"), norm),
        **dict.fromkeys("qkv", partial(linear, width, config.inner)),
        "out": partial(linear, config.inner, width),
        **dict.fromkeys(("up", "gate"), partial(linear, width, config.hidden)),
        "down": partial(linear, config.hidden, width),
    }
    for index in range(config.depth):
        layers |= {f"{names.blocks}.{index}.{path}": make[name]() for name, path in names.layers.items()}
    return layers


def _tree(layers: Mapping[str, nn.Module]) -> nn.Module:
    """Return a module with these modules inside, whose names are paths."""
    root = nn.Module()
    for path, layer in layers.items():
        parent = root
        *parents, last = path.split(".")
        for name in parents:
            if name not in parent._modules:
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        parent.add_module(last, layer)
    return root


def _projection(width: int, features: int, kind: str) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, features, bias=False)
    if kind == "mlp":
        hidden = (width + features) // 2
        return nn.Sequential(nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, features, bias=False))
    if width != features:
        raise ValueError(f"Texts need a projection from {width} channels to {features} features: 'linear' or 'mlp'.")
    return nn.Identity()
