"""How much memory is free, as far as the machine tells."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

MIB = 2**20
# Version 2 of control groups, then version 1: limit, use, and what in that use can be dropped at once.
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def free_memory(device: torch.device) -> int:
    """Return how many bytes a device, or the machine if it is the CPU, has left for this process.

    On the CPU it is the least of what the system, a control group (such as a container's) and a
    limit of the address space leave; where none of them tells, half of the machine's memory.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    known = [
        amount for amount in (system_memory(), *map(cgroup_memory, CGROUPS), address_space()) if amount is not None
    ]
    return max(0, min(known)) if known else machine_memory() // 2


def system_memory() -> int | None:
    """Return what the system could give without swapping; None where it does not say."""
    if sys.platform == "win32":
        return windows_memory()
    available = read_fields(Path("/proc/meminfo")).get("MemAvailable:")
    return None if available is None else available * 1024


def machine_memory() -> int:
    """Return the bytes of memory that the machine has, or 4 GiB if it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 4096 * MIB


def cgroup_memory(files: tuple[str, str, str]) -> int | None:
    """Return what a control group leaves; None if there is none or it has no limit."""
    try:
        limit, used = (int(Path(file).read_text(encoding="ascii")) for file in files[:2])
    except (OSError, ValueError):  # a limit of "max"
        return None
    statistics = read_fields(Path(files[2]))
    cache = statistics.get("inactive_file", 0) + statistics.get("active_file", 0)
    return limit - used + cache if limit < 2**60 else None


def address_space() -> int | None:
    """Return what a limit of the address space leaves; None if there is none."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return limit - pages * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None


def windows_memory() -> int | None:
    """Return the free memory that Windows reports."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "free", "page_total", "page_free", "virtual_total", "virtual_free", "extended")
        ]

    status = Status(length=ctypes.sizeof(Status))
    known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return status.free if known else None


def read_fields(path: Path) -> dict[str, int]:
    """Read a file of lines that each begin with a name and a number; nothing if there is no such file."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in map(str.split, lines) if len(words) > 1 and words[1].isdigit()}
