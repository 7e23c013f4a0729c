"""Reading packages of drawings: every picture with its plain name, as SVG or an image file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretraining.sets import Set

# Brands are not concepts, and their marks must not be redistributed.
_BRANDS = ("logo", "brand", "social-", "cib-", "ion-social", "app-store")


@dataclass(frozen=True)
class Drawing:
    """One picture of a set.

    Attributes:
        name: Its name in the set without the variant's ending: "fox-face", "us" (flags), a code point (3-D emoji).
        source: SVG text, or the path of an image file.
    """

    name: str
    source: str | Path


def folder(packages: Path, drawn: Set) -> Path:
    """Return the folder that npm installed a set to."""
    return packages / "node_modules" / drawn.npm


def read_json(path: Path) -> Any:
    """Read a JSON file of a package."""
    return json.loads(path.read_text(encoding="utf-8"))


def licence(packages: Path, drawn: Set) -> tuple[str, str]:
    """Return the licence (SPDX) and author stated by the package."""
    info = folder(packages, drawn) / "info.json"
    if info.is_file():
        stated = read_json(info)
        return stated["license"]["spdx"], stated["author"]["name"]
    stated = read_json(folder(packages, drawn) / "package.json")
    author = stated.get("author", "")
    return stated["license"], author["name"] if isinstance(author, dict) else author


def drawings(packages: Path, drawn: Set) -> Iterator[Drawing]:
    """Yield the selected pictures of a set, in the package's order."""
    assets = folder(packages, drawn) / "assets"
    if assets.is_dir():
        for path in sorted(assets.glob("*.webp")):
            yield Drawing(path.stem, path)
        return
    icons = read_json(folder(packages, drawn) / "icons.json")
    width, height = icons.get("width", 16), icons.get("height", 16)
    brands = brand_names(folder(packages, drawn) / "metadata.json")
    for name, icon in icons["icons"].items():
        plain = without_ending(name, drawn)
        if plain is None or name in brands or plain.startswith(_BRANDS) or icon.get("hidden"):
            continue
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon.get('width', width)} {icon.get('height', height)}"
        yield Drawing(
            plain,
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" color="black">{icon["body"]}</svg>',
        )


def without_ending(name: str, drawn: Set) -> str | None:
    """Return a name without its variant's ending; None for variants that are not selected."""
    for ending in sorted({*drawn.endings, *drawn.keep} - {""}, key=len, reverse=True):
        if name.endswith(ending):
            return name.removesuffix(ending) if ending in drawn.keep else None
    return name if "" in drawn.keep else None


def brand_names(metadata: Path) -> set[str]:
    """Return the names in a set's categories of brands or logos."""
    if not metadata.is_file():
        return set()
    categories = read_json(metadata).get("categories", {})
    words = ("brand", "logo", "social media", "operating system", "crypto")
    return {
        name for title, names in categories.items() if any(word in title.lower() for word in words) for name in names
    }
