"""The zoo's table: every set of weights is a row of data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dcpt.registry import Registry


@dataclass(frozen=True)
class Weights:
    """What there is to know about one set of weights.

    Attributes:
        name: `<variant>-<recipe>`, what users ask for.
        description: One line for listings.
        licence: Licence of the weights.
        data: Photographs trained on, with their licence.
        has_head: Whether a degradation classifier comes with the backbone.
    """

    name: str
    description: str
    licence: str
    data: str
    has_head: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the bundled files."""
        return Path(str(resources.files("dcpt") / "pretrained" / self.name))


DEFAULT_WEIGHTS = "nafnet-small-10d"
PRETRAINED_PAIR = "nafnet-small-10d-pretrain"

WEIGHTS: Registry[Weights] = Registry("weights")

_TIER_1A = "206 photographs: CID22 (CC BY-SA 4.0) and CLIC (Unsplash licence)"

for _row in (
    Weights(
        name=DEFAULT_WEIGHTS,
        description="restores ten degradations and mixtures of them; small enough for a laptop",
        licence="Apache-2.0",
        data=_TIER_1A,
    ),
    Weights(
        name=PRETRAINED_PAIR,
        description="the same network after DCPT pre-training, with its degradation classifier",
        licence="Apache-2.0",
        data=_TIER_1A,
        has_head=True,
    ),
):
    WEIGHTS.register(_row.name)(_row)


def list_weights() -> list[str]:
    """Return the names that `from_pretrained` knows."""
    return list(WEIGHTS)
