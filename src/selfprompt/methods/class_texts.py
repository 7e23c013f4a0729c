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
from selfprompt.models.loading.by_name import Backbone, Tokenizer
from selfprompt.models.text_encoding import encode_in_buckets

PLACEHOLDER = "x"
"""A word with tokens of its own in each vocabulary."""
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


@dataclass(frozen=True)
class PromptedText:
    """A text with prompts in it.

    Attributes:
        parts: From left to right: words, or a number of prompts.
    """

    parts: tuple[str | int, ...]

    def __str__(self) -> str:
        """Return the text with a capital X for each prompt, for messages."""
        shown = (part if isinstance(part, str) else " ".join(part * "X") for part in self.parts)
        return " ".join(filter(None, shown))


def tokenize(backbone: Backbone, texts: Sequence[str | PromptedText]) -> tuple[Tensor, Tensor]:
    """Return token ids of the texts, (T, context), and the positions of their prompts, (T, P).

    Prompts hold the places of a word that occurs nowhere in a text; whatever stands there is replaced.

    Raises:
        ValueError: If a text is longer than the context, where tokenizers truncate silently, or the tokenizer joins
            the words behind prompts with what is in front of them.
    """
    tower, tokenizer = backbone.text_side()
    (empty,) = tokenizer([""]).tolist()
    before, behind = empty[: tower.layout.start], empty[tower.layout.start :]
    rows, positions = [], []
    for text in texts:
        words, places = _encode_parts(tokenizer, text.parts if isinstance(text, PromptedText) else (text,))
        if len(before) + len(words) + 1 > len(empty):
            shown = str(text) if len(str(text)) <= 400 else f"{str(text)[:397]}..."
            raise ValueError(
                f"The text {shown!r} does not fit the model's {len(empty)} text tokens; "
                "shorten the name or description, or use fewer prompts."
            )
        rows.append([*before, *words, *behind][: len(empty)])
        positions.append([len(before) + place for place in places])
    return torch.tensor(rows), torch.tensor(positions, dtype=torch.long)


def _encode_parts(tokenizer: Tokenizer, parts: Sequence[str | int]) -> tuple[list[int], list[int]]:
    """Return the ids of a text without start and end, and the places of its prompts among them."""
    words: list[int] = []
    places: list[int] = []
    for part in parts:
        if isinstance(part, int):
            places += range(len(words), len(words) + part)
            words += part * tokenizer.encode(PLACEHOLDER)[-1:]
        else:
            words += _encode_behind_prompts(tokenizer, part) if words else tokenizer.encode(part)
    return words, places


def _encode_behind_prompts(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of words that do not open a text; some vocabularies have others for those that do.

    Raises:
        ValueError: If the tokenizer joins the words with those in front of them.
    """
    front, whole = tokenizer.encode(PLACEHOLDER), tokenizer.encode(f"{PLACEHOLDER} {text}")
    if not front or whole[: len(front)] != front:
        raise ValueError(
            f"Text prompts need a tokenizer that keeps the placeholder {PLACEHOLDER!r} apart from the words behind it, "
            f"as CLIP's does; this backbone's does not before {text!r}."
        )
    return whole[len(front) :]


def check_distinct_tokens(backbone: Backbone, names: Sequence[str]) -> None:
    """Raise ValueError if a class name has no tokens, or two names have the same tokens.

    Tokenizers ignore case and drop the words of some languages. Classes with the same tokens have the same logits, so
    one of them is never predicted.
    """
    nothing, *rows = tokenize(backbone, ["", *names])[0].tolist()
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


def add_prompts(names: Sequence[str], count: int, position: str = "end") -> list[PromptedText]:
    """Return class texts with ``count`` prompts, ``X X X X cat.``

    Args:
        names: Class names.
        count: Prompts per text.
        position: Position of the class name: "end" (after the prompts), "middle" (after half of them) or "front".
    """
    before = {"end": count, "middle": count // 2, "front": 0}[position]
    if before == count:
        return [PromptedText((count, f"{clean_name(name)}.")) for name in names]
    return [PromptedText((before, clean_name(name), count - before, ".")) for name in names]


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
    ids, _ = tokenize_for_tower(backbone, texts.texts)
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


def tokenize_for_tower(
    backbone: Backbone, texts: Sequence[str | PromptedText], min_length: int = 0
) -> tuple[Tensor, Tensor]:
    """Return token ids, (T, L), cut behind what has an influence, and the positions of prompts, (T, P).

    Args:
        backbone: Its tokenizer and text tower are used, and the tower's device.
        texts: The texts.
        min_length: Positions that a prompter reads, padding included; SEP reads those of as many words as prompts.

    Raises:
        ValueError: If a text or ``min_length`` exceeds the context.
    """
    text, _ = backbone.text_side()
    ids, positions = tokenize(backbone, texts)
    if min_length > ids.shape[1]:
        raise ValueError(
            f"The prompts read {min_length} text positions, the model has {ids.shape[1]}; use fewer prompts."
        )
    ids = ids[:, : int(text.layout.lengths(ids, min_length).max())]
    device = next(text.parameters()).device
    return ids.to(device), positions.to(device)


def embed_text(backbone: Backbone, text: str) -> Tensor:
    """Return the token embeddings of a text, without start, end and positions, (number of tokens, D).

    Raises:
        ValueError: If the text has no tokens, or more than the context holds.
    """
    tokenize(backbone, [text])  # refuses a long one
    words = backbone.text_side()[1].encode(text)
    if not words:
        raise ValueError(f"init_text must hold at least one word, got {text!r}.")
    return _embed_words(backbone, words).float().clone()


def embed_distinct_tokens(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Return embeddings of the distinct tokens of some texts, without start, end and positions, (M, D), by id."""
    encode = backbone.text_side()[1].encode
    return _embed_words(backbone, sorted({word for text in texts for word in encode(text)}))


@torch.no_grad()
def _embed_words(backbone: Backbone, words: Sequence[int]) -> Tensor:
    """Return the token embeddings of ids, (M, D)."""
    tower = backbone.text_side()[0]
    ids = torch.tensor(words, device=next(tower.parameters()).device)
    return tower.embed(ids[:, None]).x[:, 0]


def init_text_prompts(
    backbone: Backbone, names: Sequence[str], init_text: str, count: int, generator: torch.Generator
) -> tuple[Sequence[str | PromptedText], Tensor]:
    """Return class texts whose first ``count`` words are prompts, and the first prompts, (P, D).

    Args:
        backbone: Its tokenizer and text tower are used.
        names: What follows the prompts in each text.
        init_text: Beginning of the texts, such as "a photo of a". Its first ``count`` tokens initialise the prompts;
            the others stay in the text. If it is empty, prompts are drawn from N(0, 0.02^2).
        count: Number of prompts P.
        generator: Random generator.

    Raises:
        ValueError: If ``init_text`` has fewer than ``count`` tokens.
    """
    if not init_text:
        return add_prompts(names, count), 0.02 * torch.randn(count, backbone.text_side()[0].width, generator=generator)
    start = embed_text(backbone, init_text)
    if len(start) < count:
        raise ValueError(
            f"init_text {init_text!r} is {len(start)} tokens, but there are {count} text prompts; "
            "use more words, or none."
        )
    return fill_template(f"{init_text} {{}}.", names), start[:count]
