"""The tasks of the embedded suite: their classes, and the sets of training, test and shifted images.

All sets are held out: no backbone was trained on them. Training and test images of a task never show the same drawing,
but two renderings of one vendor's emoji share silhouettes; the shifted domains share nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

VIEWS = {"train": 16, "val": 4, "test": 8}  # images per class
DOMAIN_VIEWS = 2
MORE_TEST_VIEWS = 22  # with the 8 above 30 test images per class; they take 4 MB


@dataclass(frozen=True)
class Plan:
    """One task.

    Attributes:
        train: Sets of the training and validation images (different views of the same drawings).
        test: Sets of the test images.
        domains: Sets of each shifted domain, which lacks classes without a drawing.
        shared: What training and test images have in common, in one sentence.
        template: The text for a class name.
        prefix: The text before the class name in the concept's name.
        mirror: Whether a mirrored drawing shows the same class.
        more: Other names of a class in sets of icons.
        skip: Drawings that do not show what their names say, as "SET NAME".
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    domains: Mapping[str, tuple[str, ...]]
    shared: str
    template: str = "a picture of a {}."
    prefix: str = ""
    mirror: bool = True
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skip: frozenset[str] = frozenset()


def _emoji(name: str, classes: str, *skip: str) -> Plan:
    return Plan(
        name,
        tuple(sorted(part.strip() for part in classes.split(","))),
        train=("fluent-emoji",),
        test=("fluent-emoji-flat",),
        domains={
            "outline": ("fluent-emoji-high-contrast",),
            "fxemoji": ("fxemoji",),
            "streamline": ("streamline-emojis",),
        },
        shared="Training and validation images are views of one shaded drawing a class, test images of the same "
        "vendor's flat drawing, which has the same silhouette; so has the domain 'outline'. The domains 'fxemoji' and "
        "'streamline' are other artists' drawings.",
        skip=frozenset(skip),
    )


PLANS = (
    _emoji(
        "animals",
        "ant, baby chick, bear, blowfish, camel, cat, chicken, cow, crocodile, dog, dolphin, elephant, frog, goat, "
        "honeybee, horse, koala, lady beetle, monkey, mouse, octopus, panda, pig, snail, snake, tiger, turtle, wolf",
    ),
    _emoji(
        "food",
        "banana, beer mug, bread, candy, cherries, cocktail glass, cookie, custard, doughnut, french fries, "
        "fried shrimp, grapes, hamburger, honey pot, lemon, peach, pear, poultry leg, red apple, rice ball, "
        "shaved ice, spaghetti, sushi, tomato",
    ),
    _emoji(
        "travel",
        "airplane, ambulance, automobile, barber pole, bicycle, bus, castle, delivery truck, factory, ferris wheel, "
        "fire engine, fountain, helicopter, hospital, hot springs, locomotive, rocket, sailboat, ship, taxi, tent, "
        "tractor, train, volcano",
    ),
    _emoji(
        "objects",
        "artist palette, balloon, bathtub, bell, briefcase, camera, credit card, crown, door, dress, guitar, hammer, "
        "handbag, headphone, hourglass done, jeans, light bulb, microscope, open book, package, sunglasses, syringe, "
        "television, watch",
        "fxemoji sunglasses",  # a face that wears some
    ),
    _emoji(
        "faces",
        "anxious face with sweat, astonished face, beaming face with smiling eyes, confounded face, disappointed face, "
        "face with medical mask, face with steam from nose, fearful face, flushed face, grimacing face, kissing face, "
        "neutral face, pensive face, sleeping face, smiling face with halo, smiling face with heart-eyes, "
        "smirking face, tired face, unamused face, worried face",
    ),
    Plan(
        "flags",
        (
            *("Austria", "Brazil", "Canada", "Denmark", "France", "Germany", "Greece", "Hungary", "India", "Italy"),
            *("Japan", "Mexico", "Netherlands", "Norway", "Romania", "South Korea", "Spain", "Switzerland", "Thailand"),
            "United States",
        ),
        train=("flag", "cif"),
        test=("flagpack",),
        domains={"circle": ("circle-flags",), "waving": ("flagpack",), "streamline": ("streamline-emojis",)},
        shared="A flag's design is the same everywhere; training and test images are different artists' drawings of "
        "it, with other proportions, shades and details. The domain 'waving' bends the test drawings.",
        template="a picture of the flag of {}.",
        prefix="flag of ",
        mirror=False,
    ),
    Plan(
        "icons",
        (
            *("bell", "bookmark", "calculator", "calendar", "camera", "clock", "cloud", "database", "eye", "file"),
            *("flag", "folder", "gift", "headphones", "heart", "key", "keyboard", "lock", "printer", "scissors"),
        ),
        train=("lucide", "ph", "heroicons"),
        test=("solar",),
        domains={
            "pixel": ("pixelarticons", "pixel"),
            "hand-drawn": ("streamline-freehand-color", "pepicons-pencil"),
            "colour": ("flat-color-icons", "streamline-ultimate-color"),
        },
        shared="Test images and each domain are drawn by other artists than the training images.",
        template="an icon of a {}.",
        mirror=False,
        more={
            "camera": ("photo camera",),
            "clock": ("time",),
            "file": ("document",),
            "gift": ("present",),
            "headphones": ("headphone",),
            "lock": ("locked", "padlock"),
            "printer": ("print",),
            "scissors": ("cut",),
        },
        skip=frozenset(  # film cameras, a rain cloud
            {f"pepicons-pencil camera{ending}" for ending in ("", "-circle", "-circle-filled")} | {"pixel cloud"}
        ),
    ),
)
