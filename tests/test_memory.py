"""What is free: the least that any part of the machine leaves."""

import subprocess
import sys

import torch

from dcpt import memory
from dcpt.memory import cgroup_memory, free_memory

CPU = torch.device("cpu")


def write_group(folder, **values):
    files = [folder / name for name in ("max", "current", "stat")]
    for file, text in zip(files, values.values()):
        file.write_text(text)
    return tuple(map(str, files))


def test_a_control_group_leaves_its_limit_but_what_is_used_and_no_cache(tmp_path):
    files = write_group(tmp_path, limit="1000\n", used="700\n", stat="anon 500\ninactive_file 150\nactive_file 50\n")
    assert cgroup_memory(files) == 500
    assert cgroup_memory(write_group(tmp_path, limit="max\n", used="1\n", stat="")) is None
    assert cgroup_memory(write_group(tmp_path, limit=str(2**63 - 4096), used="1\n", stat="")) is None
    assert cgroup_memory(("/nowhere", "/nowhere", "/nowhere")) is None


def test_the_least_counts(monkeypatch):
    monkeypatch.setattr(memory, "system_memory", lambda: 900)
    monkeypatch.setattr(memory, "address_space", lambda: None)
    monkeypatch.setattr(memory, "cgroup_memory", {memory.CGROUPS[0]: 400, memory.CGROUPS[1]: None}.get)
    assert free_memory(CPU) == 400
    monkeypatch.setattr(memory, "address_space", lambda: -5)
    assert free_memory(CPU) == 0


def test_a_silent_machine_is_taken_to_have_half_of_its_memory(monkeypatch):
    for name in ("system_memory", "address_space"):
        monkeypatch.setattr(memory, name, lambda: None)
    monkeypatch.setattr(memory, "cgroup_memory", lambda files: None)
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
