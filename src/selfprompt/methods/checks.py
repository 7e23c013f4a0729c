"""Checks of what a method is given: class names and option values."""

from collections.abc import Sequence

from selfprompt.data.class_description import ClassDescription, Described, describe_all
from selfprompt.data.class_names import clean_name
from selfprompt.methods.class_texts import check_distinct_tokens
from selfprompt.methods.traits import Traits
from selfprompt.models.loading.by_name import Backbone


def check_names(class_names: Sequence[str], reader: Backbone | None = None) -> tuple[str, ...]:
    """Return the cleaned class names.

    Args:
        class_names: As given by the user.
        reader: A backbone whose tokenizer must tell the names apart; None for methods that do not read them.

    Raises:
        ValueError: If there are fewer than two, one is empty, or two are the same, as texts or as tokens.
        TypeError: If they are a single text.
    """
    if isinstance(class_names, str):
        raise TypeError(f"Class names must be a list of texts, got the text {class_names!r}.")
    names = [clean_name(str(n)) for n in class_names]
    if len(names) < 2:
        raise ValueError(f"A classifier needs at least 2 class names, got {len(names)}.")
    if not all(names):
        raise ValueError(f"Class names must not be empty, got {list(class_names)}.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        given = [str(n) for n, name in zip(class_names, names, strict=True) if name in twice and str(n) != name]
        written = f" (written {', '.join(map(ascii, given))})" if given else ""
        raise ValueError(f"Class names must differ, got {', '.join(twice)} twice{written}: merge them, or rename one.")
    if reader is not None and reader.text is not None:
        check_distinct_tokens(reader, names)
    return tuple(names)


def check_classes(classes: Sequence[Described], reader: Backbone | None = None) -> tuple[ClassDescription, ...]:
    """Return the descriptions of the classes.

    Args:
        classes: Names or descriptions, as given by the user.
        reader: A backbone whose tokenizer must tell the names of different classes apart; None for methods that do not
            read them.

    Raises:
        ValueError: If a description is wrong, there are fewer than two classes, or two classes share a name, as texts
            or as tokens.
        TypeError: If they are a single text, or a description has the wrong type.
    """
    if isinstance(classes, str) or all(isinstance(one, str) for one in classes):
        return describe_all(check_names(classes, reader))  # type: ignore[arg-type]
    described = describe_all(classes)
    check_names([one.name for one in described], None)
    check_names([name for one in described for name in one.names], reader)
    return described


def can_edit(traits: Traits, backbone: Backbone) -> bool:
    """Return whether the backbone has the blocks that a method with these traits edits."""
    return "image" not in traits.edits or backbone.vision.has_blocks


def check_blocks(name: str, traits: Traits, backbone: Backbone) -> None:
    """Raise TypeError if a method edits an image side of which only features are known."""
    if not can_edit(traits, backbone):
        readers = (
            "zero-shot, coop, tip-adapter, ridge" if backbone.text is not None else "ridge, logistic, linear, full"
        )
        raise TypeError(
            f"{name} puts prompts into the image side or changes its blocks, and of {backbone.name} only the image "
            f"features are known: use a method that reads them ({readers}), or a ViT."
        )


def check_positive(**numbers: int) -> None:
    """Raise ValueError for the first option that is not at least 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")


def check_views(views: int) -> None:
    """Raise ValueError for a negative number of random views; 0 stands for the evaluation view."""
    if views < 0:
        raise ValueError(f"views must be 0 (the evaluation view) or above, got {views}.")


def check_images_per_step(count: int) -> None:
    """Raise ValueError for a negative number of images in a step; 0 stands for all of them."""
    if count < 0:
        raise ValueError(f"images_per_step must be 0 (all training images) or above, got {count}.")
