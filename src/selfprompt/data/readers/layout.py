"""Decides what the folders in a folder are: classes, splits (train, val and test), or neither; opens no image."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfprompt.data.class_names import clean_name
from selfprompt.data.dataset import SPLITS, Split
from selfprompt.data.readers.label_inference import advise_on_labels
from selfprompt.data.readers.splits import list_words, parse_split, parse_split_name
from selfprompt.data.readers.walk import contains_images, list_folders, list_images
from selfprompt.utils.wording import listing, plural

FOLDS = frozenset({"fold", "folds", "kfold", "split", "splits"})
"""Words in the names of the folds of a cross-validation."""
CONTAINERS = FOLDS | frozenset(
    {
        *("batch", "chunk", "shard", "data", "dataset", "images", "image"),
        *("imgs", "img", "photos", "pictures", "mask", "masks", "labels", "annotation", "annotations", "part"),
        *("original", "originals", "augmented", "labeled", "labelled", "unlabeled", "unlabelled"),
    }
)
"""Words in the names of folders that contain images of every class."""

ClassFolders = dict[str, Path]
"""Class name -> folder."""


@dataclass(frozen=True)
class Layout:
    """The class folders of each split.

    Attributes:
        root: The folder that contains the folders of classes or splits.
        splits: Split -> class name -> folder; only "train" if there are no splits.
        notes: What was decided, one sentence each.
    """

    root: Path
    splits: Mapping[Split, Mapping[str, Path]]
    notes: tuple[str, ...] = ()


def detect_layout(root: Path, known: Collection[str] = ()) -> Layout:
    """Decide what the folders in a folder are.

    Args:
        root: A folder with a folder for each class; with split folders, under any usual names, that contain class
            folders; with class folders that contain split folders; or with one folder that is any of these.
        known: Class names; a folder with such a name is a class, whatever it contains.

    Raises:
        ValueError: If the folders are none of these; the message says what to do.
    """
    top = unwrap_folder(root, known)
    notes = (f"The images are in {top.relative_to(root)}, the only folder with images.",) if top != root else ()
    folders = _folders_with_images(top)
    split_folders = _find_split_folders(top, folders)
    splits, split_notes = _read_splits(top, split_folders, folders, known)
    if splits:
        return Layout(top, splits, (*notes, *split_notes))
    inner = _read_splits_in_classes(folders)
    if inner:
        return Layout(top, inner, (*notes, "Each class folder contains split folders."))
    _check_classes(top, folders)
    classes = list_class_folders(top, root)
    return Layout(top, {"train": classes}, (*notes, *_class_notes(top, folders, split_folders)))


def list_class_folders(root: Path, top: Path | None = None) -> ClassFolders:
    """Return the folders in a folder by name.

    Args:
        root: The folder.
        top: The folder whose images the advice in the error is about; by default ``root``.

    Raises:
        ValueError: If there are none.
    """
    folders = {folder.name: folder for folder in list_folders(root)}
    if not folders:
        outside = list_images(root)
        contents = f"{plural(len(outside), 'image')} but no folder" if outside else "neither images nor folders"
        raise ValueError(
            f"{root} must contain a folder of images for each class, but it contains {contents}. "
            f"{advise_on_labels(top or root)}"
        )
    return folders


def unwrap_folder(root: Path, known: Collection[str] = ()) -> Path:
    """Return the folder that contains the classes: the folder itself, or the only one with images inside it."""
    current = root
    while True:
        folders = _folders_with_images(current)
        if len(folders) != 1 or list_images(current) or clean_name(folders[0].name) in known:
            return current
        name, repeats = folders[0].name, _repeats_name(folders[0].name, current.name)
        if parse_split(name) is not None and not repeats:
            return current
        if list_images(folders[0]) and not (repeats or _is_container(name)):
            return current
        current = folders[0]


def _repeats_name(name: str, outer: str) -> bool:
    """Return whether a folder has the name of the one around it: seg_train/seg_train, train/training_images."""
    split = parse_split(name)
    return name.lower() == outer.lower() or (split is not None and split == parse_split(outer))


def _find_split_folders(root: Path, folders: Sequence[Path]) -> dict[Split, Path]:
    """Return the folders named after splits: exactly, or two or more that differ in that word only (dogs_train)."""
    families: dict[str, dict[Split, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        split, rest = parse_split_name(folder.name)
        if split is not None:
            families[rest][split].append(folder)
    exact = families.pop("", {})
    matches = exact or next((family for family in families.values() if len(family) > 1), {})
    if len(matches.get("val", ())) == 2 and "test" not in matches:  # next to "validation", "evaluation" is the test
        for folder in [folder for folder in matches["val"] if _says_evaluation(folder.name)][:1]:
            matches["val"].remove(folder)
            matches["test"] = [folder]
    for same_split in matches.values():
        if len(same_split) > 1:
            names = listing([folder.name for folder in same_split])
            raise ValueError(f"{root} must have one folder for each split, got {names}: merge them.")
    return {split: matches[split][0] for split in SPLITS if split in matches}


def _says_evaluation(name: str) -> bool:
    return any(word.startswith("eval") for word in list_words(name))


def _read_splits(
    root: Path, split_folders: Mapping[Split, Path], folders: Sequence[Path], known: Collection[str]
) -> tuple[dict[Split, ClassFolders], list[str]]:
    """Return the classes of each split, and notes; nothing if the split folders are classes, as "train" may be."""
    if not {"train", "test"} & set(split_folders):
        return {}, []
    unwrapped: dict[Split, Path] = {}
    classes: dict[Split, ClassFolders] = {}
    for split, folder in split_folders.items():  # train first: the other splits may wrap no folder named as its classes
        unwrapped[split] = unwrap_folder(folder, {*known, *map(clean_name, classes.get("train", ()))})
        if not list_images(unwrapped[split]):
            classes[split] = list_class_folders(unwrapped[split])
    unlabelled = [split for split in split_folders if split not in classes]
    others = [folder for folder in folders if folder not in split_folders.values()]
    possible_classes = [folder for folder in others if not _is_container(folder.name)]
    if possible_classes and not {"train", "test"} <= set(split_folders):
        if not _are_training_classes(root, others, possible_classes, split_folders, classes):
            return {}, []
        others, classes = [], {"train": {folder.name: folder for folder in others}, **classes}
    elif "train" in unlabelled or not classes:
        names = listing([split_folders[split].name for split in unlabelled])
        raise ValueError(
            f"{root}: {names} must contain a folder for each class and no images next to them. {advise_on_labels(root)}"
        )
    notes = [*_ignored_notes(root, split_folders, others), *_unlabelled_notes(split_folders, unwrapped, unlabelled)]
    return {split: classes[split] for split in SPLITS if split in classes}, notes


def _are_training_classes(
    root: Path,
    others: Sequence[Path],
    possible_classes: Sequence[Path],
    split_folders: Mapping[Split, Path],
    classes: Mapping[Split, ClassFolders],
) -> bool:
    """Return whether the folders next to a test folder are the training classes.

    Raises:
        ValueError: If one of them is a split with another name, or they repeat the classes of a train folder.
    """
    names = {name for class_folders in classes.values() for name in class_folders}
    splits = [folder.name for folder in possible_classes if len(names & _inner_names(folder)) > 1]
    if splits:
        used = listing(sorted(folder.name for folder in split_folders.values()))
        raise ValueError(
            f"{root} must name its split folders train, val and test, but {listing(splits)} also contains the classes "
            f"of {used}: rename it, or move it elsewhere."
        )
    if not names & {folder.name for folder in others}:
        return False
    if "train" in split_folders:
        raise ValueError(
            f"{root} must contain either split folders or class folders, but it contains {split_folders['train'].name} "
            f"and folders of the same classes next to it: move one of them elsewhere."
        )
    return True


def _ignored_notes(root: Path, split_folders: Mapping[Split, Path], others: Sequence[Path]) -> list[str]:
    """Return a note on the folders next to split folders."""
    all_folders = list_folders(root)
    ignored = [folder.name for folder in all_folders if folder not in split_folders.values()] if others else []
    ignored = ignored or [folder.name for folder in all_folders if not contains_images(folder)]
    used = listing(sorted(folder.name for folder in split_folders.values()))
    return [f"Ignored the folders next to {used}: {listing(ignored)}."] if ignored else []


def _unlabelled_notes(
    split_folders: Mapping[Split, Path], unwrapped: Mapping[Split, Path], unlabelled: Sequence[Split]
) -> list[str]:
    """Return a note on each split folder without class folders."""
    counts = {split: plural(len(list_images(unwrapped[split])), "image") for split in unlabelled}
    return [
        f"Left out {split_folders[split].name}: it has {count} outside class folders, so their labels are unknown."
        for split, count in counts.items()
    ]


def _read_splits_in_classes(folders: Sequence[Path]) -> dict[Split, ClassFolders]:
    """Return the splits of class folders that each contain train and test; nothing if one does not."""
    splits: dict[Split, ClassFolders] = {}
    for folder in folders:
        inner = {parse_split_name(path.name): path for path in _folders_with_images(folder)}
        split_folders = {split: path for (split, rest), path in inner.items() if split is not None and not rest}
        if list_images(folder) or not {"train", "test"} & set(split_folders):
            return {}
        for split, path in split_folders.items():
            splits.setdefault(split, {})[folder.name] = path
    return {split: splits[split] for split in SPLITS if split in splits}


def _class_notes(root: Path, folders: Sequence[Path], split_folders: Mapping[Split, Path]) -> list[str]:
    """Return notes on class folders that are named after a split, or all contain the same folders."""
    notes = []
    words = [folder.name for folder in split_folders.values()]
    if words:
        notes.append(f"Used {listing(words)} in {root.name} as a class, like the other folders.")
    shared = set.intersection(*(_inner_names(unwrap_folder(folder)) for folder in folders)) if len(folders) > 1 else ()
    if len(shared) > 1:
        names = listing([folder.name for folder in folders], 5)
        notes.append(
            f"Each of the classes {names} contains the folders {listing(sorted(shared), 5)}: they are not classes."
        )
    return notes


def _check_classes(root: Path, folders: Sequence[Path]) -> None:
    """Raise ValueError if the folders cannot be classes: fold1 and fold2, images and masks, or all of them in one."""
    siblings = {folder.name for folder in folders}
    for folder in folders:
        repeated = sorted(siblings & {inner.name for inner in list_folders(folder)} - {folder.name})
        if len(repeated) > 1:
            raise ValueError(
                f"{root} must contain a folder for each class, but {folder.name} contains {listing(repeated, 5)}, "
                f"which are also next to it: move it elsewhere, or give {folder}."
            )
    spellings = {tuple(list_words(folder.name)) for folder in folders}
    numbered = len(spellings) == 1 and bool(CONTAINERS & set(*spellings))  # scans_part_1, scans_part_2
    if len(folders) < 2 or not (numbered or all(_is_container(folder.name) for folder in folders)):
        return
    names = listing([folder.name for folder in folders], 5)
    if all(FOLDS & set(list_words(folder.name)) for folder in folders):
        raise ValueError(
            f"{root} must contain a folder for each class, but {names} look like the folds of a cross-validation. Name "
            "the folds of one round train and test, or list all images in a manifest with the columns path, label "
            "and split (train or test). If they are classes, list the images in a manifest with path and label."
        )
    deeper = listing([str(folder) for folder in folders if len(_inner_names(folder)) > 1 and not list_images(folder)])
    advice = f"Class folders seem to be in {deeper}: give one of these." if deeper else advise_on_labels(root)
    raise ValueError(
        f"{root} must contain a folder for each class, but {names} look like parts of a collection. {advice} "
        "If they are classes, list the images in a manifest with path and label."
    )


def _folders_with_images(folder: Path) -> list[Path]:
    return [inner for inner in list_folders(folder) if contains_images(inner)]


def _inner_names(folder: Path) -> set[str]:
    """Return the names of the folders with images in a folder."""
    return {inner.name for inner in _folders_with_images(folder)}


def _is_container(name: str) -> bool:
    words = list_words(name)
    return bool(words) and set(words) <= CONTAINERS
