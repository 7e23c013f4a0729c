"""Hand-written templates for class names, by data set; plain strings and their rule, for `data` and `methods`."""

PHOTO = "a photo of a {}."

# CoOp's templates for zero-shot CLIP, the first row of every table; other authors' are in benchmarks/settings.yaml.
TEMPLATES = {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "food101": "a photo of {}, a type of food.",
    "ucf101": "a photo of a person doing {}.",
}


def check_template(template: str) -> None:
    """Raise ValueError unless the template contains ``{}`` exactly once, for the class name."""
    if template.count("{}") != 1:
        raise ValueError(f"template must contain {{}} once, for the class name; got {template!r}.")
