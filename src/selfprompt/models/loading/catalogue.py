"""Every name that can be typed: forms, recommended models, other names, and what open_clip and timm publish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfprompt.models.loading.aliases import list_aliases
from selfprompt.models.loading.names import FORMS, RECOMMENDED


@dataclass(frozen=True)
class Entry:
    """A line of a list of names.

    Attributes:
        name: What is typed; TAG stands for one of the tags in the description.
        description: What it is, the name that it stands for, or the tags.
        model: The architecture, "timm/NAME" or "open_clip/NAME"; empty if the name does not tell it.
    """

    name: str
    description: str
    model: str = ""


def search(word: str) -> dict[str, list[Entry]]:
    """Return the entries in which a word occurs, in any case, by kind of name."""
    wanted = word.casefold()

    def found(entries: Sequence[Entry]) -> list[Entry]:
        return [entry for entry in entries if wanted in f"{entry.name} {entry.description}".casefold()]

    known = [
        Entry(a.typed, f"= {a.name}{f' ({a.remark})' if a.remark else ''}", _model(a.name)) for a in list_aliases()
    ]
    return {
        "forms": found([Entry(name, text) for name, text in FORMS]),
        "recommended": found([Entry(name, text, _model(name)) for name, text in RECOMMENDED]),
        "names known elsewhere": found(known),
        "open_clip": _published("open_clip/{}/TAG", open_clip_tags(), wanted),
        "timm": _published("timm/{}.TAG", timm_tags(), wanted),
    }


def _published(form: str, models: Mapping[str, Sequence[str]], wanted: str) -> list[Entry]:
    """Return an entry for each model whose name contains the word, with all tags, or else with the tags that do."""
    entries = []
    for model, tags in models.items():
        name = form.format(model)
        shown = [tag for tag in tags if wanted in name.replace("TAG", "").casefold() or wanted in tag.casefold()]
        if shown:
            entries.append(Entry(name, ", ".join(shown), _model(name)))
    return entries


def open_clip_tags() -> dict[str, list[str]]:
    """Return the tags of pretrained weights of each model of open_clip."""
    import open_clip

    return {model: open_clip.list_pretrained_tags_by_model(model) for model in open_clip.list_models()}


def timm_tags() -> dict[str, list[str]]:
    """Return the tags of pretrained weights of each model of timm that has any; "" stands for a model without tags."""
    import timm

    models: dict[str, list[str]] = {}
    for name in timm.list_pretrained():
        model, _, tag = name.partition(".")
        models.setdefault(model, []).append(tag)
    return models


def _model(name: str) -> str:
    """Return the architecture that a name of timm or open_clip tells; empty if it tells none."""
    family, _, rest = name.partition("/")
    if family == "timm" and ":" not in rest:
        return f"timm/{rest.partition('.')[0].partition('/')[0]}"
    return f"open_clip/{rest.partition('/')[0]}" if family == "open_clip" and ":" not in rest else ""
