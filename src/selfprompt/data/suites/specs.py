"""Specifications of the published data sets: folders, files, counts and checksums on disk. One table per suite."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Counts = tuple[int, int, int]


@dataclass(frozen=True)
class DatasetSpec:
    """The layout and size of a published data set.

    Attributes:
        suite: "coop", "vtab" or "fgvc".
        name: Name within the suite.
        folder: Its folder below the data root.
        classes: Number of classes.
        counts: Images in train, val and test; 0 where it has no such split.
        images: Image folders below ``folder``; of several names for one folder, the first is the usual one.
        base: Base of the paths in its split file: "images" or "folder".
        lists: The files that hold splits and class names.
        checksums: File -> SHA-256, for the files whose published content is known.
        aliases: Other folders below the root that are accepted, because other published code uses them.
        other_layouts: Names of folders in another layout, such as torchvision's; recognised, but not accepted.
    """

    suite: str
    name: str
    folder: str
    classes: int
    counts: Counts
    images: tuple[str, ...] = ()
    base: str = "images"
    lists: tuple[str, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    other_layouts: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Suite and name, "coop/oxford_pets"."""
        return f"{self.suite}/{self.name}"


def _coop(
    name: str,
    folder: str,
    images: str,
    split: str,
    classes: int,
    counts: Counts,
    sha256: str = "",
    **others: tuple[str, ...],
) -> DatasetSpec:
    """Specify a data set whose splits are in a split_zhou_*.json."""
    file = f"split_zhou_{split}.json"
    checksums = {file: sha256} if sha256 else {}
    return DatasetSpec("coop", name, folder, classes, counts, (images,), "images", (file,), checksums, **others)


COOP = (
    DatasetSpec(
        "coop",
        "imagenet",
        "imagenet",
        1000,
        (1_281_167, 0, 50_000),
        images=("images/train", "train"),
        lists=("classnames.txt",),
        aliases=("ImageNet", "ILSVRC2012"),
    ),
    _coop(
        "caltech101",
        "caltech-101",
        "101_ObjectCategories",
        "Caltech101",
        100,
        (4_128, 1_649, 2_465),
        "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
        aliases=("Caltech101",),
    ),
    _coop(
        "oxford_pets",
        "oxford_pets",
        "images",
        "OxfordPets",
        37,
        (2_944, 736, 3_669),
        "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
        aliases=("OxfordPets",),
        other_layouts=("oxford-iiit-pet",),
    ),
    DatasetSpec(
        "coop",
        "stanford_cars",
        "stanford_cars",
        196,
        (6_509, 1_635, 8_041),
        ("cars_train", "cars_test"),
        "folder",
        ("split_zhou_StanfordCars.json",),
        {"split_zhou_StanfordCars.json": "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d"},
        aliases=("StanfordCars",),
        other_layouts=("cars196", "car_data"),
    ),
    _coop(
        "oxford_flowers",
        "oxford_flowers",
        "jpg",
        "OxfordFlowers",
        102,
        (4_093, 1_633, 2_463),
        "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
        aliases=("Flower102",),
        other_layouts=("flowers-102", "102flowers"),
    ),
    _coop("food101", "food-101", "images", "Food101", 101, (50_500, 20_200, 30_300), aliases=("Food101",)),
    DatasetSpec(
        "coop",
        "fgvc_aircraft",
        "fgvc_aircraft",
        100,
        (3_334, 3_333, 3_333),
        images=("images",),
        lists=(
            "variants.txt",
            "images_variant_train.txt",
            "images_variant_val.txt",
            "images_variant_test.txt",
        ),
        other_layouts=("fgvc-aircraft-2013b",),
    ),
    _coop("sun397", "sun397", "SUN397", "SUN397", 397, (15_880, 3_970, 19_850), aliases=("SUN397",)),
    _coop(
        "dtd",
        "dtd",
        "images",
        "DescribableTextures",
        47,
        (2_820, 1_128, 1_692),
        "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
        aliases=("DTD",),
        other_layouts=("dtd-r1.0.1",),
    ),
    _coop(
        "eurosat",
        "eurosat",
        "2750",
        "EuroSAT",
        10,
        (13_500, 5_400, 8_100),
        "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
        aliases=("EuroSAT",),
    ),
    _coop(
        "ucf101",
        "ucf101",
        "UCF-101-midframes",
        "UCF101",
        101,
        (7_639, 1_898, 3_783),
        "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
        aliases=("UCF101",),
        other_layouts=("UCF-101",),
    ),
    DatasetSpec(
        "coop",
        "imagenetv2",
        "imagenetv2",
        1000,
        (0, 0, 10_000),
        images=("imagenetv2-matched-frequency-format-val",),
        aliases=("ImageNetV2",),
        other_layouts=("imagenetv2-matched-frequency",),
    ),
    DatasetSpec("coop", "imagenet_sketch", "imagenet-sketch", 1000, (0, 0, 50_889), images=("images",)),
    DatasetSpec("coop", "imagenet_a", "imagenet-adversarial", 200, (0, 0, 7_500), images=("imagenet-a",)),
    DatasetSpec("coop", "imagenet_r", "imagenet-rendition", 200, (0, 0, 30_000), images=("imagenet-r",)),
)

