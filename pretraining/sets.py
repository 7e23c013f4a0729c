"""The packages of drawings, their use and licences.

Sets of one family share silhouettes, so a family is either used for pretraining or held out, never both. Versions are
pinned in package.json, checksums in package-lock.json.
"""

from dataclasses import dataclass
from typing import Literal

Role = Literal["pretrain", "held-out", "measure-only"]
Style = Literal["colour", "mono", "pixel", "hand-drawn", "duotone"]


@dataclass(frozen=True)
class Set:
    """One package of drawings.

    Attributes:
        name: Short name, and the prefix of its iconify package unless ``package`` is given.
        licence: SPDX name; checked against the package's statement.
        family: Name shared by sets with the same silhouettes.
        role: ``pretrain``; ``held-out`` (never trained on, may be shipped as samples); or ``measure-only`` (share-alike
            terms: drawings enter neither weights nor the package).
        style: Drawing style.
        kind: Emoji are matched by code point or name, icons by name, flags by country code.
        keep: Endings of the names to use; an empty ending selects names without any of ``endings``.
        endings: All endings of the set's variants, longest first.
    """

    name: str
    licence: str
    family: str
    role: Role
    style: Style = "mono"
    kind: Literal["emoji", "icon", "flag"] = "icon"
    keep: tuple[str, ...] = ("",)
    endings: tuple[str, ...] = ()
    package: str = ""

    @property
    def npm(self) -> str:
        """The package's name on npm."""
        return self.package or f"@iconify-json/{self.name}"


_LINE_AND_FILL = {"keep": ("-line", "-fill"), "endings": ("-line", "-fill")}
_SOLID = {"keep": ("", "-solid"), "endings": ("-solid",)}
_STREAMLINE = {"keep": ("", "-solid", "-remix"), "endings": ("-solid", "-remix")}

