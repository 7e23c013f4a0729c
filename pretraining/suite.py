"""Write the embedded suite: small images of held-out drawings, and an index of each task.

    python -m pretraining.suite --packages PACKAGES            # writes src/selfprompt/suites/embedded
    python -m pretraining.suite --baselines

Every image depends only on its task, subset, class and number, so adding a class or task changes no other file.
"""

import argparse
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from rich.progress import track

from pretraining.baselines import baselines
from pretraining.concepts import Emoji, icon_words, read_emoji
from pretraining.corpus import write_text
from pretraining.drawings import Drawing, drawings, folder, licence, read_json
from pretraining.render import is_black, render
from pretraining.sets import SETS, Set
from pretraining.tasks import DOMAIN_VIEWS, MORE_TEST_VIEWS, PLANS, VIEWS, Plan
from pretraining.views import DRAWN, Look, view
from selfprompt.data.suites.embedded import ARCHIVE_NAME, MORE_TEST, class_folder

OUT = Path(__file__).parents[1] / "src" / "selfprompt" / "suites" / "embedded"
BY_NAME = {drawn.name: drawn for drawn in SETS}


@dataclass(frozen=True)
class Subset:
    """A split or domain of a task: its folder, the sets it is drawn from, and the number of images per class."""

    name: str
    folder: str
    sets: tuple[str, ...]
    views: int
    look: Look


def parts(plan: Plan) -> list[Subset]:
    """Return the splits of a task, then its domains."""
    look = Look(mirror=plan.mirror)
    found = [Subset(split, split, plan.test if split == "test" else plan.train, VIEWS[split], look) for split in VIEWS]
    for domain, sets in plan.domains.items():
        own = Look(mirror=plan.mirror, waving=domain == "waving", paper=domain == "outline")
        found.append(Subset(domain, f"domains/{domain}", sets, DOMAIN_VIEWS, own))
    return found


def write_suite(packages: Path, out: Path) -> None:
    """Draw all tasks.

    Raises:
        ValueError: If a set must not be shipped, or a class has no drawing in a split.
    """
    emoji = read_emoji(packages)
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for plan in track(PLANS, "drawing tasks"):
        write_task(packages, emoji, plan, part / plan.name)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def write_task(packages: Path, emoji: Emoji, plan: Plan, out: Path) -> None:
    """Draw one task and write its index."""
    rows = []
    used: set[str] = set()
    for part in parts(plan):
        shown = {name: pick(packages, emoji, plan, name) for name in part.sets}
        for label, title in enumerate(plan.classes):
            found = [(name, drawing) for name in part.sets for drawing in shown[name].get(title, [])]
            if not found and part.name in VIEWS:
                raise ValueError(f"{plan.name}: {title!r} has no drawing in {', '.join(part.sets)}.")
            for number in range(part.views if found else 0):
                name, drawing = found[number % len(found)]
                file = f"{part.folder}/{class_folder(title)}/{number:02d}.png"
                draw(drawing, part, f"{plan.name}/{file}", out / file)
                rows.append([file, label, part.name, name])
                used.add(name)
    write_text(out / "index.json", index_text(packages, emoji, plan, rows, sorted(used)))
    pack(out, ARCHIVE_NAME)
    draw_more_test(packages, emoji, plan, out)
    pack(out, f"{MORE_TEST}.zip")


