"""The zoo's table: every set of weights is a row of data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from dcpt.files import read_json
from dcpt.published import Numbers, published_numbers
from dcpt.registry import Registry
from dcpt.report import EVALUATION_FILE

# Where converted weights live on the Hub; DCPT_HUB_ORG names another organisation.
ORGANISATION = "dcpt-ir"

_TEN = ("noise", "motion_blur", "defocus_blur", "jpeg", "haze", "snow", "rain", "demosaic", "low_light", "inpainting")
_FIVE = ("rain", "noise", "haze", "low_light", "motion_blur")
_CDD = ("low_light", "haze", "rain", "snow")


@dataclass(frozen=True)
class Original:
    """A file that its authors offer for download by hand.

    Attributes:
        file: Its name there.
        link: The page to fetch it from.
        sha256: Of its bytes; None if nobody here has seen them.
    """

    file: str
    link: str
    sha256: str | None = None


@dataclass(frozen=True)
class Weights:
    """What there is to know about one set of weights.

    Attributes:
        name: `<variant>-<recipe>`, what users ask for.
        description: One line for listings.
        variant: Registered backbone.
        options: Options of the variant that these weights need.
        recipe: What they were trained for: "5d", "10d", "cdd11", "12d" or "mixed".
        degradations: What they remove, as far as known.
        parameters: Of the backbone.
        licence: Licence of the weights.
        data: What they were trained on, with its licence.
        repo: Repository on the Hub; "" for files that come with the package. One without a slash
            is looked for in `ORGANISATION`.
        file: Checkpoint file in the repository; "" if it has a model folder.
        revision: Branch, tag or commit there.
        sha256: Of the files, by name, where known; elsewhere what the Hub says of them counts.
        original: What to fetch by hand and convert while the repository does not have it.
        published: Table and row of the paper's numbers in `paper_tables.json`.
        has_head: Whether a degradation classifier comes with the backbone.
        verified: Whether this project has had these weights in its hands, loaded and measured them.
    """

    name: str
    description: str
    variant: str
    recipe: str
    degradations: tuple[str, ...]
    parameters: int
    licence: str
    data: str
    options: Mapping[str, Any] = field(default_factory=dict)
    repo: str = ""
    file: str = ""
    revision: str = "main"
    sha256: Mapping[str, str] = field(default_factory=dict)
    original: Original | None = None
    published: tuple[str, str] | None = None
    has_head: bool = False
    verified: bool = False

    @property
    def bundled(self) -> bool:
        """Whether the files come with the package."""
        return not self.repo

    @property
    def folder(self) -> Path:
        """The folder of the bundled files."""
        return Path(str(resources.files("dcpt") / "pretrained" / self.name))

    @property
    def repository(self) -> str:
        """The repository on the Hub, "organisation/name"."""
        return self.repo if "/" in self.repo else f"{os.environ.get('DCPT_HUB_ORG') or ORGANISATION}/{self.repo}"

    @property
    def size(self) -> int:
        """Bytes of the weights: exact if bundled, else those of the backbone in float32."""
        if self.bundled:
            return sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
        return 4 * self.parameters

    @property
    def paper(self) -> Numbers:
        """What the paper reports, by column; empty if nothing."""
        return published_numbers(*self.published) if self.published else {}

    @property
    def measured(self) -> dict[str, Any]:
        """What this project measured, with its protocol, as `dcpt evaluate --json` printed it; empty if nothing."""
        return read_json(self.folder / EVALUATION_FILE) if self.bundled else {}


DEFAULT_WEIGHTS = "nafnet-small-10d"
PRETRAINED_PAIR = "nafnet-small-10d-pretrain"

WEIGHTS: Registry[Weights] = Registry("weights")


def list_weights() -> list[str]:
    """Return the names that `from_pretrained` knows."""
    return list(WEIGHTS)


def _add(*rows: Weights) -> None:
    for row in rows:
        WEIGHTS.register(row.name)(row)


_TIER_1A = "206 photographs: CID22 (CC BY-SA 4.0) and CLIC (Unsplash licence)"
_PARAMETERS = {"nafnet": 67_888_835, "promptir": 35_376_967, "restormer": 26_111_668, "swinir": 11_455_563}
_TITLES = {"nafnet": "NAFNet", "promptir": "PromptIR", "restormer": "Restormer", "swinir": "SwinIR"}

_add(
    Weights(
        name=DEFAULT_WEIGHTS,
        description="restores ten degradations and mixtures of them; small enough for a laptop",
        variant="nafnet_small",
        recipe="10d",
        degradations=_TEN,
        parameters=1_739_307,
        licence="Apache-2.0",
        data=_TIER_1A,
        sha256={
            "config.json": "d5fdf37794284af9b27f85f6a1baeabd38e231cea459b8cd5d88ff75e2ff4857",
            "model.safetensors": "c73e104faf0cf7252bdd753c400e46625eefa9b9f9553b4e82fb678736a784a7",
        },
        verified=True,
    ),
    Weights(
        name=PRETRAINED_PAIR,
        description="the same network after DCPT pre-training, with its degradation classifier",
        variant="nafnet_small",
        recipe="10d",
        degradations=_TEN,
        parameters=1_739_307,
        licence="Apache-2.0",
        data=_TIER_1A,
        sha256={
            "config.json": "496374b6027fbd237c922c677aca2d6c982938730a1ba0098044ec13d770f997",
            "head.safetensors": "02f6942b99b94eb18e1bf00ca0ce2cbd04dca4b4b1d55da7e23cd46db8f965c2",
            "diagnosis.safetensors": "6002f502e304b87283c76c187a87631bcdd4be6e0697754a958996b90d98cc94",
            "model.safetensors": "83cc3012efc9cdb2c3401838ebe5fed840f1348c0385db8741787ff2e4b6e5c2",
        },
        has_head=True,
        verified=True,
    ),
)

# The authors' files: on Google Drive only, under no licence, and never seen by this project.
_DCPT_DRIVE = "https://drive.google.com/drive/folders/17XKKgX3gbEWoma6ZQeRh8Dfazxy1iQpj"
_NO_LICENCE = "none stated by the authors"
_DATA_5D = "Rain13K, Rain100L/H, DIV2K, Flickr2K, WED, BSD, RESIDE, LOL, GoPro; each under its own terms"

_add(
    *(
        Weights(
            name=f"{variant}-5d",
            description=f"the DCPT authors' {_TITLES[variant]} for five degradations",
            variant=variant,
            recipe="5d",
            degradations=_FIVE,
            parameters=_PARAMETERS[variant],
            licence=_NO_LICENCE,
            data=_DATA_5D,
            repo=f"{variant}-5d",
            original=Original(f"dcpt_{variant}_5d.pth", _DCPT_DRIVE),
            published=("5d", f"DCPT-{_TITLES[variant]}"),
        )
        for variant in _PARAMETERS
    ),
    Weights(
        name="nafnet-10d",
        description="the DCPT authors' NAFNet for ten degradations; the authors list no file of it",
        variant="nafnet",
        recipe="10d",
        degradations=_TEN,
        parameters=_PARAMETERS["nafnet"],
        licence=_NO_LICENCE,
        data="GoPro, DPDD, RESIDE, Snow100K and others; each under its own terms",
        repo="nafnet-10d",
        published=("10d", "DCPT-NAFNet"),
    ),
    Weights(
        name="nafnet-cdd11",
        description="the DCPT authors' NAFNet for mixtures of four degradations; its published numbers are disputed",
        variant="nafnet",
        options={"pooling": "local"},
        recipe="cdd11",
        degradations=_CDD,
        parameters=_PARAMETERS["nafnet"],
        licence=_NO_LICENCE,
        data="CDD-11, under its own terms",
        repo="nafnet-cdd11",
        original=Original(
            "dcpt_nafnet_cdd.pth", _DCPT_DRIVE, "e837fefcd735051f29ecfa45deea5e219d52ecf29dcda94bd4d5afb862ee8ca0"
        ),
        published=("cdd11", "DCPT-NAFNet"),
    ),
)

# The successor's files; their names are those that its settings files expect.
_MASKDCPT = "Jiakui/MaskDCPT"
_MASKDCPT_OPTIONS = {
    "nafnet": {"norm_eps": 1e-5},
    "promptir": {"bias": True},
    "restormer": {"norm_eps": 1e-5},
    "swinir": {},
}

_add(
    *(
        Weights(
            name=f"maskdcpt-{variant}-5d",
            description=f"the MaskDCPT authors' {_TITLES[variant]} for five degradations",
            variant=variant,
            options=_MASKDCPT_OPTIONS[variant],
            recipe="5d",
            degradations=_FIVE,
            parameters=35_540_978 if variant == "promptir" else _PARAMETERS[variant],
            licence=_NO_LICENCE,
            data=_DATA_5D,
            repo=_MASKDCPT,
            file=f"{variant}_maskdcpt_5d.pth",
            published=("later_systems_5d_average", f"MaskDCPT-{_TITLES[variant]}"),
        )
        for variant in _PARAMETERS
    ),
    *(
        Weights(
            name=f"maskdcpt-nafnet-{recipe}",
            description=f"the MaskDCPT authors' NAFNet for {what}",
            variant="nafnet",
            options=_MASKDCPT_OPTIONS["nafnet"],
            recipe=recipe,
            degradations=(),
            parameters=_PARAMETERS["nafnet"],
            licence=_NO_LICENCE,
            data="not stated where this project looked",
            repo=_MASKDCPT,
            file=f"nafnet_maskdcpt_{recipe}.pth",
        )
        for recipe, what in (("12d", "twelve degradations"), ("mixed", "mixtures of degradations"))
    ),
)
