"""From class names to token ids: templates, placeholders, and how much of a padded text matters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from selfprompt.data.class_names import clean_name
from selfprompt.data.templates import PHOTO as PHOTO
from selfprompt.data.templates import TEMPLATES as TEMPLATES
from selfprompt.models.loading.by_name import Backbone

Tokenizer = Callable[[Sequence[str]], Tensor]

PLACEHOLDER = "X"


def check_template(template: str) -> None:
    """Raise ValueError unless the template has exactly one place ``{}`` for the class name."""
    if template.count("{}") != 1:
        raise ValueError(f"template must contain {{}} once, for the class name; got {template!r}.")


def fill_template(template: str, names: Sequence[str]) -> list[str]:
    """The template with each class name in it."""
    check_template(template)
    return [template.replace("{}", clean_name(name)) for name in names]


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Token ids of the texts, (C, T).

    Raises:
        ValueError: If a text is longer than the context; tokenizers cut such texts without a word.
    """
    ids = tokenizer(list(texts))
    encode = getattr(tokenizer, "encode", None)
    for text in texts:
        if encode is not None and len(encode(text)) + 2 > ids.shape[1]:  # SOS and EOT
            shown = text if len(text) <= 400 else f"{text[:397]}..."
            raise ValueError(
                f"The text {shown!r} does not fit the model's {ids.shape[1]} text tokens; "
                "shorten the name or use fewer prompts."
            )
    return ids


