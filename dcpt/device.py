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
        probe = torch.zeros(1, device=device)
        probe.cpu()  # a device without data, such as "meta", fails here
        return probe.device
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidSetting(f"cannot use device {str(device)!r}: {reason}") from None