def draw_more_test(packages: Path, emoji: Emoji, plan: Plan, out: Path) -> None:
    """Draw the further test images of a task, so that each set has the same number of test images in a class."""
    sets = more_test_sets(plan)
    shown = {name: pick(packages, emoji, plan, name) for name in sets}
    part = Subset(MORE_TEST, MORE_TEST, sets, MORE_TEST_VIEWS, Look(mirror=plan.mirror))
    for title in plan.classes:
        images = Counter({name: VIEWS["test"] // len(plan.test) * (name in plan.test) for name in sets})
        drawn = Counter[str]()
        available = [name for name in sets if title in shown[name]]
        for _ in range(part.views):
            name = min(available, key=images.__getitem__)
            found = shown[name][title]
            file = f"{part.folder}/{class_folder(title)}/{name}-{drawn[name]:02d}.png"
            draw(found[drawn[name] % len(found)], part, f"{plan.name}/{file}", out / file)
            images[name] += 1
            drawn[name] += 1


def more_test_sets(plan: Plan) -> tuple[str, ...]:
    """Return the sets of the further test images: those of the test images, and of domains by artists that drew no
    training image."""
    trained = {BY_NAME[name].family for name in plan.train}
    shifted = (name for sets in plan.domains.values() for name in sets if BY_NAME[name].family not in trained)
    return tuple(dict.fromkeys((*plan.test, *shifted)))


def pack(out: Path, archive_name: str) -> None:
    """Move the images below a task's folder into an archive, which depends only on their names and bytes."""
    pictures = {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.png"))}
    with ZipFile(out / archive_name, "w") as archive:
        for name, content in pictures.items():
            archive.writestr(ZipInfo(name), content)
    for path in [path for path in out.iterdir() if path.is_dir()]:
        shutil.rmtree(path)


def draw(drawing: Drawing, part: Subset, key: str, path: Path) -> None:
    """Write one image."""
    pixels = pixels_of(drawing)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    path.parent.mkdir(parents=True, exist_ok=True)
    view(pixels, part.look, is_black(pixels), rng).save(path, optimize=True)


@cache
def pixels_of(drawing: Drawing) -> np.ndarray:
    """Render a drawing at twice the size of an image."""
    pixels = render(drawing, DRAWN)
    if pixels is None:
        raise ValueError(f"Nothing is visible of the drawing {drawing.name!r}.")
    return pixels


def pick(packages: Path, emoji: Emoji, plan: Plan, name: str) -> dict[str, list[Drawing]]:
    """Return the drawings of a set by class.

    Raises:
        ValueError: If the set was used for pretraining, or its terms forbid shipping it.
    """
    drawn = BY_NAME[name]
    if drawn.role != "held-out":
        raise ValueError(f"Only held-out sets can be shipped: {name} is {drawn.role}.")
    words = {word: title for title in plan.classes for word in (title, *plan.more.get(title, ()))}
    found: dict[str, list[Drawing]] = {}
    for drawing in all_drawings(packages, drawn):
        title = words.get(meaning(emoji, plan, drawn, drawing.name))
        if title is not None and f"{name} {drawing.name}" not in plan.skip:
            found.setdefault(title, []).append(drawing)
    return {title: plainest(drawn, group) for title, group in found.items()}


def plainest(drawn: Set, group: list[Drawing]) -> list[Drawing]:
    """Keep the drawings of an icon with the fewest words in their names, to avoid icons in circles."""
    fewest = min(drawing.name.count("-") for drawing in group)
    return [drawing for drawing in group if drawn.kind != "icon" or drawing.name.count("-") == fewest]


@cache
def all_drawings(packages: Path, drawn: Set) -> tuple[Drawing, ...]:
    """Return every drawing of a set."""
    return tuple(drawings(packages, drawn))


def meaning(emoji: Emoji, plan: Plan, drawn: Set, name: str) -> str:
    """Return the class name of the task that a drawing's name stands for; empty if none."""
    if drawn.kind == "icon":
        return icon_words(name)
    concept = emoji.of(drawn, name)
    return concept.name.removeprefix(plan.prefix) if concept and concept.name.startswith(plan.prefix) else ""


def index_text(packages: Path, emoji: Emoji, plan: Plan, rows: list[list[Any]], used: list[str]) -> str:
    """Return the index of a task: JSON with one line per image."""
    held_out = {concept.name for concept in emoji.concepts.values() if concept.held_out}
    hidden = [title for title in plan.classes if plan.prefix + title in held_out]
    head = {
        "name": plan.name,
        "template": plan.template,
        "shared": plan.shared,
        "classes": plan.classes,
        "held_out": [] if BY_NAME[plan.train[0]].kind == "icon" else hidden,
        "domains": list(plan.domains),
        "sets": {name: about(packages, BY_NAME[name]) for name in used},
        "columns": ["file", "label", "part", "set"],
    }
    lines = ",\n".join(json.dumps(row) for row in rows)
    return f'{json.dumps(head, indent=1, ensure_ascii=False)[:-2]},\n "images": [\n{lines}\n ]\n}}\n'


def about(packages: Path, drawn: Set) -> dict[str, str]:
    """Return the source of a set and its licence."""
    stated, author = licence(packages, drawn)
    version = read_json(folder(packages, drawn) / "package.json")["version"]
    return {"package": drawn.npm, "version": version, "author": author, "licence": stated}


def print_baselines(out: Path) -> None:
    """Print accuracies in percent without a backbone, one row per test set."""
    print("| test set | images | chance | ridge on pixels | nearest neighbour on pixels |\n|---|---|---|---|---|")
    for row in baselines(out):
        print(f"| {row.name} | {row.images} | {row.chance:.1f} | {row.ridge:.1f} | {row.nearest:.1f} |")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path("runs/pretraining"), help="folder with node_modules")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the suite")
    parser.add_argument("--baselines", action="store_true", help="only print the accuracies of raw pixels on the suite")
    options = parser.parse_args()
    if options.baselines:
        print_baselines(options.out)
        return
    write_suite(options.packages, options.out)
    files = list(options.out.rglob("*.zip"))
    count = sum(len(ZipFile(file).namelist()) for file in files)
    print(f"{count} pictures, {sum(file.stat().st_size for file in files) / 1e6:.2f} MB, in {options.out}")


if __name__ == "__main__":
    main()
