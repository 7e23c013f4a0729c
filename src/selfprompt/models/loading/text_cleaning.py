"""How texts are cleaned before they become tokens: named rules, because a tokenizer's vocabulary does not tell."""

import html
import string

import ftfy

_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def collapse_spaces(text: str) -> str:
    """Repair broken Unicode, replace HTML entities, and leave single spaces."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def lower(text: str) -> str:
    """Collapse spaces in lower case: CLIP's rule."""
    return collapse_spaces(text).lower()


def canonicalize(text: str) -> str:
    """Drop ASCII punctuation and lower the case; underscores become spaces: SigLIP's rule."""
    return " ".join(collapse_spaces(text).translate(_PUNCTUATION).lower().split())


CLEANING = {"whitespace": collapse_spaces, "lower": lower, "canonicalize": canonicalize}
"""The rules by open_clip's names."""
