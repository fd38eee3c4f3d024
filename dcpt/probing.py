"""What the features of a network know of degradations: the preliminary study of the paper.

A restoration network tells degradations apart before anyone has taught it to. Crops of photographs
are degraded in several ways, the network's feature maps are averaged to one vector per crop, and a
5-nearest-neighbour vote names the degradation of the crops of photographs held out.

Source: Hu et al., ICLR 2025, and MaskDCPT, arXiv 2510.13282, section III: 5-NN on what enters the last
layer, 100 pictures for each of five types, two thirds to look things up in, five seeds. Different here:
* every type has the same crops, and no photograph is on both sides of the split, so that neither
  scene nor data set can give a type away. In the paper each type comes from a data set of its own;
* features are averaged over the crop, or over the cells of a `grid`; the paper flattens whole maps.
Distances are Euclidean. Layer "input" is the control: the picture itself, treated as a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dcpt.backbones import create_backbone
from dcpt.checkpoint import CONFIG_FILE, load_weights
from dcpt.degradations import list_degradations
from dcpt.device import pick_device
from dcpt.errors import CheckpointMismatch, InvalidData, InvalidSetting
from dcpt.features import ALL, INPUT, LAST, Features, Progress, degrade_crops, extract_features
from dcpt.files import read_json
from dcpt.hub import from_pretrained, locate
from dcpt.preparation import seeded
from dcpt.probe_report import Curve, Probe, Spread, Study, require_probe_extra
from dcpt.published import paper_tables
from dcpt.recipe import RECIPE_FILE, build_recipe
from dcpt.weights import WEIGHTS

PAPER_TYPES = ("haze", "rain", "noise", "motion_blur", "low_light")
NEIGHBOURS, TEST_SHARE, SUBSETS = 5, 0.33, 20


def classify(vectors: np.ndarray, scenes: np.ndarray, *, seeds: int = 5) -> tuple[list[float], np.ndarray]:
    """Name the degradations of held-out photographs by the nearest neighbours of their features.

    Args:
        vectors: (T, N, D).
        scenes: Photograph of each crop, (N,); a third of them is held out, with all degradations.
        seeds: Number of splits.

    Returns:
        The accuracy of each split, in [0, 1]; and the answers of all by true type (row) and named one, (T, T).
    """
    from sklearn.model_selection import GroupShuffleSplit
    from sklearn.neighbors import KNeighborsClassifier

    types, _, size = vectors.shape
    accuracies, counts = [], np.zeros((types, types), int)
    for known, held in GroupShuffleSplit(seeds, test_size=TEST_SHARE, random_state=0).split(scenes, groups=scenes):
        model = KNeighborsClassifier(NEIGHBOURS)
        model.fit(vectors[:, known].reshape(-1, size), np.arange(types).repeat(len(known)))
        true, named = np.arange(types).repeat(len(held)), model.predict(vectors[:, held].reshape(-1, size))
        accuracies.append(float((true == named).mean()))
        np.add.at(counts, (true, named), 1)
    return accuracies, counts


def summarise(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation."""
    return float(np.mean(values)), float(np.std(values))


def main_layer(features: Features) -> str:
    """Name the layer that the paper probes: what enters the last layer, else the finest feature."""
    return LAST if LAST in features else "feature 0"


def grow(features: Features, scenes: np.ndarray, *, seeds: int = 5) -> Curve:
    """Measure how accuracy falls as there are more degradations to tell apart, from three to all.

    For each number up to `SUBSETS` random sets of degradations, the same for every network. Every set grows
    by one degradation at a time, so that luck of the draw does not bend the curve.
    """
    layers = (INPUT, main_layer(features), ALL)
    types = len(features[INPUT])
    points = tuple(range(min(3, types), types + 1))
    draws = np.random.default_rng(0)
    orders = [draws.permutation(types) for _ in range(SUBSETS)]
    lines: dict[str, list[Spread]] = {layer: [] for layer in layers}
    for number in points:
        sets = sorted({tuple(sorted(order[:number].tolist())) for order in orders})
        for layer, line in lines.items():
            means = [np.mean(classify(features[layer][list(chosen)], scenes, seeds=seeds)[0]) for chosen in sets]
            line.append(summarise(means))
    chance = tuple(1 / number for number in points)
    spread = f"up to {SUBSETS} sets of degradations"
    return Curve("growing", "degradations", spread, points, {k: tuple(v) for k, v in lines.items()}, chance)


@dataclass(frozen=True)
class Subject:
    """A network to probe.

    Attributes:
        name: For the report.
        load: Makes the network.
        seen: Degradations it was trained on; () for an untrained one, None if that is not known.
        step: Where in a run it is from.
    """

    name: str
    load: Callable[[], nn.Module]
    seen: tuple[str, ...] | None = None
    step: int = 0


def find_untrained(variant: str, *, seed: int = 0) -> Subject:
    """Return a registered backbone with the random weights of a seed."""
    return Subject(f"{variant}, untrained", partial(seeded, seed, partial(create_backbone, variant)), seen=())


def find_trained(name: str, **options: Any) -> Subject:
    """Return trained weights, named and with options as for `from_pretrained`.

    Raises:
        UnknownName, CheckpointMismatch, HubError: As `from_pretrained`.
    """
    seen = WEIGHTS[name].degradations if name in WEIGHTS else read_labels(locate(name, with_head=False))
    return Subject(name, partial(from_pretrained, name, **options), seen)


