"""Reads data-set objects: torchvision's, Hugging Face's, the user's own, and lists of pairs.

The labels of known classes are read without decoding; all other objects are read item by item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selfprompt.data.dataset import ImageTable, IndexedSource, Source
from selfprompt.data.loading.check_images import OnBad
from selfprompt.data.loading.image_files import error_reason
from selfprompt.data.loading.image_inputs import is_path_like, to_path
from selfprompt.data.readers import hugging_face
from selfprompt.data.readers.labels import check_same_type, parse_label, split_item
from selfprompt.data.readers.splits import LabelledSplit
from selfprompt.data.readers.torchvision_sets import (
    read_class_names,
    read_labels_and_paths,
    read_listed_labels,
    unwrap_subsets,
)
from selfprompt.utils.wording import listing, plural


def read_object(source: Any, on_bad: OnBad = "skip") -> LabelledSplit:
    """Read the images of one data-set object as one split.

    Args:
        source: The object.
        on_bad: What to do with an item that cannot be read, so that its label is unknown: "skip" leaves it out, "fail"
            raises.

    Raises:
        TypeError: If the object is of no known type.
        ValueError: If its labels cannot be used.
    """
    if hugging_face.is_streaming(source):
        raise ValueError("A streaming data set cannot be indexed: load it without streaming=True.")
    if hugging_face.is_hugging_face(source):
        sources, labels, names, notes = hugging_face.read_columns(source)
        by_number = dict(enumerate(names)) if names else None
        return _make_split(sources, labels, by_number, "data set", range(len(labels)), notes)
    if isinstance(source, (list, tuple)):
        return _read_pairs(source)
    _check_type(source)
    return _read_known(source) or _read_items(source, on_bad)


def _check_type(source: Any) -> None:
    """Raise TypeError unless an object has a length and can be indexed."""
    indexable, sized = hasattr(source, "__getitem__"), hasattr(source, "__len__")
    if hasattr(source, "iloc") or (hasattr(source, "shape") and hasattr(source, "dtype")):
        advice = "an array or table does not separate images and labels: give a list, list(zip(images, labels))"
    elif hasattr(source, "dataset") and hasattr(source, "batch_size") and not indexable:
        advice = "give the loader's data set, loader.dataset"
    elif hasattr(source, "__iter__") and not (indexable and sized):
        advice = "an iterator cannot be indexed: give a list of its pairs, list(...)"
    elif not (indexable and sized):
        advice = "your own data set needs __len__ and __getitem__"
    else:
        return
    raise TypeError(
        f"A data source must be a folder, a manifest (.csv, .tsv, .parquet), a torchvision or Hugging Face "
        f"data set, a list of (image, label) or a dict of splits; got {type(source).__name__}: {advice}."
    )


def _read_pairs(pairs: Sequence[Any]) -> LabelledSplit:
    """Read a list of (image or path, label or class name)."""
    sources: list[Source] = []
    labels: list[Any] = []
    table = ImageTable("images", lambda index: split_item(pairs[index], f"images[{index}]")[0], in_memory=True)
    for index, pair in enumerate(pairs):
        try:
            image, label = split_item(pair, f"images[{index}]")
        except TypeError as error:
            advice = " Are these images and labels? Give list(zip(images, labels))." if len(pairs) == 2 else ""
            raise TypeError(f"A list of images must hold pairs (image or path, label): {error}{advice}") from None
        sources.append(_to_source(image, table, index))
        labels.append(label)
    return _make_split(sources, labels, None, "images", range(len(pairs)))


def _read_known(dataset: Any) -> LabelledSplit | None:
    """Read a data set of a known class, or a subset of one; None for others."""
    contents = read_labels_and_paths(dataset)
    if contents is None:
        return None
    name, inner, count = type(dataset).__name__, unwrap_subsets(dataset), len(contents.labels)
    table = ImageTable(name, lambda index: dataset[index][0])
    sources: list[Source] = [IndexedSource(table, index) for index in range(count)]
    names, notes = read_class_names(dataset), _transform_notes(inner)
    if names is not None and getattr(inner, "target_transform", None) is not None:
        names = None
        notes.append(f"{type(inner).__name__} has a target_transform, so its class names are not used.")
    return _make_split(list(contents.paths or sources), contents.labels, names, name, range(count), notes)


@dataclass
class _Items:
    """The items of an object by index, as far as they can be read.

    Attributes:
        count: Length of the object.
        table: Gives the images of the object.
        sources: The images.
        labels: The labels, unchanged.
        faults: The exceptions of the items that cannot be read.
    """

    count: int
    table: ImageTable
    sources: dict[int, Source] = field(default_factory=dict)
    labels: dict[int, Any] = field(default_factory=dict)
    faults: dict[int, Exception] = field(default_factory=dict)


def _read_items(dataset: Any, on_bad: OnBad) -> LabelledSplit:
    """Read any object with ``dataset[i] -> (image, label)``: each item is read once to learn its label."""
    name = type(dataset).__name__
    items = _read_each_item(dataset)
    if not items.labels:
        faults = _format_faults(name, items.faults) or "its length is 0"
        raise ValueError(f"{name} has no item that can be read: {faults}.")
    notes = [f"{name} does not list its labels: {plural(len(items.labels), 'image')} were read to learn them."]
    notes += [*_transform_notes(dataset), *_drop_missing_end(name, items)]
    listed, names = hugging_face.read_class_labels(dataset) or (read_listed_labels(dataset), read_class_names(dataset))
    agrees = listed is not None and all(_same_label(listed[index], label) for index, label in items.labels.items())
    if names is not None and listed is not None and not agrees:
        names = None
        notes.append(f"The items of {name} have other labels than it lists, so its class names are not used.")
    if listed is not None and agrees:  # then the label of an unreadable item is known, too
        items.labels |= {index: listed[index] for index in items.faults}
        items.sources |= {index: IndexedSource(items.table, index) for index in items.faults}
    elif items.faults:
        faults, count = _format_faults(name, items.faults), plural(len(items.faults), "item")
        if on_bad == "fail":
            raise ValueError(f"{count} of {name} cannot be read: {faults}.")
        notes.append(f"Left out {count} that cannot be read, so that their labels are unknown: {faults}.")
    order = sorted(items.labels)
    sources, labels = [items.sources[index] for index in order], [items.labels[index] for index in order]
    return _make_split(sources, labels, names, name, order, notes)


def _read_each_item(dataset: Any) -> _Items:
    name = type(dataset).__name__
    table = ImageTable(name, lambda index: split_item(dataset[index], f"{name}[{index}]")[0])
    items = _Items(_length(dataset), table)
    for index in range(items.count):
        item = _read_item(dataset, index)
        if isinstance(item, Exception):
            items.faults[index] = item
        else:
            image, items.labels[index] = split_item(item, f"{name}[{index}]")
            items.sources[index] = _to_source(image, table, index)
    return items


def _drop_missing_end(name: str, items: _Items) -> list[str]:
    """Forget the indices at the end that raise IndexError: the length is wrong; return a note on it."""
    end = max(items.labels) + 1
    if end == items.count or not all(isinstance(items.faults[index], IndexError) for index in range(end, items.count)):
        return []
    items.faults = {index: fault for index, fault in items.faults.items() if index < end}
    return [f"{name} has {plural(end, 'item')}, though its length is {items.count}."]


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except Exception as error:
        name = type(dataset).__name__
        raise TypeError(
            f"A data set must have a length; that of {name} is not available: {error_reason(error)}."
        ) from None


def _read_item(dataset: Any, index: int) -> Any:
    """Return one item, or the exception that it raises."""
    try:
        item = dataset[index]
    except Exception as error:  # whatever the user's code raises
        return error
    return ValueError("it is None") if item is None else item


def _format_faults(name: str, faults: Mapping[int, Exception]) -> str:
    return listing([f"{name}[{index}]: {error_reason(fault)}" for index, fault in faults.items()], 5, "; ")


def _same_label(listed: Any, label: Any) -> bool:
    """Return whether two labels are the same, whatever their types."""
    try:
        return parse_label(listed, "") == parse_label(label, "")
    except (TypeError, ValueError):
        return False


def _to_source(image: Any, table: ImageTable, index: int) -> Source:
    """Return the path if the image is one, else a reference to the item in the object."""
    if not is_path_like(image):
        return IndexedSource(table, index)
    try:
        return to_path(image)
    except ValueError as error:
        raise ValueError(f"{table.name}[{index}]: {image!r} cannot be an image: {error}.") from None


def _transform_notes(dataset: Any) -> list[str]:
    has_one = getattr(dataset, "transform", None) is not None or hugging_face.has_transform(dataset)
    return [f"The transform of {type(dataset).__name__} is applied before ours."] if has_one else []


def _make_split(
    sources: list[Source],
    labels: Sequence[Any],
    names: Mapping[int, str] | None,
    name: str,
    indices: Sequence[int],
    notes: Sequence[str] = (),
) -> LabelledSplit:
    """Make a split from labels of any type.

    Args:
        sources: The images.
        labels: Their labels, unchanged.
        names: Class names by number, if the object has any.
        name: The object's name, for messages.
        indices: The index of each image in the object.
        notes: What was decided so far.
    """
    parsed = [parse_label(label, f"{name}[{index}]") for index, label in zip(indices, labels, strict=True)]
    check_same_type(parsed, name, indices)
    kind = type(parsed[0]) if parsed else int
    if kind is bool and names is None:
        split = LabelledSplit(sources, list(map(str, parsed)))
    elif kind is str:
        in_order = tuple(names[number] for number in sorted(names)) if names else ()
        complete = len(set(in_order)) == len(in_order) and set(parsed) <= set(in_order)
        split = LabelledSplit(sources, list(map(str, parsed)), in_order if complete else None)
    else:
        split = _make_numbered_split(sources, list(map(int, parsed)), names)
    present = set(split.labels)
    absent = [split.names.get(label, label) for label in split.order or () if label not in present]
    absent_notes = (f"{name} has no image of {listing(absent)}.",) if absent else ()
    return replace(split, notes=(*notes, *absent_notes))


def _make_numbered_split(
    sources: list[Source], labels: Sequence[int], names: Mapping[int, str] | None
) -> LabelledSplit:
    """Make a split whose labels are class numbers; without names the classes are called "class 0" and so on."""
    allowed = range(max(labels, default=0) + 1) if names is None else sorted(names)
    wrong = [label for label in labels if label not in names] if names else [label for label in labels if label < 0]
    if wrong:
        contiguous = list(allowed) == list(range(len(allowed)))
        rule = f"lie in 0..{len(allowed) - 1}" if contiguous else f"be among {listing(list(map(str, allowed)))}"
        raise ValueError(
            f"Labels must {rule}, got {wrong[0]} ({plural(len(wrong), 'image')}). "
            f"Labels below 0 mean unlabelled: leave that split out."
        )
    texts = list(map(str, labels))
    if names is None:
        return LabelledSplit(sources, texts, names={text: f"class {text}" for text in texts})
    order = tuple(map(str, allowed))
    return LabelledSplit(sources, texts, order, {str(number): names[number] for number in allowed})
