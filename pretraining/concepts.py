"""The concepts of drawings: emoji by code point or name, icons by the words of their names; held-out concepts.

One emoji concept in eight (by a hash of its code point) is excluded from pretraining: its drawings, icons whose names
contain its name, and captions that mention it.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pretraining.corpus import labels_folder
from pretraining.drawings import folder, read_json
from pretraining.sets import SETS, Set

# Words at the end of an icon's name that describe its style, not its content.
_MANNER = frozenset(
    re.findall(
        r"\w+",
        "alt alternative variant fill filled line outline outlined rounded round light duotone solid regular thin bold "
        "broken linear sharp remix o twotone square circle circled rectangle icon sign symbol",
    )
)
_SKIN = re.compile(r"-(light|medium-light|medium|medium-dark|dark)(-skin-tone)?(-|$)")


@dataclass(frozen=True)
class Concept:
    """Something that can be drawn.

    Attributes:
        name: Plain words: "red apple", "flag of France".
        tags: Words that fit it among others: "fruit", "red".
        group: A coarse category, "food fruit"; empty for icons.
        code: Unicode code point(s) in hexadecimal; empty for icons.
    """

    name: str
    tags: tuple[str, ...] = ()
    group: str = ""
    code: str = ""

    @property
    def held_out(self) -> bool:
        """Whether it is excluded from pretraining."""
        return bool(self.code) and int(hashlib.md5(self.code.encode()).hexdigest(), 16) % 8 == 0


@dataclass(frozen=True)
class Emoji:
    """The concepts of Unicode's emoji, without skin tones, and their names in the sets."""

    concepts: Mapping[str, Concept]
    codes: Mapping[str, str] = field(repr=False)

    def of(self, drawn: Set, name: str) -> Concept | None:
        """Return the concept of a drawing in a set of emoji or flags; None for variants and unknown names."""
        if drawn.kind == "flag":
            code = "".join(f"{0x1F1E6 + ord(letter) - ord('a'):X}-" for letter in name).rstrip("-")
            return self.concepts.get(code) if re.fullmatch("[a-z]{2}", name) else None
        if _SKIN.search(name):
            return None
        direct = plain_code(name)
        return self.concepts.get(direct if direct in self.concepts else self.codes.get(letters(name), ""))


def letters(name: str) -> str:
    """Reduce a name to letters and digits, to match spellings."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def plain_code(code: str) -> str:
    """Return a code point sequence in capitals without variation selectors."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def read_emoji(packages: Path) -> Emoji:
    """Read concepts from emojibase; names from it, its shortcodes, and the sets that state code points."""
    labels = labels_folder(packages) / "en"
    groups = read_json(labels_folder(packages) / "meta" / "groups.json")["subgroups"]
    concepts, codes = {}, {}
    for entry in read_json(labels / "data.json"):
        code, name = plain_code(entry["hexcode"]), spoken(entry["label"])
        if entry.get("group", 2) == 2:  # components: skin tones, hair
            continue
        tags = tuple(tag for tag in entry.get("tags", ()) if len(tag) > 1 and tag.lower() != name)
        concepts[code] = Concept(name, tags, groups[str(entry["subgroup"])].replace("-", " "), code)
        codes[letters(entry["label"])] = code
        codes[letters(entry["label"].replace("flag: ", "flag for "))] = code
    for kind in ("cldr", "github", "iamcal", "joypixels", "emojibase"):
        for code, short in read_json(labels / "shortcodes" / f"{kind}.json").items():
            for name in [short] if isinstance(short, str) else short:
                codes.setdefault(letters(name), plain_code(code))
    for drawn in SETS:
        stated = folder(packages, drawn) / "chars.json"
        if drawn.kind == "emoji" and stated.is_file():
            for code, name in read_json(stated).items():
                codes.setdefault(letters(name), plain_code(code))
    return Emoji(concepts, {name: code for name, code in codes.items() if code in concepts})


def spoken(label: str) -> str:
    """Spell out a label: "flag: France" becomes "flag of France"."""
    label = label.replace("flag: ", "flag of ").replace("keycap: ", "keycap ").replace("\u2019", "'")
    return re.sub(r"\s+", " ", re.sub(r"[\u201c\u201d:()]", " ", label)).strip()


def icon_words(name: str) -> str:
    """Return the words of an icon's name, without trailing numbers and style words."""
    words = [word for word in re.split(r"[-_\s]+", name.lower()) if word]
    while len(words) > 1 and (words[-1].isdigit() or words[-1] in _MANNER):
        words.pop()
    return " ".join(words)


def icon_concept(name: str, by_name: Mapping[str, Concept]) -> Concept:
    """Return the concept of an icon: that of the emoji with the same name, else a new one."""
    full = " ".join(re.split(r"[-_\s]+", name.lower()))
    for words in (full, icon_words(name)):
        if words in by_name:
            return by_name[words]
    return Concept(icon_words(name))


def by_name(emoji: Emoji) -> dict[str, Concept]:
    """Index emoji concepts by the names that icons may share with them."""
    found: dict[str, Concept] = {}
    for concept in emoji.concepts.values():
        for name in (concept.name.lower(), concept.name.lower().removesuffix(" face")):
            found.setdefault(name, concept)
    return found


class Forbidden:
    """Tests whether words mention a held-out concept."""

    def __init__(self, concepts: Iterable[Concept]) -> None:
        names = {concept.name.lower() for concept in concepts if concept.held_out}
        self._by_length: dict[int, set[str]] = defaultdict(set)
        for name in names:
            for form in (name, f"{name}s"):
                self._by_length[len(form.split())].add(form)

    def __call__(self, words: str) -> bool:
        parts = words.lower().replace("-", " ").split()
        return any(
            " ".join(parts[start : start + length]) in names
            for length, names in self._by_length.items()
            for start in range(len(parts) - length + 1)
        )


def frequent(pairs: Iterable[tuple[Concept, str]]) -> set[str]:
    """Return the names of concepts that become classes: drawn by at least two sets, icons at least three times.

    Args:
        pairs: Concept and set of every image.
    """
    listed = list(pairs)
    count = Counter(concept.name for concept, _ in listed)
    sets: dict[str, set[str]] = defaultdict(set)
    for concept, drawn in listed:
        sets[concept.name].add(drawn)
    return {c.name for c, _ in listed if len(sets[c.name]) >= 2 and count[c.name] >= (2 if c.code else 3)}