def read_labels(path: Path) -> tuple[str, ...] | None:
    """Return what the config of a model folder says that it was trained on; None if it does not, or for a file."""
    config = read_json(path / CONFIG_FILE) if path.is_dir() else {}
    sections = [config.get(name) for name in ("recipe", "head")]
    found = [section["labels"] for section in sections if isinstance(section, dict) and section.get("labels")]
    return tuple(map(str, found[0])) if found else None


def find_checkpoints(folder: Path) -> list[Subject]:
    """Return the averaged weights of each checkpoint of a run, after the random weights of its seed as step 0.

    A run keeps its last checkpoints and its best one. It does not say whether it began from trained weights.

    Raises:
        InvalidData: If the folder is not that of a run, or it has no checkpoint yet.
    """
    origin = read_json(folder / RECIPE_FILE)
    paths = sorted((folder / "checkpoints").glob("[0-9]*.pt"))
    if "recipe" not in origin or not paths:
        raise InvalidData(f"expected the folder of a training run, with {RECIPE_FILE} and checkpoints, got {folder}")
    recipe = build_recipe(origin["recipe"])
    start = find_untrained(recipe.backbone, seed=recipe.seed)
    found = []
    for path in paths:
        step = int(path.stem)
        load = partial(load_average, start.load, path)
        found.append(Subject(f"{folder.name}, step {step}", load, recipe.degradations, step))
    return [start, *found]


def load_average(create: Callable[[], nn.Module], path: Path) -> nn.Module:
    """Make a backbone and give it the averaged weights of a run's checkpoint.

    Raises:
        CheckpointMismatch: If the file is damaged or of another backbone.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["ema"]
    except Exception as error:  # torch raises many kinds here
        raise CheckpointMismatch(f"cannot read {path}: {str(error).partition(chr(10))[0]}") from None
    backbone, prefix = create(), "backbone."
    state = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    load_weights(backbone, state, source=path)
    return backbone


def probe(
    subjects: Subject | Sequence[Subject],
    data: str | Path,
    *,
    degradations: Sequence[str] = PAPER_TYPES,
    crops: int = 100,
    size: int = 128,
    seeds: int = 5,
    grid: int = 1,
    growing: bool = False,
    device: torch.device | str | None = None,
    progress: Progress = iter,
) -> Study:
    """Measure how well a network's features tell degradations apart.

    Args:
        subjects: The network; or the checkpoints of a run in their order, for the curve over its steps.
        data: Folder of clean photographs, best ones the network was not trained on.
        degradations: What to tell apart.
        crops: Number of crops, each in every degradation.
        size: Their side in pixels.
        seeds: Number of splits into photographs to look up in and to name.
        grid: Cells per side over which features are averaged.
        growing: Whether to measure the curve over the number of degradations, all registered ones included.
        device: Where to compute; None picks the fastest.
        progress: Wraps the loop over batches of each network, such as `tqdm`.

    Raises:
        MissingExtra: If scikit-learn or matplotlib is not installed.
        InvalidSetting: If there are less than two degradations.
        DcptError: As `degrade_crops`, and as the subjects do when they load.
    """
    require_probe_extra()
    subjects = [subjects] if isinstance(subjects, Subject) else subjects
    names = tuple(dict.fromkeys(degradations))
    if len(names) < 2:
        raise InvalidSetting(f"expected two or more degradations to tell apart, got {', '.join(names) or 'none'}")
    labels = dict.fromkeys((*names, *(list_degradations() if growing else ())))
    pictures = degrade_crops(Path(data), [*labels], count=crops, size=size)
    protocol = (
        f"{NEIGHBOURS}-NN, {crops} crops of {size}x{size} in each of {len(names)} degradations, severities in [0, 1], "
        f"features averaged over {grid}x{grid} cells, {TEST_SHARE:.0%} of photographs held out, {seeds} splits"
    )
    probes = []
    for subject in subjects:
        backbone = subject.load().to(pick_device(device))
        features = extract_features(backbone, pictures, grid=grid, progress=progress)
        chosen = {layer: vectors[: len(names)] for layer, vectors in features.items()}
        results = {layer: classify(vectors, pictures.scenes, seeds=seeds) for layer, vectors in chosen.items()}
        accuracy = {layer: summarise(accuracies) for layer, (accuracies, _) in results.items()}
        layer, paper = main_layer(features), published_accuracy(backbone, trained=subject.seen != ())
        about = (protocol, pictures.data, subject.name, names, crops, subject.seen)
        probes.append(Probe(*about, accuracy, layer, results[layer][1].tolist(), paper))
    curves = [follow(subjects, probes)] if len(probes) > 1 else []
    curves += [grow(features, pictures.scenes, seeds=seeds)] if growing else []
    return Study(probes[-1], tuple(curves), chosen[layer])


def follow(subjects: Sequence[Subject], probes: Sequence[Probe]) -> Curve:
    """Return accuracy over the steps of a run."""
    points = tuple(subject.step for subject in subjects)
    layers = (INPUT, probes[-1].layer, ALL)
    lines = {layer: tuple(probe.accuracy[layer] for probe in probes) for layer in layers}
    chance = tuple(probe.chance for probe in probes)
    return Curve("run", "step", "splits", points, lines, chance)


def published_accuracy(backbone: nn.Module, *, trained: bool) -> dict[int, float]:
    """Return what the paper reports of a backbone, in percent by iterations of training; nothing of other ones."""
    table = paper_tables()["knn_accuracy_percent"]
    row = next((row for name, row in table.items() if name.lower() == getattr(backbone, "variant", None)), ())
    steps = table["columns_iterations"]
    return dict(zip(steps, row)) if trained else dict(zip(steps[:1], row))
