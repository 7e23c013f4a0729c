"""Class texts: templates, placeholders for prompts, token ids, and the mean over the texts of a class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfprompt.data.class_description import ClassDescription
from selfprompt.data.class_names import clean_name
from selfprompt.data.templates import PHOTO as PHOTO
from selfprompt.data.templates import TEMPLATES as TEMPLATES
from selfprompt.data.templates import check_template as check_template
from selfprompt.models.loading.by_name import Backbone
from selfprompt.models.text_encoding import encode_in_buckets

Tokenizer = Callable[[Sequence[str]], Tensor]

PLACEHOLDER = "X"
TEXT_MEMORY = 2 * 10**9
"""Bytes of activations of class texts that are kept or held at once."""


@dataclass(frozen=True)
class ClassTexts:
    """The texts of all classes, class by class.

    Attributes:
        texts: T texts.
        counts: Number of texts of each class, at least 1.
    """

    texts: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[str]]) -> "ClassTexts":
        """Return the texts of classes from a list of texts for each class."""
        return cls(tuple(text for texts in rows for text in texts), tuple(map(len, rows)))

    def owners(self) -> Tensor | None:
        """Return the class of each text, (T,), int64; None if every class has one text."""
        if len(self.texts) == len(self.counts):
            return None
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))


def names_and_sentences(classes: Sequence[ClassDescription]) -> ClassTexts:
    """Return what follows learned prompts: the names and the descriptions of each class, without a final full stop."""
    return ClassTexts.of([[*one.names, *(text.rstrip(". ") for text in one.descriptions)] for one in classes])


def filled_templates(
    templates: Sequence[str],
    classes: Sequence[ClassDescription],
    *,
    adapt: Callable[[str], str] = str,
    sentence: str = "{}",
) -> ClassTexts:
    """Return the texts of classes: each name in each template, then the descriptions.

    Args:
        templates: For classes without templates of their own.
        classes: The classes.
        adapt: Changes a class's own template before it is filled in.
        sentence: Template of the descriptions.
    """
    rows = []
    for one in classes:
        used = [*map(adapt, one.templates)] or templates
        filled = [text for template in used for text in fill_template(template, one.names)]
        rows.append(filled + fill_template(sentence, one.descriptions))
    return ClassTexts.of(rows)


def mean_of_texts(features: Tensor, owners: Tensor | None, classes: int) -> Tensor:
    """Return the mean of the unit features of each class's texts, (..., T, E) to (..., C, E).

    Args:
        features: Features of the texts.
        owners: The class of each text, (T,); None if every class has one text, whose features are then returned as
            they are.
        classes: Number of classes C.
    """
    if owners is None:
        return features
    return _mean_rows(features / features.norm(dim=-1, keepdim=True), owners, classes)


def _mean_rows(rows: Tensor, owners: Tensor, classes: int) -> Tensor:
    """Return the mean of each class's rows, (..., T, E) to (..., C, E)."""
    sums = rows.new_zeros(*rows.shape[:-2], classes, rows.shape[-1]).index_add(-2, owners, rows)
    return sums / torch.bincount(owners, minlength=classes).to(sums)[:, None]


def fill_template(template: str, names: Sequence[str]) -> list[str]:
    """Return the template with each class name filled in."""
    check_template(template)
    return [template.replace("{}", clean_name(name)) for name in names]


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Return token ids of the texts, (C, T).

    Raises:
        ValueError: If a text is longer than the context; tokenizers truncate such texts silently.
    """
    ids = tokenizer(list(texts))
    encode = getattr(tokenizer, "encode", None)
    for text in texts:
        if encode is not None and len(encode(text)) + 2 > ids.shape[1]:  # SOS and EOT
            shown = text if len(text) <= 400 else f"{text[:397]}..."
            raise ValueError(
                f"The text {shown!r} does not fit the model's {ids.shape[1]} text tokens; "
                "shorten the name or description, or use fewer prompts."
            )
    return ids


def check_distinct_tokens(backbone: Backbone, names: Sequence[str]) -> None:
    """Raise ValueError if a class name has no tokens, or two names have the same tokens.

    Tokenizers ignore case and drop the words of some languages. Classes with the same tokens have the same logits, so
    one of them is never predicted.
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
    """Return the number of tokens of each text without SOS and EOT, (C,)."""
    return tokenizer(list(texts)).argmax(dim=-1) - 1