VTAB_LISTS = ("train800.txt", "val200.txt", "test.txt")


def _vtab(name: str, classes: int, test: int, spt: str) -> DatasetSpec:
    """Specify a task in the layout of NOAH and SSF; ``spt`` is SPT's folder."""
    aliases = (name, f"vtab-1k/{spt}", spt)
    return DatasetSpec(
        "vtab", name, f"vtab-1k/{name}", classes, (800, 200, test), base="folder", lists=VTAB_LISTS, aliases=aliases
    )


VTAB = (
    _vtab("cifar", 100, 10_000, "Natural/CIFAR100"),
    _vtab("caltech101", 102, 6_084, "Natural/Caltech101"),
    _vtab("dtd", 47, 1_880, "Natural/DTD"),
    _vtab("oxford_flowers102", 102, 6_149, "Natural/oxford_flowers102"),
    _vtab("oxford_iiit_pet", 37, 3_669, "Natural/oxford_iiit_pet"),
    _vtab("svhn", 10, 26_032, "Natural/SVHN"),
    _vtab("sun397", 397, 21_750, "Natural/SUN397"),
    _vtab("patch_camelyon", 2, 32_768, "Specialized/Patch_Camelyon"),
    _vtab("eurosat", 10, 5_400, "Specialized/Eurosat"),
    _vtab("resisc45", 45, 6_300, "Specialized/Resisc45"),
    _vtab("diabetic_retinopathy", 5, 42_670, "Specialized/Retinopathy"),
    _vtab("clevr_count", 8, 15_000, "Structured/Clevr_Count"),
    _vtab("clevr_dist", 6, 15_000, "Structured/Clevr_Dist"),
    _vtab("dmlab", 6, 22_735, "Structured/DMLab"),
    _vtab("kitti", 4, 711, "Structured/Kitti"),
    _vtab("dsprites_loc", 16, 73_728, "Structured/Dsprites_loc"),
    _vtab("dsprites_ori", 16, 73_728, "Structured/Dsprites_ori"),
    _vtab("smallnorb_azi", 18, 12_150, "Structured/Smallnorb_azi"),
    _vtab("smallnorb_ele", 9, 12_150, "Structured/Smallnorb_ele"),
)

VPT_LISTS = ("train.json", "val.json", "test.json")


def _fgvc(
    name: str,
    folder: str,
    classes: int,
    counts: Counts,
    images: tuple[str, ...],
    spt_lists: str,
    aliases: tuple[str, ...],
) -> DatasetSpec:
    """Specify a data set with VPT's splits or SPT's two lists, which may have VPT's validation images in train."""
    lists = (*VPT_LISTS, f"{spt_lists}_train.txt", f"{spt_lists}_test.txt")
    return DatasetSpec("fgvc", name, f"fgvc/{folder}", classes, counts, images, lists=lists, aliases=(folder, *aliases))


FGVC = (
    _fgvc("cub", "CUB_200_2011", 200, (5_394, 600, 5_794), ("images",), "cub200", ("fgvc/CUB", "CUB", "cub")),
    _fgvc("nabirds", "nabirds", 555, (21_536, 2_393, 24_633), ("images",), "NABirds", ("fgvc/NABirds", "NABirds")),
    _fgvc(
        "oxford_flowers",
        "OxfordFlowers",
        102,
        (1_020, 1_020, 6_149),
        ("jpg", "102flowers"),
        "Flowes",  # as SPT spells it
        ("fgvc/Flowers", "Flowers"),
    ),
    _fgvc(
        "stanford_dogs",
        "StanfordDogs",
        120,
        (10_800, 1_200, 8_580),
        ("Images", "images"),
        "Dogs",
        ("fgvc/Stanford-dogs", "Stanford-dogs", "fgvc/Dogs", "Dogs"),
    ),
    _fgvc(
        "stanford_cars",
        "StanfordCars",
        196,
        (7_329, 815, 8_041),
        ("car_ims",),
        "Cars",
        ("fgvc/Stanford-cars", "Stanford-cars", "fgvc/Cars", "Cars"),
    ),
)

SPECS = {spec.key: spec for spec in (*COOP, *VTAB, *FGVC)}
