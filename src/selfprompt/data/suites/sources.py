"""Sources of the published data sets: home page, terms, and the files that `selfprompt data get` may fetch.

URLs are those of the publishers where they still work, else of copies on the Hugging Face hub; all are https.
Checksums are from torchvision and TensorFlow Datasets, or git's for a file at a fixed revision.
Terms are as commonly stated: read the publisher's before you pass data on.
"""

from dataclasses import dataclass

_HUB = "https://huggingface.co/zhengli97/prompt_learning_dataset/resolve/ceb3112337fb6e1bf71534e355ca5569b63f19a6"
_SPLITS = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/c7e7e68ae4eeadfab98e7886b2d6c9cf48a7ceb5/splits"
)
_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"


@dataclass(frozen=True)
class Download:
    """One file to download, and the paths to keep of it.

    Attributes:
        url: Its URL.
        keep: Paths to keep, relative to the data set's folder. In an archive, each is the member with the shortest
            path that ends in it; a file that is not an archive is kept under its one name.
        checksum: "md5:...", "sha256:..." or "git:..." (see `download.verify_checksum`); "" where none is known.
        archive: Local name of the archive, whose suffix gives its kind; "" for a file that is kept as it is.
        inner_archive: Archive inside the archive that holds the paths to keep.
    """

    url: str
    keep: tuple[str, ...]
    checksum: str = ""
    archive: str = ""
    inner_archive: str = ""


@dataclass(frozen=True)
class DatasetSource:
    """The source of a data set.

    Attributes:
        home: Its home page, or what to search for.
        terms: Its licence in a few words.
        downloads: The files that can be fetched.
        manual_steps: What else a person has to do, in a sentence; "" if nothing.
    """

    home: str
    terms: str
    downloads: tuple[Download, ...] = ()
    manual_steps: str = ""

    @property
    def attribution(self) -> str:
        """Return home page and terms in one sentence."""
        return f"{self.home}; terms: {self.terms}."


def _split(name: str, digest: str) -> Download:
    file = f"split_zhou_{name}.json"
    return Download(f"{_SPLITS}/{file}", (file,), f"{'sha256' if len(digest) == 64 else 'git'}:{digest}")


def _hub(archive: str, *keep: str) -> Download:
    return Download(f"{_HUB}/{archive}", keep, archive=archive)


_SEE_IMAGENET = "Its class names are in classnames.txt of imagenet (or a copy of it in its own folder)."

_COOP = {
    "imagenet": DatasetSource(
        "https://image-net.org",
        "research only, after registration",
        (Download(f"{_DRIVE}1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF", ("classnames.txt",)),),
        "Register at image-net.org, unpack ILSVRC2012 so that imagenet/images/train and imagenet/images/val hold a "
        "folder for each class.",
    ),
    "caltech101": DatasetSource(
        "https://data.caltech.edu/records/mzrjq-6wc02",
        "CC BY 4.0",
        (
            Download(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                ("101_ObjectCategories",),
                "md5:3138e1922a9193bfa496528edbbc45d0",
                "caltech-101.zip",
                "101_ObjectCategories.tar.gz",
            ),
            _split("Caltech101", "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5"),
        ),
    ),
    "oxford_pets": DatasetSource(
        f"{_VGG}/pets",
        "CC BY-SA 4.0",
        (
            Download(
                f"{_VGG}/pets/data/images.tar.gz",
                ("images",),
                "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
                "images.tar.gz",
            ),
            _split("OxfordPets", "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e"),
        ),
    ),
    "stanford_cars": DatasetSource(
        "Stanford AI Lab (the original pages are gone)",
        "non-commercial research",
        (
            _hub("stanford_cars.zip", "cars_train", "cars_test"),
            _split("StanfordCars", "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d"),
        ),
    ),
    "oxford_flowers": DatasetSource(
        f"{_VGG}/flowers/102",
        "none stated",
        (
            Download(
                f"{_VGG}/flowers/102/102flowers.tgz",
                ("jpg",),
                "md5:52808999861908f626f3c1f4e79d11fa",
                "102flowers.tgz",
            ),
            _split("OxfordFlowers", "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794"),
        ),
    ),
    "food101": DatasetSource(
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        "none stated",
        (
            Download(
                "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                ("images",),
                "md5:85eeb15f3717b99a5da872d97d918f87",
                "food-101.tar.gz",
            ),
            _split("Food101", "39557040ee6501bd32aa8b5dfd75f7941a32f0a7"),
        ),
    ),
    "fgvc_aircraft": DatasetSource(
        f"{_VGG}/fgvc-aircraft",
        "non-commercial research",
        (
            Download(
                f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                (
                    "images",
                    "variants.txt",
                    "images_variant_train.txt",
                    "images_variant_val.txt",
                    "images_variant_test.txt",
                ),
                "md5:d4acdd33327262359767eeaa97a4f732",
                "fgvc-aircraft-2013b.tar.gz",
            ),
        ),
    ),
    "sun397": DatasetSource(
        "https://vision.princeton.edu/projects/2010/SUN",
        "none stated",
        (
            Download(
                "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                ("SUN397",),
                "md5:8ca2778205c41d23104230ba66911c7a",
                "SUN397.tar.gz",
            ),
            _split("SUN397", "8d5725db8f70bcf02245665304f863e68f96a24c"),
        ),
    ),
    "dtd": DatasetSource(
        f"{_VGG}/dtd",
        "research",
        (
            Download(
                f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz",
                ("images",),
                "md5:fff73e5086ae6bdbea199a49dfb8a4c1",
                "dtd-r1.0.1.tar.gz",
            ),
            _split("DescribableTextures", "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38"),
        ),
    ),
    "eurosat": DatasetSource(
        "https://github.com/phelber/eurosat",
        "MIT",
        (
            Download(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                ("2750",),
                "md5:c8fa014336c82ac7804f0398fcb19387",
                "EuroSAT.zip",
            ),
            _split("EuroSAT", "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2"),
        ),
    ),
    "ucf101": DatasetSource(
        "https://www.crcv.ucf.edu/data/UCF101.php",
        "none stated",
        (
            Download(
                f"{_DRIVE}10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O",
                ("UCF-101-midframes",),
                archive="UCF-101-midframes.zip",
            ),
            _split("UCF101", "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8"),
        ),
    ),
    "imagenetv2": DatasetSource(
        "https://github.com/modestyachts/ImageNetV2",
        "MIT",
        (
            Download(
                "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
                ("imagenetv2-matched-frequency-format-val",),
                "sha256:f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
                "imagenetv2-matched-frequency.tar.gz",
            ),
        ),
        _SEE_IMAGENET,
    ),
    "imagenet_sketch": DatasetSource(
        "https://github.com/HaohanWang/ImageNet-Sketch",
        "MIT",
        (_hub("imagenet-sketch.zip", "images"),),
        _SEE_IMAGENET,
    ),
    "imagenet_a": DatasetSource(
        "https://github.com/hendrycks/natural-adv-examples",
        "MIT",
        (_hub("imagenet-adversarial.zip", "imagenet-a"),),
        _SEE_IMAGENET,
    ),
    "imagenet_r": DatasetSource(
        "https://github.com/hendrycks/imagenet-r",
        "MIT",
        (_hub("imagenet-rendition.zip", "imagenet-r"),),
        _SEE_IMAGENET,
    ),
}

