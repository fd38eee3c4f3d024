"""How much memory is free, as far as the machine tells."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch


class ControlGroup(NamedTuple):
    """Where a version of control groups, such as those of containers, tells limit, use and details."""

    controller: str  # as /proc/self/cgroup names it
    root: Path
    limit: str
    used: str


GROUPS = (
    ControlGroup("", Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    ControlGroup("memory", Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
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
    groups = [group_memory(group, folder) for group in GROUPS for folder in group_folders(group)]
    known = [amount for amount in (system_memory(), address_space(), *groups) if amount is not None]
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
        return 4 * 2**30


def group_folders(group: ControlGroup, listing: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Return the folders of this process's control group and of those around it; each may have a limit."""
    try:
        lines = [line.split(":", 2) for line in listing.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    inner = next((path for _, names, path in lines if group.controller in names.split(",")), "/")
    path = PurePosixPath(inner)
    return [group.root / str(part).lstrip("/") for part in (path, *path.parents)]


def group_memory(group: ControlGroup, folder: Path) -> int | None:
    """Return what a control group leaves; None if there is no limit."""
    try:
        limit, used = (int((folder / name).read_text(encoding="ascii")) for name in (group.limit, group.used))
    except (OSError, ValueError):  # a limit of "max"
        return None
    details = read_fields(folder / "memory.stat")
    cache = details.get("inactive_file", 0) + details.get("active_file", 0)  # dropped when memory is short
    return max(0, limit - used + cache) if limit < 2**60 else None


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


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is a device's, or the machine's, lack of memory; torch's are of several kinds."""
    text = str(error).lower()
    lacking = "out of memory" in text or ("alloc" in text and "memory" in text)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and lacking)


def release_memory(device: torch.device) -> None:
    """Give cached memory back to a device, so that smaller pieces find room."""
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).empty_cache()
