"""A process that restores a folder and may be killed at any moment; apart from the tests, as `victim` is."""

import time
from pathlib import Path

import torch

from dcpt.backbones.base import Backbone
from dcpt.restoration import Restorer
from dcpt.restoration_run import restore_folder


class Negative(Backbone):
    """A network whose right answer is known for every pixel; `seconds` is what it takes."""

    feature_channels, feature_strides, size_multiple = (3,), (1,), 8

    def __init__(self, seconds=0.0):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))
        self.seconds = seconds

    def forward(self, x, hook=False):
        self.check_input(x)
        time.sleep(self.seconds)
        return [x] if hook else self.one - x


def restore_all(source, output, memory=None, seconds=0.0, **settings):
    """Restore a folder; write the resident pages after each picture to the file `memory`, if there is one."""
    torch.set_num_threads(1)
    pages = []
    for _ in restore_folder(Restorer(Negative(seconds), device="cpu"), source, output, **settings):
        pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
    if memory:
        memory.write_text("\n".join(map(str, pages)))