SETS = (
    Set("noto", "Apache-2.0", "google", "pretrain", "colour", "emoji"),
    Set("noto-v1", "Apache-2.0", "google", "pretrain", "colour", "emoji"),
    Set("twemoji", "CC-BY-4.0", "twitter", "pretrain", "colour", "emoji"),
    Set("emojione", "CC-BY-4.0", "emojione", "pretrain", "colour", "emoji"),
    Set("emojione-monotone", "CC-BY-4.0", "emojione", "pretrain", "mono", "emoji"),
    Set("mdi", "Apache-2.0", "mdi", "pretrain", keep=("", "-outline"), endings=("-outline",)),
    Set("tabler", "MIT", "tabler", "pretrain", keep=("", "-filled"), endings=("-filled",)),
    Set("carbon", "Apache-2.0", "carbon", "pretrain", keep=("", "-filled"), endings=("-filled",)),
    Set(
        "material-symbols",
        "Apache-2.0",
        "google-symbols",
        "pretrain",
        keep=("", "-outline"),
        endings=("-outline-rounded", "-outline-sharp", "-outline", "-rounded", "-sharp"),
    ),
    Set("fluent", "MIT", "fluent-system", "pretrain", keep=("-20-filled", "-20-regular")),
    Set("fluent-color", "MIT", "fluent-system", "pretrain", "colour", keep=("-48", "-32", "-20")),
    Set("fa7-solid", "CC-BY-4.0", "font-awesome", "pretrain"),
    Set("game-icons", "CC-BY-3.0", "game-icons", "pretrain"),
    Set("bi", "MIT", "bootstrap", "pretrain", keep=("", "-fill"), endings=("-fill",)),
    Set("ion", "MIT", "ionicons", "pretrain", keep=("", "-outline"), endings=("-outline", "-sharp")),
    Set("iconoir", "MIT", "iconoir", "pretrain", **_SOLID),
    Set("hugeicons", "MIT", "hugeicons", "pretrain"),
    Set(
        "healthicons",
        "MIT",
        "healthicons",
        "pretrain",
        keep=("", "-outline"),
        endings=("-outline-24px", "-24px", "-outline"),
    ),
    Set("icon-park", "Apache-2.0", "icon-park", "pretrain", "duotone"),
    Set("streamline", "CC-BY-4.0", "streamline-core", "pretrain", **_STREAMLINE),
    Set("streamline-plump", "CC-BY-4.0", "streamline-plump", "pretrain", **_STREAMLINE),
    Set("boxicons", "MIT", "boxicons", "pretrain", keep=("", "-filled"), endings=("-filled",)),
    Set("mingcute", "Apache-2.0", "mingcute", "pretrain", **_LINE_AND_FILL),
    Set("mynaui", "MIT", "mynaui", "pretrain", **_SOLID),
    Set("tdesign", "MIT", "tdesign", "pretrain", keep=("", "-filled"), endings=("-filled",)),
    Set("uil", "Apache-2.0", "unicons", "pretrain"),
    Set("majesticons", "MIT", "majesticons", "pretrain", keep=("", "-line"), endings=("-line",)),
    Set("lets-icons", "CC-BY-4.0", "lets-icons", "pretrain", "duotone"),
    Set("maki", "CC0-1.0", "maki", "pretrain"),
    Set("fluent-emoji", "MIT", "fluent-emoji", "held-out", "colour", "emoji"),
    Set("fluent-emoji-flat", "MIT", "fluent-emoji", "held-out", "colour", "emoji"),
    Set("fluent-emoji-high-contrast", "MIT", "fluent-emoji", "held-out", "mono", "emoji"),
    Set("fluent-emoji-3d", "MIT", "fluent-emoji", "held-out", "colour", "emoji", package="@lobehub/fluent-emoji-3d"),
    Set("fxemoji", "Apache-2.0", "fxemoji", "held-out", "colour", "emoji"),
    Set("streamline-emojis", "CC-BY-4.0", "streamline-emojis", "held-out", "colour", "emoji"),
    Set("openmoji", "CC-BY-SA-4.0", "openmoji", "measure-only", "colour", "emoji"),
    Set("lucide", "ISC", "lucide", "held-out"),
    Set(
        "ph",
        "MIT",
        "phosphor",
        "held-out",
        keep=("", "-fill"),
        endings=("-thin", "-light", "-bold", "-fill", "-duotone"),
    ),
    Set("solar", "CC-BY-4.0", "solar", "held-out", keep=("-linear", "-bold"), endings=("-linear", "-bold")),
    Set("heroicons", "MIT", "heroicons", "held-out", keep=("", "-solid"), endings=("-20-solid", "-16-solid", "-solid")),
    Set(
        "pixelarticons", "MIT", "pixelarticons", "held-out", "pixel", keep=("", "-solid"), endings=("-solid", "-sharp")
    ),
    Set("pixel", "CC-BY-4.0", "hackernoon", "held-out", "pixel", **_SOLID),
    Set("streamline-pixel", "CC-BY-4.0", "streamline-pixel", "held-out", "pixel"),
    Set("flat-color-icons", "MIT", "icons8", "held-out", "colour"),
    Set("streamline-ultimate-color", "CC-BY-4.0", "streamline-ultimate-color", "held-out", "colour"),
    Set("streamline-freehand-color", "CC-BY-4.0", "streamline-freehand", "held-out", "hand-drawn"),
    Set("pepicons-pencil", "CC-BY-4.0", "pepicons", "held-out", "hand-drawn"),
    Set("meteocons", "MIT", "meteocons", "held-out", "colour", keep=("-fill",), endings=("-fill",)),
    Set("flag", "MIT", "flag-icons", "held-out", "colour", "flag", keep=("-4x3",), endings=("-4x3", "-1x1")),
    Set("circle-flags", "MIT", "circle-flags", "held-out", "colour", "flag"),
    Set("flagpack", "MIT", "flagpack", "held-out", "colour", "flag"),
    Set("cif", "CC0-1.0", "coreui-flags", "held-out", "colour", "flag"),
)
LABELS = "emojibase-data"  # names, tags and groups of the emoji


def chosen(role: Role) -> tuple[Set, ...]:
    """Return the sets of one role."""
    return tuple(drawn for drawn in SETS if drawn.role == role)
