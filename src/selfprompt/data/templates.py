"""Hand-written texts for class names, by data set; plain strings, so that data and texts can both read them."""

PHOTO = "a photo of a {}."

# As CoOp's zero-shot CLIP has them, which is the first row of every table; what other authors wrote instead is in
# benchmarks/settings.yaml.
TEMPLATES = {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "food101": "a photo of {}, a type of food.",
    "ucf101": "a photo of a person doing {}.",
}
