"""The error for a name that loads nothing, which tells what to type instead."""

import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache

from selfprompt.models.loading.aliases import list_aliases
from selfprompt.models.loading.names import EMBEDDED, FORMS, LOCAL, REPOSITORY, shown

FAMILIES = ("embedded", "timm", "open_clip", "hf", "file")

_LINK = re.compile(r"(https?://)?(www\.)?(huggingface\.co|hf\.co)/|(hf|hf[-_]hub|huggingface):/*", re.IGNORECASE)
_INSIDE_LINK = re.compile(r"/(tree|blob|resolve)/.*|/+$|[?#].*")
_LONGEST = 200  # characters of a name that are compared: comparing takes quadratic time
_MOST = 4  # suggestions in a message


def unknown(name: str, known: Sequence[str] = ()) -> ValueError:
    """Return the error for an unknown name, with what to type instead.

    Args:
        name: As it was typed.
        known: Names of which one was probably meant, such as the tags of a model; all names if it is empty.
    """
    return ValueError(f"Unknown backbone {shown(name)}. {_advice(name[:_LONGEST], known)}")


def _advice(name: str, known: Sequence[str]) -> str:
    typed = _bare(name)
    elsewhere = _elsewhere(name, typed)
    near = _spelled(typed) or ([] if elsewhere else _nearest(typed, known or _names()) or known)
    if near:
        *others, last = near[:_MOST]
        return f"Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    return elsewhere or _containing(typed) or f"Forms: {', '.join(form for form, _ in FORMS)}."


def _bare(name: str) -> str:
    """Return a name without quotes, the address of the hub around it, and a mistake in its family."""
    typed = _INSIDE_LINK.sub("", _LINK.sub("", name.strip(" \t\r\n'\"`"), count=1))
    family, slash, rest = typed.partition("/")
    if not slash or family in FAMILIES:
        return typed
    similar = get_close_matches(family, FAMILIES, n=1, cutoff=0.8)
    return f"{similar[0]}/{rest}" if similar else typed


def _elsewhere(name: str, typed: str) -> str:
    """Return how to load a file, folder or repository whose name lacks its form; empty if it is none."""
    if typed.partition("/")[0] in FAMILIES:
        return ""
    if os.path.exists(name):
        return f"A local file or folder is loaded with {shown(f'file/{name}')}."
    if typed.startswith(LOCAL):
        return (
            f"A folder is loaded with {shown(f'open_clip/{typed}')} or {shown(f'timm/{typed}')}, or with file/FOLDER."
        )
    if REPOSITORY.fullmatch(typed):
        known = get_close_matches(typed, [alias.typed for alias in list_aliases()], n=1, cutoff=0.85)
        return (f"Did you mean {known[0]}? " if known else "") + (
            f"A repository of the Hugging Face hub is loaded with hf/{typed} (in the layout of transformers), "
            f"open_clip/hf-hub:{typed} or timm/hf-hub:{typed}."
        )
    return ""


def _containing(typed: str) -> str:
    """Return how to list the names that contain the longest word possible."""
    family, _, rest = typed.partition("/")
    words = re.findall(r"[a-z0-9]{3,}", (rest if family in FAMILIES else typed).lower())
    words.sort(key=len, reverse=True)
    found = next((word for word in words if any(word in name.lower() for name in _names())), "")
    return f"List the names that contain {found!r}: selfprompt backbones {found}." if found else ""


def _nearest(typed: str, known: Sequence[str]) -> list[str]:
    """Return the names that are spelled most similarly, of the same family if it is right."""
    family, _, rest = typed.partition("/")
    if family not in FAMILIES:
        return get_close_matches(typed, known, n=_MOST, cutoff=0.6)
    by_rest = {name.removeprefix(f"{family}/"): name for name in known if name.startswith(f"{family}/")}
    return [by_rest[match] for match in get_close_matches(rest, by_rest, n=_MOST, cutoff=0.6)]


def _spelled(typed: str) -> list[str]:
    """Return the names that differ only in case, separators, order of words, or a missing family or tag."""
    found = dict.fromkeys(name for key in _keys(typed) for name in _by_key().get(key, ()))
    return sorted(found, key=lambda name: name.partition("/")[0] not in FAMILIES)  # aliases last


def _keys(name: str) -> Iterator[str]:
    """Yield what names have in common that somebody may take for each other."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    for start in (["timm"], ["open", "clip"], ["openclip"], ["clip"]):
        if words[: len(start)] == start:
            words = words[len(start) :]
    if words:
        yield "".join(words)
        yield " ".join(sorted(words))


@cache
def _by_key() -> dict[str, tuple[str, ...]]:
    import open_clip
    import timm

    table: dict[str, list[str]] = {}
    for name in (*_names(), *(f"timm/{name}/random" for name in timm.list_models())):
        for key in _keys(name):
            table.setdefault(key, []).append(name)
    for model in open_clip.list_models():
        for tag in open_clip.list_pretrained_tags_by_model(model):
            repository = open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").strip("/")
            for key in {*_keys(model), *_keys(repository)}:
                table.setdefault(key, []).append(f"open_clip/{model}/{tag}")
    return {key: tuple(names) for key, names in table.items()}


@cache
def _names() -> list[str]:
    """Return every name that a library lists, and the aliases."""
    import open_clip
    import timm

    tags = {model: open_clip.list_pretrained_tags_by_model(model) for model in open_clip.list_models()}
    return [
        *(name for name, _ in EMBEDDED),
        *(alias.typed for alias in list_aliases()),
        *(f"timm/{name}" for name in (*timm.list_models(), *timm.list_pretrained())),
        *(f"open_clip/{model}/{tag}" for model, known in tags.items() for tag in (*known, "random")),
    ]