def check_distinct_tokens(backbone: Backbone, names: Sequence[str]) -> None:
    """Raise ValueError unless each class name has words, and no two are the same tokens to the text tower.

    Tokenizers put capitals in lower case, and know no words of some languages. Classes whose tokens are the same have
    the same scores, so that one of them is never predicted.
    """
    nothing, *rows = tokenize(backbone.text_side()[1], ["", *names]).tolist()
    first: dict[tuple[int, ...], str] = {tuple(nothing): ""}
    for name, row in zip(names, rows, strict=True):
        other = first.setdefault(tuple(row), name)
        if other != name and not other:
            raise ValueError(f"The class name {name!r} has no word that {backbone.name} reads: give it another name.")
        if other != name:
            raise ValueError(
                f"The class names {other!r} and {name!r} are the same tokens to {backbone.name}, so one of them would "
                "never be predicted: merge the two classes, or give one another name."
            )


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Number of tokens of each text without SOS and EOT, (C,)."""
    return tokenizer(list(texts)).argmax(dim=-1) - 1


def add_placeholders(names: Sequence[str], count: int, position: str = "end") -> list[str]:
    """Class texts with ``count`` placeholders, ``X X X X cat.``

    Args:
        names: Class names.
        count: Placeholders a text.
        position: Where the class name stands: "end" (behind all placeholders), "middle" (behind half of them),
            "front" (before them).
    """
    before = {"end": count, "middle": count // 2, "front": 0}[position]
    marks = [PLACEHOLDER] * count
    return [" ".join([*marks[:before], clean_name(name), *marks[before:]]) + "." for name in names]


def locate_placeholders(name_lengths: Tensor, count: int, position: str = "end") -> Tensor:
    """Positions of the placeholders of ``add_placeholders``, (C, count).

    Args:
        name_lengths: Tokens of each class name, (C,).
        count: Placeholders a text.
        position: "end", "middle" or "front".
    """
    before = {"end": count, "middle": count // 2, "front": 0}[position]
    steps = torch.arange(count)
    behind_name = (steps >= before).long()
    return 1 + steps + behind_name * name_lengths[:, None]


def check_placeholders(ids: Tensor, places: Tensor) -> None:
    """Raise ValueError unless one and the same token, the placeholder, stands at all the places, (C, count)."""
    found = ids.gather(1, places)
    if not bool((found == found[0, 0]).all()):
        raise ValueError(
            "Text prompts need a tokenizer that starts a text with one token of its own and keeps the "
            f"placeholders {PLACEHOLDER!r} apart, as CLIP's does; this backbone's does not."
        )


def find_ends(ids: Tensor) -> Tensor:
    """Position of EOT, which has the largest id, (C,)."""
    return ids.argmax(dim=-1)


def useful_length(ids: Tensor, min_length: int = 0) -> int:
    """How many positions of causal text can influence the result: T* of the SEP specification.

    Args:
        ids: Token ids, (C, T).
        min_length: Positions that a prompter reads, padding included; SEP reads 1 + 2P of them.

    Returns:
        max(EOT + 1, min_length), at most T. Everything behind is dropped without changing any output.
    """
    return min(max(int(find_ends(ids).max()) + 1, min_length), ids.shape[1])


@torch.no_grad()
def encode_template(backbone: Backbone, template: str, names: Sequence[str], *, normalize: bool = True) -> Tensor:
    """Text features of the template with each class name, (C, E), from the frozen text tower; unit vectors by default.

    Without ``normalize`` they have the norms that the tower gives them.
    """
    ids = tokenize_for_tower(backbone, fill_template(template, names))
    features = backbone.text_side()[0](ids)
    return features / features.norm(dim=-1, keepdim=True) if normalize else features


def tokenize_for_tower(backbone: Backbone, texts: Sequence[str], min_length: int = 0) -> Tensor:
    """Token ids on the text tower's device, cut to the length that matters where the tower is causal, (C, L).

    Args:
        texts: One text a class.
        min_length: Positions that a prompter reads (see :func:`useful_length`).

    Raises:
        ValueError: If a text, or the prompter, does not fit the context.
    """
    text, tokenizer = backbone.text_side()
    ids = tokenize(tokenizer, texts)
    if min_length > ids.shape[1]:
        raise ValueError(
            f"The prompts read {min_length} text positions, the model has {ids.shape[1]}; use fewer prompts."
        )
    if text.causal:
        ids = ids[:, : useful_length(ids, min_length)]
    return ids.to(next(text.parameters()).device)


@torch.no_grad()
def embed_text(backbone: Backbone, words: str) -> Tensor:
    """Token embeddings of some words, without positions, (number of tokens, D).

    Raises:
        ValueError: If there are no words.
    """
    text, tokenizer = backbone.text_side()
    ids = tokenize(tokenizer, [words])
    count = int(find_ends(ids)) - 1
    if count < 1:
        raise ValueError(f"init_text must hold at least one word, got {words!r}.")
    tokens = text.embed(ids[:, : count + 2].to(next(text.parameters()).device))
    return tokens.x[0, 1 : 1 + count].float().clone()


@torch.no_grad()
def embed_distinct_tokens(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Embeddings of the different tokens in some texts, without SOS, EOT and positions, (M, D), ordered by id."""
    text, tokenizer = backbone.text_side()
    ids = tokenize(tokenizer, texts)
    place = torch.arange(ids.shape[1])
    words = ids[(place > 0) & (place < find_ends(ids)[:, None])].unique()
    return text.embed(words[:, None].to(next(text.parameters()).device)).x[:, 0]


def init_text_prompts(
    backbone: Backbone, names: Sequence[str], words: str, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Class texts whose first tokens are prompts, at positions 1..count.

    Args:
        backbone: Its tokenizer and text tower are used.
        names: Class names.
        words: What the texts open with, "a photo of a" say. Their first ``count`` tokens are where the prompts start;
            those behind stay in the text. Empty for placeholders and a start from N(0, 0.02^2).
        count: Prompts P.
        generator: Of the random start.

    Returns:
        Token ids, (C, L), cut to the length that matters, and the prompts' start, (P, D).

    Raises:
        ValueError: If the words are fewer tokens than prompts, or the tokenizer is not of CLIP's kind.
    """
    ids = tokenize_for_tower(backbone, add_placeholders(names, count))
    check_placeholders(ids, 1 + torch.arange(count).expand(len(ids), -1).to(ids.device))
    if not words:
        return ids, 0.02 * torch.randn(count, backbone.text_side()[0].width, generator=generator)
    start = embed_text(backbone, words)
    if len(start) < count:
        raise ValueError(
            f"init_text {words!r} is {len(start)} tokens, but there are {count} text prompts; use more words, or none."
        )
    return tokenize_for_tower(backbone, fill_template(f"{words} {{}}.", names)), start[:count]
