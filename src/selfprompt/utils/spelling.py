"""Normalises how labels and names are written."""

import unicodedata

INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u180e\u200b\u2060\ufeff"))  # soft hyphen, zero-width spaces and joiners
MARKS = "\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # meaningless at an end


def normalize_text(text: str) -> str:
    """Remove invisible characters and surrounding white space, and compose accents (NFC)."""
    text, before = unicodedata.normalize("NFC", text).translate(INVISIBLE), ""
    while text != before:
        before, text = text, text.strip().strip(MARKS)
    return text


def clean_name(text: str) -> str:
    """Replace underscores by spaces, collapse white space, compose accents and remove invisible characters."""
    return " ".join(normalize_text(text).replace("_", " ").split())