_VPT = (
    "Put train.json, val.json and test.json there, from VPT (https://github.com/KMnP/vpt) or "
    "https://huggingface.co/datasets/XiN0919/FGVC (json.zip)."
)

_FGVC = {
    "cub": DatasetSource(
        "https://data.caltech.edu/records/65de6-vp158",
        "non-commercial research",
        (
            Download(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                ("images",),
                "md5:97eceeb196236b17998738112f37df78",
                "CUB_200_2011.tgz",
            ),
        ),
        _VPT,
    ),
    "nabirds": DatasetSource(
        "https://dl.allaboutbirds.org/nabirds",
        "non-commercial research, after registration",
        manual_steps=f"Register at the Cornell Lab of Ornithology and unpack nabirds. {_VPT}",
    ),
    "oxford_flowers": DatasetSource(
        f"{_VGG}/flowers/102",
        "none stated",
        (
            Download(
                f"{_VGG}/flowers/102/102flowers.tgz",
                ("jpg",),
                "md5:52808999861908f626f3c1f4e79d11fa",
                "102flowers.tgz",
            ),
        ),
        _VPT,
    ),
    "stanford_dogs": DatasetSource(
        "https://vision.stanford.edu/aditya86/ImageNetDogs",
        "non-commercial research",
        (
            Download(
                "https://vision.stanford.edu/aditya86/ImageNetDogs/images.tar",
                ("Images",),
                "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
                "images.tar",
            ),
        ),
        _VPT,
    ),
    "stanford_cars": DatasetSource(
        "Stanford AI Lab (the original pages are gone)",
        "non-commercial research",
        manual_steps=f"Unpack car_ims.tgz (https://huggingface.co/datasets/XiN0919/FGVC). {_VPT}",
    ),
}

VTAB_SOURCE = DatasetSource(
    "https://huggingface.co/datasets/XiN0919/VTAB-1k",
    "those of the 19 data sets",
    (
        Download(
            "https://huggingface.co/datasets/XiN0919/VTAB-1k/resolve/main/vtab-1k.zip",
            ("vtab-1k",),
            archive="vtab-1k.zip",
        ),
    ),
)
"""All 19 tasks as image lists, in one archive; its JPEG files are lossy copies (see docs/datasets.md)."""

SOURCES = {
    **{f"coop/{name}": source for name, source in _COOP.items()},
    **{f"fgvc/{name}": source for name, source in _FGVC.items()},
}
