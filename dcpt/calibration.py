"""From the features of a pre-trained pair to probabilities that mean what they say."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dcpt.backbones import Backbone
from dcpt.checkpoint import MODEL_FILE, load_weights, write_tensors
from dcpt.errors import CheckpointMismatch
from dcpt.heads import DegradationClassifier
from dcpt.repository import hash_file

CALIBRATION_FILE = "diagnosis.safetensors"  # beside the pair it belongs to
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
NUM_STATISTICS = 4 * len(QUANTILES) + 7


class Describer(nn.Module):
    """Turns pictures into vectors: what a pair of backbone and head sees in them, and statistics of the pixels.

    Args:
        backbone: Gives the features.
        head: Its classifier, of which a copy without the last layer is kept.
    """

    def __init__(self, backbone: Backbone, head: DegradationClassifier) -> None:
        super().__init__()
        self.backbone, self.last_layer = backbone, head.fc
        self.embedder = copy.deepcopy(head)
        self.embedder.fc = nn.Identity()
        pooled = 3 * sum(backbone.feature_channels)
        self.embedding = slice(pooled, pooled + head.fc.in_features)
        self.width = self.embedding.stop + NUM_STATISTICS

    def forward(self, x: Tensor) -> Tensor:
        """Describe pictures, (B, 3, H, W), by vectors, (B, width).

        Mean, spread and maximum of each channel of each feature, what enters the last layer of the
        head, and `describe_pixels`.
        """
        features = self.backbone(x, hook=True)
        flat = [feature.float().flatten(2) for feature in features]
        pooled = [part for y in flat for part in (y.mean(2), y.std(2), y.amax(2))]
        return torch.cat([*pooled, self.embedder(features), describe_pixels(x)], dim=1)

    def classify(self, descriptions: Tensor) -> Tensor:
        """Return the logits that the pair's own head gives for described pictures."""
        return self.last_layer(descriptions[:, self.embedding])


def describe_pixels(x: Tensor) -> Tensor:
    """Return how brightness, fine detail, darkest channel and colourfulness are distributed, (B, NUM_STATISTICS)."""
    grey = x.mean(1, keepdim=True)
    laplacian = x.new_tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])[None, None]
    detail = F.conv2d(grey, laplacian).abs().flatten(1)
    levels = x.new_tensor(QUANTILES)

    def quantiles(y: Tensor) -> Tensor:
        return y.flatten(1).quantile(levels, dim=1).T

    fine = torch.cat([quantiles(detail), detail.mean(1, keepdim=True)], dim=1).add(1e-4).log()
    spread = [quantiles(grey), quantiles(x.amin(1)), quantiles(x.amax(1) - x.amin(1))]
    return torch.cat([fine, *spread, x.mean((2, 3)), x.std((2, 3))], dim=1)


class Calibration(nn.Module):
    """A small network over descriptions: one calibrated logit per degradation, one for clean, and how usual all is.

    Args:
        width: Length of a description.
        num_labels: Number of logits; the last is that of clean pictures.
        hidden: Width of the hidden layer.
        num_usual: How much of the end of a description tells usual pictures from others.
    """

    def __init__(self, width: int, num_labels: int, *, hidden: int, num_usual: int) -> None:
        super().__init__()
        self.num_usual = num_usual
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, num_labels)
        self.register_buffer("temperature", torch.ones(num_labels))
        self.register_buffer("clean_threshold", torch.tensor(0.5))
        self.register_buffer("whitening", torch.eye(num_usual))
        self.register_buffer("unknown_threshold", torch.tensor(1e9))

    def standardize(self, descriptions: Tensor) -> Tensor:
        """Centre and scale descriptions."""
        return (descriptions - self.mean) / self.spread

    def forward(self, descriptions: Tensor) -> Tensor:
        """Return calibrated logits, (B, num_labels): the sigmoid of each is a probability of its own."""
        hidden = torch.relu(self.hidden(self.standardize(descriptions).clamp(-8, 8)))
        return self.output(hidden) / self.temperature

    def distance(self, descriptions: Tensor) -> Tensor:
        """Return how unusual pictures are, (B,): the Mahalanobis distance squared, 1 on average over the training."""
        return (self.standardize(descriptions)[:, -self.num_usual :] @ self.whitening).square().mean(1)


def save_calibration(calibration: Calibration, folder: Path) -> None:
    """Write a calibration beside the pair it belongs to."""
    state = calibration.state_dict()
    state["hidden.weight"] = state["hidden.weight"].half()  # nine tenths of the file
    write_tensors(folder / CALIBRATION_FILE, state, {"model_sha256": hash_file(folder / MODEL_FILE)})


def load_calibration(folder: Path, width: int, labels: Sequence[str]) -> Calibration | None:
    """Read the calibration of the pair in a folder; None if there is none.

    Args:
        folder: The model folder.
        width: Length of the pair's descriptions.
        labels: Those of the pair.

    Raises:
        CheckpointMismatch: If it is damaged or belongs to another pair.
    """
    path = folder / CALIBRATION_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            facts = file.metadata() or {}
        hidden, num_usual = len(state["hidden.bias"]), len(state["whitening"])
    except (OSError, SafetensorError, LookupError, TypeError) as error:
        raise CheckpointMismatch(f"cannot read the calibration in {path}: {error}; fit it again") from None
    if facts.get("model_sha256") != hash_file(folder / MODEL_FILE):
        raise CheckpointMismatch(f"expected the calibration of {folder / MODEL_FILE}, got another's in {path}")
    calibration = Calibration(width, len(labels), hidden=hidden, num_usual=num_usual)
    load_weights(calibration, state, source=path)
    return calibration.eval()
