"""The tokenizer that an open_clip configuration asks for: CLIP's own, or a tokenizer.json."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import open_clip

from selfprompt.models.backbone import Tokenizer
from selfprompt.models.loading.json_tokenizer import Kind, json_tokenizer, require_tokenizers
from selfprompt.models.loading.text_cleaning import CLEANING
from selfprompt.models.text_layout import TextFormat

CONTEXT = 77
"""open_clip's default."""


def clip_tokenizer(
    name: str, text: Mapping[str, Any], source: str, options: Mapping[str, Any], find: Callable[[], Path]
) -> Tokenizer:
    """Build a tokenizer as open_clip would, without running code of others.

    Args:
        name: Name of the backbone, for messages.
        text: Configuration of the text side.
        source: Hugging Face's name of the tokenizer; empty for CLIP's own.
        options: ``clean``, ``strip_sep_token`` and ``language``, where given.
        find: Finds or downloads the tokenizer.json of ``source``; called once everything else is known to be there.

    Raises:
        ImportError: If the extra `tokenizers` is needed and not installed.
        ValueError: If the tokenizer does not belong to the text side.
    """
    context = text.get("context_length", CONTEXT)
    if not source:
        return _own_tokenizer(name, text, context, options.get("clean", "lower"))
    require_tokenizers(f"the class names of {name}")
    clean = options.get("clean", "whitespace")
    siglip = clean == "canonicalize" and text.get("pool_type") == "last"
    kind: Kind = "clipa" if options.get("strip_sep_token") else "siglip" if siglip else "plain"
    path = find()
    tokenizer = json_tokenizer(path, context, clean=clean, kind=kind, language=options.get("language", ""))
    largest = text.get("vocab_size")
    if largest is not None and tokenizer.vocabulary > largest:
        raise ValueError(
            f"{path} must have at most the {largest} ids of {name}, got {tokenizer.vocabulary}; "
            "it belongs to another model."
        )
    return tokenizer


def _own_tokenizer(name: str, text: Mapping[str, Any], context: int, clean: str) -> Tokenizer:
    """Return CLIP's tokenizer; its format is that of CLIP if it cleans texts like CLIP."""
    if clean not in CLEANING:
        raise ValueError(f"The cleaning of texts of {name} must be one of {', '.join(CLEANING)}, got {clean!r}.")
    tokenizer: Any = open_clip.SimpleTokenizer(context_length=context, clean=clean)
    if text.get("vocab_size", tokenizer.vocab_size) < tokenizer.vocab_size:
        raise ValueError(
            f"The vocabulary of {name} must be at least CLIP's {tokenizer.vocab_size} tokens, got {text['vocab_size']}."
        )
    if clean != "lower":
        tokenizer.text_format = TextFormat((tokenizer.sot_token_id,), tokenizer.eot_token_id, 0, clean)
    return cast(Tokenizer, tokenizer)
