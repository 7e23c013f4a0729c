"""Reads data-set objects: torchvision's, Hugging Face's, one's own, and lists of pairs.

Known classes tell their labels without decoding; every other object is asked for each of its items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from selfprompt.data.dataset import ImageTable, IndexedSource, Source
from selfprompt.data.loading.check_images import OnBad
from selfprompt.data.loading.image_files import error_reason
from selfprompt.data.loading.image_inputs import is_path_like, to_path
from selfprompt.data.readers import hugging_face
from selfprompt.data.readers.labels import check_alike, image_and_label, plain_label
from selfprompt.data.readers.splits import Part
from selfprompt.data.readers.torchvision_sets import class_names, innermost, known, recorded_labels
from selfprompt.utils.wording import listing, plural


def read_object(source: Any, on_bad: OnBad = "skip") -> Part:
    """The images of one data-set object, as one split.

    Args:
        source: The object.
        on_bad: Whether to leave out an item that cannot be read, so that its label is unknown, or to raise.

    Raises:
        TypeError: If the object is of no known kind.
        ValueError: If its labels cannot be used.
    """
    if hugging_face.is_streaming(source):
        raise ValueError("A streaming data set has no order to draw from: load it without streaming=True.")
    if hugging_face.is_hugging_face(source):
        sources, labels, names, notes = hugging_face.read_columns(source)
        return _part(sources, labels, dict(enumerate(names)) if names else None, "data set", range(len(labels)), notes)
    if isinstance(source, (list, tuple)):
        return _read_pairs(source)
    _check_kind(source)
    return _read_known(source) or _read_items(source, on_bad)


def _check_kind(source: Any) -> None:
    """Raise TypeError unless an object can be asked for items by number."""
    by_number, counted = hasattr(source, "__getitem__"), hasattr(source, "__len__")
    if hasattr(source, "iloc") or (hasattr(source, "shape") and hasattr(source, "dtype")):
        advice = "an array or table does not tell images from labels: give a list, list(zip(images, labels))"
    elif hasattr(source, "dataset") and hasattr(source, "batch_size") and not by_number:
        advice = "give its data set, loader.dataset, and not its batches"
    elif hasattr(source, "__iter__") and not (by_number and counted):
        advice = "it can be run through, but has no order to draw from: give a list of its pairs, list(...)"
    elif not (by_number and counted):
        advice = "a data set of one's own needs __len__ and __getitem__"
    else:
        return
    raise TypeError(
        f"A data source must be a folder, a manifest (.csv, .tsv, .parquet), a torchvision or Hugging Face "
        f"data set, a list of (image, label) or a dict of splits; got {type(source).__name__}: {advice}."
    )


def _read_pairs(pairs: Sequence[Any]) -> Part:
    """A list of (image or path, label or class name)."""
    sources: list[Source] = []
    labels: list[Any] = []
    table = ImageTable("images", lambda index: image_and_label(pairs[index], f"images[{index}]")[0], in_memory=True)
    for index, pair in enumerate(pairs):
        try:
            image, label = image_and_label(pair, f"images[{index}]")
        except TypeError as error:
            advice = " Are these images and labels? Give list(zip(images, labels))." if len(pairs) == 2 else ""
            raise TypeError(f"A list of images must hold pairs (image or path, label): {error}{advice}") from None
        sources.append(_source(image, table, index))
        labels.append(label)
    return _part(sources, labels, None, "images", range(len(pairs)))


def _read_known(dataset: Any) -> Part | None:
    """A data set of a class that is known, or a subset of one; None for others."""
    found = known(dataset)
    if found is None:
        return None
    name, inner, count = type(dataset).__name__, innermost(dataset), len(found.labels)
    table = ImageTable(name, lambda index: dataset[index][0])
    sources: list[Source] = [IndexedSource(table, index) for index in range(count)]
    names, notes = class_names(dataset), _transform_notes(inner)
    if names is not None and getattr(inner, "target_transform", None) is not None:
        names = None
        notes.append(f"{type(inner).__name__} has a target_transform, so its class names are not used.")
    return _part(list(found.paths or sources), found.labels, names, name, range(count), notes)


def _read_items(dataset: Any, on_bad: OnBad) -> Part:
    """Any object with ``dataset[i] -> (image, label)``: every item is read once to learn its label."""
    name = type(dataset).__name__
    table = ImageTable(name, lambda index: image_and_label(dataset[index], f"{name}[{index}]")[0])
    sources: dict[int, Source] = {}
    labels: dict[int, Any] = {}
    faults: dict[int, Exception] = {}
    count = _length(dataset)
    for index in range(count):
        item = _item(dataset, index)
        if isinstance(item, Exception):
            faults[index] = item
        else:
            image, labels[index] = image_and_label(item, f"{name}[{index}]")
            sources[index] = _source(image, table, index)
    if not labels:
        raise ValueError(f"{name} has no item that can be read: {_told(name, faults) or 'its length is 0'}.")
    notes = [f"{name} does not tell its labels: {plural(len(labels), 'image')} were read to learn them."]
    notes += _transform_notes(dataset)
    end = max(labels) + 1
    if end < count and all(isinstance(faults[index], IndexError) for index in range(end, count)):
        notes.append(f"{name} has {plural(end, 'item')}, though its length is {count}.")
        faults = {index: fault for index, fault in faults.items() if index < end}
    recorded, names = hugging_face.recorded(dataset) or (recorded_labels(dataset), class_names(dataset))
    agrees = recorded is not None and all(_same(recorded[index], label) for index, label in labels.items())
    if names is not None and recorded is not None and not agrees:
        names = None
        notes.append(f"The items of {name} have other labels than it lists, so its class names are not used.")
    if recorded is not None and agrees:  # then the label of an unreadable item is known, too
        labels |= {index: recorded[index] for index in faults}
        sources |= {index: IndexedSource(table, index) for index in faults}
    elif faults and on_bad == "fail":
        raise ValueError(f"{plural(len(faults), 'item')} of {name} cannot be read: {_told(name, faults)}.")
    elif faults:
        notes.append(
            f"Left out {plural(len(faults), 'item')} that cannot be read, so that their labels are unknown: "
            f"{_told(name, faults)}."
        )
    order = sorted(labels)
    return _part([sources[i] for i in order], [labels[i] for i in order], names, name, order, notes)


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except Exception as error:
        name = type(dataset).__name__
        raise TypeError(
            f"A data set must have a length; that of {name} cannot be had: {error_reason(error)}."
        ) from None


def _item(dataset: Any, index: int) -> Any:
    """One item, or the exception that it raises."""
    try:
        item = dataset[index]
    except Exception as error:  # whatever somebody's own reading raises
        return error
    return ValueError("it is None") if item is None else item


def _told(name: str, faults: Mapping[int, Exception]) -> str:
    return listing([f"{name}[{index}]: {error_reason(fault)}" for index, fault in faults.items()], 5, "; ")


def _same(recorded: Any, label: Any) -> bool:
    """Whether two labels are one, of whatever kind they came."""
    try:
        return plain_label(recorded, "") == plain_label(label, "")
    except (TypeError, ValueError):
        return False


def _source(image: Any, table: ImageTable, index: int) -> Source:
    """A path where the image is one, else where it stands in the object."""
    if not is_path_like(image):
        return IndexedSource(table, index)
    try:
        return to_path(image)
    except ValueError as error:
        raise ValueError(f"{table.name}[{index}]: {image!r} cannot be an image: {error}.") from None


def _transform_notes(dataset: Any) -> list[str]:
    has_one = getattr(dataset, "transform", None) is not None or hugging_face.has_transform(dataset)
    return [f"The transform of {type(dataset).__name__} is applied before ours."] if has_one else []


def _part(
    sources: list[Source],
    labels: Sequence[Any],
    names: Mapping[int, str] | None,
    name: str,
    indices: Sequence[int],
    notes: Sequence[str] = (),
) -> Part:
    """A split from labels of any kind.

    Args:
        sources: The images.
        labels: Their labels, as they came.
        names: Class names by number, where the object has some.
        name: What to call the object in messages.
        indices: Where the images stand in it.
        notes: What was decided so far.
    """
    plain = [plain_label(label, f"{name}[{index}]") for index, label in zip(indices, labels, strict=True)]
    check_alike(plain, name, indices)
    kind = type(plain[0]) if plain else int
    if kind is bool and names is None:
        part = Part(sources, list(map(str, plain)))
    elif kind is str:
        in_order = tuple(names[number] for number in sorted(names)) if names else ()
        whole = len(set(in_order)) == len(in_order) and set(plain) <= set(in_order)
        part = Part(sources, list(map(str, plain)), in_order if whole else None)
    else:
        part = _numbered(sources, list(map(int, plain)), names)
    seen = set(part.labels)
    unseen = [part.names.get(label, label) for label in part.order or () if label not in seen]
    told = (f"{name} has no image of {listing(unseen)}.",) if unseen else ()
    return replace(part, notes=(*notes, *told))


def _numbered(sources: list[Source], labels: Sequence[int], names: Mapping[int, str] | None) -> Part:
    """A part whose labels are class numbers; without names they are called "class 0" and so on."""
    allowed = range(max(labels, default=0) + 1) if names is None else sorted(names)
    wrong = [label for label in labels if label not in names] if names else [n for n in labels if n < 0]
    if wrong:
        together = list(allowed) == list(range(len(allowed)))
        rule = f"lie in 0..{len(allowed) - 1}" if together else f"be among {listing(list(map(str, allowed)))}"
        raise ValueError(
            f"Labels must {rule}, got {wrong[0]} ({plural(len(wrong), 'image')}). "
            f"Labels below 0 mean unlabelled: leave that split out."
        )
    words = list(map(str, labels))
    if names is None:
        return Part(sources, words, names={word: f"class {word}" for word in words})
    order = tuple(map(str, allowed))
    return Part(sources, words, order, {str(number): names[number] for number in allowed})