def add_placeholders(names: Sequence[str], count: int, position: str = "end") -> list[str]:
    """Return class texts with ``count`` placeholders, ``X X X X cat.``

    Args:
        names: Class names.
        count: Placeholders per text.
        position: Position of the class name: "end" (after the placeholders), "middle" (after half of them) or "front".
    """
    before = {"end": count, "middle": count // 2, "front": 0}[position]
    marks = [PLACEHOLDER] * count
    return [" ".join([*marks[:before], clean_name(name), *marks[before:]]) + "." for name in names]


def locate_placeholders(name_lengths: Tensor, count: int, position: str = "end") -> Tensor:
    """Return the token positions of the placeholders of ``add_placeholders``, (C, count).

    Args:
        name_lengths: Number of tokens of each class name, (C,).
        count: Placeholders per text.
        position: Position of the class name: "end", "middle" or "front".
    """
    before = {"end": count, "middle": count // 2, "front": 0}[position]
    steps = torch.arange(count)
    after_name = (steps >= before).long()
    return 1 + steps + after_name * name_lengths[:, None]


def check_placeholders(ids: Tensor, positions: Tensor) -> None:
    """Raise ValueError unless all positions, (C, count), of the texts hold the same token, the placeholder."""
    tokens = ids.gather(1, positions)
    if not bool((tokens == tokens[0, 0]).all()):
        raise ValueError(
            "Text prompts need a tokenizer that starts a text with one token of its own and keeps the "
            f"placeholders {PLACEHOLDER!r} apart, as CLIP's does; this backbone's does not."
        )


def find_ends(ids: Tensor) -> Tensor:
    """Return the position of EOT, the token with the largest id, (C,)."""
    return ids.argmax(dim=-1)


def useful_length(ids: Tensor, min_length: int = 0) -> int:
    """Return how many positions of causal texts affect the result; later ones can be cut off.

    Args:
        ids: Token ids, (C, T).
        min_length: Positions that a prompter reads, padding included; SEP reads 1 + 2P.

    Returns:
        max(EOT + 1, min_length), at most T.
    """
    return min(max(int(find_ends(ids).max()) + 1, min_length), ids.shape[1])


@torch.no_grad()
def encode_template(
    backbone: Backbone,
    template: str | Sequence[str],
    classes: Sequence[str | ClassDescription],
    *,
    normalize: bool = True,
    pooling: Literal["native", "unprojected"] = "native",
) -> Tensor:
    """Encode the texts of classes to features, (C, E), with the frozen text tower.

    Args:
        backbone: Its tokenizer and text tower are used.
        template: One template, or several, for the classes without templates of their own.
        classes: Names or descriptions of the classes.
        normalize: Whether the features are unit vectors; else they have the norms that the tower gives them, and of a
            class with several texts the mean of these.
        pooling: "unprojected" leaves out the last projection: (C, U).

    Returns:
        Of a class with several texts, the normalised mean of the unit features of its texts.
    """
    described = [ClassDescription((one,)) if isinstance(one, str) else one for one in classes]
    texts = filled_templates([template] if isinstance(template, str) else template, described)
    tower, owners = backbone.text_side()[0], texts.owners()
    ids = tokenize_for_tower(backbone, texts.texts)
    if owners is None:
        features: Tensor = tower(ids, pooling=pooling)
        return features / features.norm(dim=-1, keepdim=True) if normalize else features

    def encode(_: Tensor, bucket: Tensor) -> Tensor:
        return tower(bucket, pooling=pooling)

    owners = owners.to(ids.device)
    features = encode_in_buckets(tower, ids, encode, memory=TEXT_MEMORY)
    means = mean_of_texts(features, owners, len(described))
    lengths = 1 if normalize else _mean_rows(features.norm(dim=-1, keepdim=True), owners, len(described))
    result: Tensor = lengths * means / means.norm(dim=-1, keepdim=True)
    return result


def tokenize_for_tower(backbone: Backbone, texts: Sequence[str], min_length: int = 0) -> Tensor:
    """Return token ids on the text tower's device, (C, L), cut to ``useful_length`` if the tower is causal.

    Args:
        backbone: Its tokenizer and text tower are used.
        texts: One text per class.
        min_length: Positions that a prompter reads.

    Raises:
        ValueError: If a text or ``min_length`` exceeds the context.
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
def embed_text(backbone: Backbone, text: str) -> Tensor:
    """Return the token embeddings of a text, without SOS, EOT and positions, (number of tokens, D).

    Raises:
        ValueError: If the text has no tokens.
    """
    tower, tokenizer = backbone.text_side()
    ids = tokenize(tokenizer, [text])
    count = int(find_ends(ids)) - 1
    if count < 1:
        raise ValueError(f"init_text must hold at least one word, got {text!r}.")
    tokens = tower.embed(ids[:, : count + 2].to(next(tower.parameters()).device))
    return tokens.x[0, 1 : 1 + count].float().clone()


@torch.no_grad()
def embed_distinct_tokens(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Return embeddings of the distinct tokens of some texts, without SOS, EOT and positions, (M, D), ordered by id."""
    text, tokenizer = backbone.text_side()
    ids = tokenize(tokenizer, texts)
    position = torch.arange(ids.shape[1])
    tokens = ids[(position > 0) & (position < find_ends(ids)[:, None])].unique()
    return text.embed(tokens[:, None].to(next(text.parameters()).device)).x[:, 0]


def init_text_prompts(
    backbone: Backbone, names: Sequence[str], init_text: str, count: int, generator: torch.Generator
) -> tuple[list[str], Tensor]:
    """Return class texts whose first tokens, at positions 1..count, are prompts, and the first prompts, (P, D).

    Args:
        backbone: Its tokenizer and text tower are used.
        names: What follows the prompts in each text.
        init_text: Beginning of the texts, such as "a photo of a". Its first ``count`` tokens initialise the prompts;
            the others stay in the text. If it is empty, prompts are drawn from N(0, 0.02^2).
        count: Number of prompts P.
        generator: Random generator.

    Raises:
        ValueError: If ``init_text`` has fewer than ``count`` tokens, or the tokenizer does not work like CLIP's.
    """
    texts = add_placeholders(names, count)
    ids = tokenize_for_tower(backbone, texts)
    check_placeholders(ids, 1 + torch.arange(count).expand(len(ids), -1).to(ids.device))
    if not init_text:
        return texts, 0.02 * torch.randn(count, backbone.text_side()[0].width, generator=generator)
    start = embed_text(backbone, init_text)
    if len(start) < count:
        raise ValueError(
            f"init_text {init_text!r} is {len(start)} tokens, but there are {count} text prompts; "
            "use more words, or none."
        )
    return fill_template(f"{init_text} {{}}.", names), start[:count]
