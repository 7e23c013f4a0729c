"""Tells what the folders in a folder are: classes, or train, val and test, or neither; opens no image."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfprompt.data.class_names import clean_name
from selfprompt.data.dataset import SPLITS, Split
from selfprompt.data.readers.label_inference import advice
from selfprompt.data.readers.splits import parse_split, split_and_rest, words_of
from selfprompt.data.readers.walk import contains_images, folders_in, images_in
from selfprompt.utils.wording import listing, plural

CONTAINERS = frozenset(
    {
        *("fold", "folds", "kfold", "split", "splits", "batch", "chunk", "shard", "data", "dataset", "images", "image"),
        *("imgs", "img", "photos", "pictures", "mask", "masks", "labels", "annotation", "annotations", "part"),
        *("original", "originals", "augmented", "labeled", "labelled", "unlabeled", "unlabelled"),
    }
)
"""Words of folders that hold something of every class."""


@dataclass(frozen=True)
class Layout:
    """Where the classes of each split are.

    Attributes:
        root: The folder that holds the folders of classes or splits.
        splits: Split -> folder of each class, by its name; one for "train" alone where nothing is split.
        notes: What was decided, one sentence each.
    """

    root: Path
    splits: Mapping[Split, Mapping[str, Path]]
    notes: tuple[str, ...] = ()


def detect_layout(root: Path, known: Collection[str] = ()) -> Layout:
    """What the folders in a folder are.

    Args:
        root: Holds a folder for each class; or folders for train, val and test that do, under any usual names; or
            class folders that hold train and test; or one folder that does.
        known: Names of classes; a folder of such a name is one, whatever it holds.

    Raises:
        ValueError: If the folders are neither; the message says what could be done.
    """
    place = unwrapped(root, known)
    notes = (f"The images are in {place.relative_to(root)}, the only folder that has any.",) if place != root else ()
    full = [folder for folder in folders_in(place) if contains_images(folder)]
    found = _split_folders(place, full)
    splits, more = _splits(place, found, full, known)
    if splits:
        return Layout(place, splits, (*notes, *more))
    inner = _splits_in_classes(full)
    if inner:
        return Layout(place, inner, (*notes, "Each class folder has folders for the splits."))
    _check_classes(place, full)
    words = [folder.name for folder in found.values()]
    if words:
        notes = (*notes, f"{listing(words)} of {place.name} is taken for a class, as the other folders are.")
    inside = sorted(set.intersection(*(_inner_names(unwrapped(folder)) for folder in full))) if len(full) > 1 else []
    if len(inside) > 1:
        taken = listing([folder.name for folder in full], 5)
        notes = (*notes, f"Each of the classes {taken} holds folders {listing(inside, 5)}: these are no classes.")
    return Layout(place, {"train": class_folders(place, root)}, notes)


def class_folders(root: Path, top: Path | None = None) -> dict[str, Path]:
    """The folders in a folder by their names; ValueError without any, with advice on what lies below ``top``."""
    folders = {folder.name: folder for folder in folders_in(root)}
    if not folders:
        outside = images_in(root)
        held = f"{plural(len(outside), 'image')} but no folder" if outside else "neither images nor folders"
        raise ValueError(
            f"{root} must hold a folder of images for each class, but it holds {held}. {advice(top or root)}"
        )
    return folders


def unwrapped(root: Path, known: Collection[str] = ()) -> Path:
    """The folder itself, or where nothing else there has images, the one in it, or in that, that holds the classes."""
    place = root
    while True:
        full = [folder for folder in folders_in(place) if contains_images(folder)]
        if len(full) != 1 or images_in(place) or clean_name(full[0].name) in known:
            return place
        name, repeats = full[0].name, _repeats(full[0].name, place.name)
        if parse_split(name) is not None and not repeats:
            return place
        if images_in(full[0]) and not (repeats or _is_container(name)):
            return place
        place = full[0]


def _repeats(name: str, outer: str) -> bool:
    """Whether a folder is called as the one around it: seg_train/seg_train, train/training_images."""
    split = parse_split(name)
    return name.lower() == outer.lower() or (split is not None and split == parse_split(outer))


def _split_folders(root: Path, full: Sequence[Path]) -> dict[Split, Path]:
    """The folders whose names mean splits: plainly, or two or more that differ in that word only (dogs_train)."""
    families: dict[str, dict[Split, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for folder in full:
        split, rest = split_and_rest(folder.name)
        if split is not None:
            families[rest][split].append(folder)
    plain = families.pop("", {})
    found = plain or next((family for family in families.values() if len(family) > 1), {})
    if len(found.get("val", ())) == 2 and "test" not in found:  # where there is a validation, too, evaluation is a test
        for folder in [folder for folder in found["val"] if _says_evaluation(folder.name)][:1]:
            found["val"].remove(folder)
            found["test"] = [folder]
    for folders in found.values():
        if len(folders) > 1:
            names = listing([folder.name for folder in folders])
            raise ValueError(f"{root} must have one folder for each split, got {names}: put them into one.")
    return {split: found[split][0] for split in SPLITS if split in found}


def _says_evaluation(name: str) -> bool:
    return any(word.startswith("eval") for word in words_of(name))


def _splits(
    root: Path, found: Mapping[Split, Path], full: Sequence[Path], known: Collection[str]
) -> tuple[dict[Split, dict[str, Path]], list[str]]:
    """The classes of each split, and notes; nothing where the folders of splits are classes, as "train" may be."""
    if not {"train", "test"} & set(found):
        return {}, []
    others = [folder for folder in full if folder not in found.values()]
    strangers = [folder for folder in others if not _is_container(folder.name)]
    places: dict[Split, Path] = {}
    classes: dict[Split, dict[str, Path]] = {}
    for split, folder in found.items():  # train first: its classes are no wrappings in the others
        place = places[split] = unwrapped(folder, {*known, *map(clean_name, classes.get("train", ()))})
        if not images_in(place):
            classes[split] = class_folders(place)
    flat = [split for split in found if split not in classes]
    if strangers and not {"train", "test"} <= set(found):
        inside = {name for own in classes.values() for name in own}
        again = [folder.name for folder in strangers if len(inside & _inner_names(folder)) > 1]
        if again:
            used = listing(sorted(folder.name for folder in found.values()))
            raise ValueError(
                f"{root} must have folders that are called train, val and test, but {listing(again)} holds the classes "
                f"of {used}, too: rename it, or put it elsewhere."
            )
        if not inside & {folder.name for folder in others}:
            return {}, []
        if "train" in found:
            raise ValueError(
                f"{root} must hold either folders for splits or for classes, but it holds {found['train'].name} and "
                f"folders of the same classes beside it: put one of them elsewhere."
            )
        others, classes = [], {"train": {folder.name: folder for folder in others}, **classes}
    elif "train" in flat or not classes:
        names = listing([found[split].name for split in flat])
        raise ValueError(f"{root}: {names} must hold a folder for each class and no images beside them. {advice(root)}")
    return {split: classes[split] for split in SPLITS if split in classes}, _remarks(root, found, flat, places, others)


def _remarks(
    root: Path, found: Mapping[Split, Path], flat: Sequence[Split], places: Mapping[Split, Path], others: Sequence[Path]
) -> list[str]:
    """What is left out of a folder with splits."""
    beside = [folder.name for folder in folders_in(root) if folder not in found.values()] if others else []
    beside = beside or [folder.name for folder in folders_in(root) if not contains_images(folder)]
    notes = []
    if beside:
        used = listing(sorted(folder.name for folder in found.values()))
        notes.append(f"Ignored what lies beside {used}: {listing(beside)}.")
    for split in flat:
        count = plural(len(images_in(places[split])), "image")
        notes.append(f"Left out {found[split].name}: it has {count} in no class folder, so their labels are not known.")
    return notes


def _splits_in_classes(full: Sequence[Path]) -> dict[Split, dict[str, Path]]:
    """The splits of class folders that hold train and test each; nothing if one of them does not."""
    splits: dict[Split, dict[str, Path]] = {}
    for folder in full:
        inner = {split_and_rest(place.name): place for place in folders_in(folder) if contains_images(place)}
        own = {split: place for (split, rest), place in inner.items() if split is not None and not rest}
        if images_in(folder) or not {"train", "test"} & set(own):
            return {}
        for split, place in own.items():
            splits.setdefault(split, {})[folder.name] = place
    return {split: splits[split] for split in SPLITS if split in splits}


def _check_classes(root: Path, full: Sequence[Path]) -> None:
    """Raise ValueError where the folders cannot be classes: fold1 and fold2, images and masks, all of them in one."""
    names_beside = {folder.name for folder in full}
    for folder in full:
        again = sorted(names_beside & {inner.name for inner in folders_in(folder)} - {folder.name})
        if len(again) > 1:
            raise ValueError(
                f"{root} must hold a folder for each class, but {folder.name} holds {listing(again, 5)}, which are "
                f"beside it, too: put it elsewhere, or give {folder}."
            )
    alike = {tuple(words_of(folder.name)) for folder in full}
    pieces = len(alike) == 1 and bool(CONTAINERS & set(*alike))  # they differ in numbers only: scans_part_1
    if len(full) < 2 or not (pieces or all(_is_container(folder.name) for folder in full)):
        return
    names = listing([folder.name for folder in full], 5)
    if all({"fold", "folds", "kfold", "split", "splits"} & set(words_of(folder.name)) for folder in full):
        raise ValueError(
            f"{root} must hold a folder for each class, but {names} look like the folds of a cross-validation. Name "
            "the folds of one round train and test, or list all images in a manifest with the columns path, label "
            "and split (train or test). If they are classes, a manifest with path and label says so."
        )
    deeper = listing([str(folder) for folder in full if len(_inner_names(folder)) > 1 and not images_in(folder)])
    told = f"Class folders seem to lie in {deeper}: give one of these." if deeper else advice(root)
    raise ValueError(
        f"{root} must hold a folder for each class, but {names} look like parts of a collection. {told} "
        "If they are classes, a manifest with path and label says so."
    )


def _inner_names(folder: Path) -> set[str]:
    """The names of the folders with images in a folder."""
    return {inner.name for inner in folders_in(folder) if contains_images(inner)}


def _is_container(name: str) -> bool:
    words = words_of(name)
    return bool(words) and set(words) <= CONTAINERS
