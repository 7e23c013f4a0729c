"""Writes THIRD_PARTY.md: every set of drawings, its author, licence and use, as the tables and the packages say.

python -m pretraining.third_party --packages PACKAGES
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pretraining.corpus import write_text
from pretraining.drawings import folder, licence, read_json
from pretraining.sets import LABELS, SETS, Set
from pretraining.tasks import PLANS, Plan

OUT = Path(__file__).parents[1] / "THIRD_PARTY.md"

LICENCES = {
    "Apache-2.0": ("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "CC-BY-3.0": ("Creative Commons Attribution 3.0 Unported", "https://creativecommons.org/licenses/by/3.0/"),
    "CC-BY-4.0": ("Creative Commons Attribution 4.0 International", "https://creativecommons.org/licenses/by/4.0/"),
    "CC-BY-SA-4.0": (
        "Creative Commons Attribution-ShareAlike 4.0 International",
        "https://creativecommons.org/licenses/by-sa/4.0/",
    ),
    "CC0-1.0": ("Creative Commons Zero 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "ISC": ("ISC License", "https://opensource.org/license/isc-license-txt"),
    "MIT": ("MIT License", "https://opensource.org/license/mit"),
}

OPENING = """\
# Third-party work

Made by `python -m pretraining.third_party`; edit the tables in `pretraining/`, not this file.

selfprompt itself is under the Apache License 2.0 (`LICENSE`). It contains, or was made with, the work of the people
named here, for which we thank them. None of them endorses selfprompt. Licences are as the packages state them.

What "used for" means:

- **weights**: rendered at 64 x 64 pixels, the drawings were among the images that the embedded backbones
  (`embedded/clip`, `embedded/mae`) were pretrained on. The drawings themselves are not in the package.
- **samples**: some drawings are in the package as pictures of the embedded suite. They were changed: rendered, scaled,
  turned, mirrored or bent, recoloured and put on other backgrounds, at 64 x 64 pixels. Which picture is from which
  set stands in the `index.json` of each task.
- **measuring**: the backbones are tried on them; they are neither in the package nor in the weights.
- **names**: class names and captions.
"""

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""

ISC = """\
Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby
granted, provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN
AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR
PERFORMANCE OF THIS SOFTWARE."""


@dataclass(frozen=True)
class Work:
    """One set: what it is called, its package and version, who made it, where it is, its licence, and our use of it."""

    title: str
    package: str
    version: str
    author: str
    home: str
    licence: str
    use: str

    @property
    def author_name(self) -> str:
        """The author without an address."""
        return self.author.split(" <")[0]


def works(packages: Path) -> list[Work]:
    """All sets, in the order of their table, and the names of the emoji."""
    labels = read_json(packages / "node_modules" / LABELS / "package.json")
    names = Work(
        "Emojibase",
        LABELS,
        labels["version"],
        labels["author"],
        "https://github.com/milesj/emojibase",
        labels["license"],
        "names",
    )
    return [*(work(packages, drawn) for drawn in SETS), names]


def work(packages: Path, drawn: Set) -> Work:
    """What is known of one set."""
    stated, author = licence(packages, drawn)
    package = read_json(folder(packages, drawn) / "package.json")
    info = folder(packages, drawn) / "info.json"
    about = read_json(info) if info.is_file() else {}
    title = about.get("name", drawn.npm)
    home = about.get("author", {}).get("url") or package["homepage"]
    return Work(title, drawn.npm, package["version"], author, home, stated, use(drawn))


def use(drawn: Set) -> str:
    """What a set is used for."""
    if drawn.role == "pretrain":
        return "weights"
    tasks = [plan.name for plan in PLANS if drawn.name in shown(plan)]
    return f"samples ({', '.join(tasks)}), measuring" if tasks else "measuring"


def shown(plan: Plan) -> set[str]:
    """The sets of a task."""
    return {*plan.train, *plan.test, *(name for sets in plan.domains.values() for name in sets)}


def page(found: list[Work]) -> str:
    """The whole text."""
    sections = [OPENING, "## All sets\n", table(found), attributions(found), permissions(found)]
    return "\n".join(sections).rstrip() + "\n"


def table(found: Iterable[Work]) -> str:
    """A row a set."""
    rows = ["| set | package | version | author | licence | used for |", "|---|---|---|---|---|---|"]
    rows += [
        f"| [{one.title}]({one.home}) | `{one.package}` | {one.version} | {one.author_name} "
        f"| [{one.licence}]({LICENCES[one.licence][1]}) | {one.use} |"
        for one in found
    ]
    return "\n".join(rows) + "\n"


def attributions(found: list[Work]) -> str:
    """The wording that Creative Commons licences and Apache-2.0 ask for."""
    asked = "The Creative Commons and Apache licences ask for these; all come without warranty."
    lines = ["## Attribution", "", asked, ""]
    for one in found:
        if one.licence.startswith("CC-BY") or one.licence == "Apache-2.0":
            title, link = LICENCES[one.licence]
            made = f'"{one.title}" by {one.author_name} ({one.home})'
            lines.append(f"- {made}, licensed under {title} ({link}). {changed(one)}")
    return "\n".join(lines) + "\n"


def changed(one: Work) -> str:
    """What was done with a set's drawings, in a sentence."""
    if one.use == "weights":
        return "Drawings were rendered and used to compute weights."
    if one.use == "measuring":
        return "Nothing of it is distributed here."
    return "Drawings were rendered, changed in pose and colour, and put on backgrounds."


def permissions(found: list[Work]) -> str:
    """The permission notices that MIT and ISC want to go with copies."""
    parts = ["## Permission notices", ""]
    for name, text in (("MIT", MIT), ("ISC", ISC)):
        owners = [one for one in found if one.licence == name]
        parts += [f"### {LICENCES[name][0]}", ""]
        parts += [f"- {one.title}: copyright (c) {one.author_name} and contributors" for one in owners]
        parts += ["", text, ""]
    return "\n".join(parts)


def write_credits(packages: Path) -> None:
    """Write THIRD_PARTY.md anew."""
    write_text(OUT, page(works(packages)))


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path("runs/pretraining"), help="folder with node_modules")
    options = parser.parse_args()
    write_credits(options.packages)
    print(f"Wrote {OUT}")


if __name__ == "__main__":
    main()
