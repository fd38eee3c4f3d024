"""What is free: the least that any part of the machine leaves."""

import subprocess
import sys
from pathlib import Path

import torch

from dcpt import memory
from dcpt.memory import GROUPS, ControlGroup, free_memory, group_folders, group_memory

CPU = torch.device("cpu")


GROUP = ControlGroup("", Path(), "max", "current")


def write_group(folder, **values):
    folder.mkdir(exist_ok=True)
    for name, text in values.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_a_control_group_leaves_its_limit_but_what_is_used_and_no_cache(tmp_path):
    stat = "anon 500\ninactive_file 150\nactive_file 50\n"
    assert group_memory(GROUP, write_group(tmp_path, max="1000\n", current="700\n", memory_stat=stat)) == 500
    assert group_memory(GROUP, write_group(tmp_path, max="max\n")) is None
    assert group_memory(GROUP, write_group(tmp_path, max=str(2**63 - 4096))) is None
    assert group_memory(GROUP, tmp_path / "nowhere") is None


def test_the_groups_around_a_group_count_too(tmp_path):
    listing = tmp_path / "cgroup"
    listing.write_text("5:cpu,memory:/batch/job:7\n0::/user.slice/mine.scope\n")
    unified = [folder.as_posix() for folder in group_folders(GROUPS[0], listing)]
    root = "/sys/fs/cgroup"
    assert unified == [f"{root}/user.slice/mine.scope", f"{root}/user.slice", root]
    assert group_folders(GROUPS[1], listing)[0].as_posix() == f"{root}/memory/batch/job:7"
    assert group_folders(GROUPS[0], tmp_path / "nowhere") == []


def test_the_least_counts(monkeypatch):
    monkeypatch.setattr(memory, "system_memory", lambda: 900)
    monkeypatch.setattr(memory, "address_space", lambda: None)
    monkeypatch.setattr(memory, "group_folders", lambda group: [Path("inner"), Path("outer")])
    monkeypatch.setattr(memory, "group_memory", lambda group, folder: {"inner": None, "outer": 400}[folder.name])
    assert free_memory(CPU) == 400
    monkeypatch.setattr(memory, "address_space", lambda: -5)
    assert free_memory(CPU) == 0


def test_a_silent_machine_is_taken_to_have_half_of_its_memory(monkeypatch):
    for name in ("system_memory", "address_space"):
        monkeypatch.setattr(memory, name, lambda: None)
    monkeypatch.setattr(memory, "group_memory", lambda group, folder: None)
    monkeypatch.setattr(memory, "machine_memory", lambda: 1000)
    assert free_memory(CPU) == 500


def test_a_limit_of_the_address_space_is_seen():
    code = """
import resource, torch
from dcpt.memory import free_memory
free = free_memory(torch.device("cpu"))
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30,) * 2)
print(0 < free_memory(torch.device("cpu")) < min(free, 3 * 2**30))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr
