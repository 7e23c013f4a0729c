"""Hand-written texts for class names, by data set; plain strings, so that data and texts can both read them."""

PHOTO = "a photo of a {}."

# As the SEP authors' code has them: the class texts that SEP stays close to.
TEMPLATES = {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of an aircraft {}.",
    "dtd": "a photo of a {}, a type of texture.",
    "eurosat": "a centered satellite photo of {}.",
    "stanford_cars": "a photo of a {}, a type of car.",
    "food101": "a photo of a {}, a type of food.",
    "ucf101": "a photo of a person doing {}.",
}
