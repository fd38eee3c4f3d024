"""The ten degradations, one family per file, all registered under their function's name."""

# Imported in the order of the ten-degradation benchmark, which is that of list_degradations().
from dcpt.degradations import noise as _noise  # noqa: F401, I001
from dcpt.degradations import blur as _blur  # noqa: F401
from dcpt.degradations import compression as _compression  # noqa: F401
from dcpt.degradations import weather as _weather  # noqa: F401
from dcpt.degradations import mosaic as _mosaic  # noqa: F401
from dcpt.degradations import light as _light  # noqa: F401
from dcpt.degradations import masking as _masking  # noqa: F401
from dcpt.degradations.base import apply_degradations, degrade, list_degradations, register_degradation

__all__ = ["apply_degradations", "degrade", "list_degradations", "register_degradation"]
