"""Where to compute."""

from __future__ import annotations

import torch

from dcpt.errors import InvalidSetting


def pick_device(device: torch.device | str | None) -> torch.device:
    """Return the device asked for, or the fastest there is: CUDA, then MPS, then the CPU.

    Raises:
        InvalidSetting: If the device asked for is unknown or absent.
    """
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InvalidSetting(f"cannot use device {str(device)!r}: {str(error).splitlines()[0]}") from None
