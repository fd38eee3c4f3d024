"""What probing found, in words and figures: accuracy by layer, which type is taken for which, curves, maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcpt.errors import MissingExtra
from dcpt.files import atomic_path, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Spread = tuple[float, float]  # mean and standard deviation


def require_probe_extra() -> None:
    """Raise MissingExtra unless scikit-learn and matplotlib are installed."""
    try:
        import matplotlib.figure  # noqa: F401
        import sklearn.neighbors  # noqa: F401
    except ImportError:
        message = "probing needs scikit-learn and matplotlib; install them with: pip install 'dcpt[probe]'"
        raise MissingExtra(message) from None


@dataclass(frozen=True)
class Probe:
    """How well the nearest neighbours of a network's features name degradations.

    Attributes:
        protocol: What determines the numbers besides network and photographs.
        data: Name of the folder of photographs.
        network: What was probed.
        labels: The degradations, T of them.
        crops: Number of crops of each.
        seen: Which degradations the network was trained on; None if that is not known.
        accuracy: Mean and standard deviation over the splits, in [0, 1], by layer.
        layer: The layer that `counts` is of: what enters the network's last layer, if that is known.
        counts: Answers by true degradation (row) and named one (column), summed over the splits.
        paper: Accuracy in percent that the paper reports of this backbone, by iterations of training.
    """

    protocol: str
    data: str
    network: str
    labels: tuple[str, ...]
    crops: int
    seen: tuple[str, ...] | None
    accuracy: Mapping[str, Spread]
    layer: str
    counts: list[list[int]] = field(repr=False)
    paper: Mapping[int, float] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1 / len(self.labels)

    @property
    def recognised(self) -> dict[str, float]:
        """Share of each degradation that is named rightly, in [0, 1]."""
        return {label: row[i] / sum(row) for i, (label, row) in enumerate(zip(self.labels, self.counts))}

    @property
    def captions(self) -> list[str]:
        """The degradations, those unseen in training marked if the network saw any."""
        return [label if not self.seen or label in self.seen else f"{label} (unseen)" for label in self.labels]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"chance": self.chance, "recognised": self.recognised}

    def table(self) -> str:
        """Return the accuracy by layer and by degradation as Markdown."""
        lines = [f"{self.network} on {self.data}; {self.protocol}", "", "| layer | accuracy, % |", "|---|--:|"]
        lines += [f"| {layer} | {percent(spread)} |" for layer, spread in self.accuracy.items()]
        lines += [f"| chance | {100 * self.chance:.1f} |"]
        lines += [f"| paper, {step} iterations of 3D training | {value} |" for step, value in self.paper.items()]
        lines += ["", f"| degradation | seen in training | recognised by {self.layer}, % |", "|---|---|--:|"]
        for label, share in self.recognised.items():
            seen = "not known" if self.seen is None else "yes" if label in self.seen else "no"
            lines.append(f"| {label} | {seen} | {100 * share:.1f} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Curve:
    """Accuracy along something, by layer.

    Attributes:
        name: Name of its figure.
        axis: What it is along.
        spread: What the standard deviations are over.
        points: Where it was measured.
        lines: Mean and standard deviation at each point, in [0, 1], by layer.
        chance: Accuracy of a guess at each point.
    """

    name: str
    axis: str
    spread: str
    points: tuple[int, ...]
    lines: Mapping[str, tuple[Spread, ...]]
    chance: tuple[float, ...]

    def table(self) -> str:
        """Return it as a Markdown table."""
        lines = [f"Accuracy in %, spread over {self.spread}", ""]
        lines += [f"| {self.axis} | {' | '.join(self.lines)} | chance |", "|--:" * (len(self.lines) + 2) + "|"]
        for point, chance, *spreads in zip(self.points, self.chance, *self.lines.values(), strict=True):
            lines.append(f"| {point} | {' | '.join(map(percent, spreads))} | {100 * chance:.1f} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Study:
    """Everything that one probing found.

    Attributes:
        probe: The network; of a run, its last checkpoint.
        curves: Along the run, and over the number of degradations, as far as asked for.
        vectors: Features of the probe's layer, (T, N, D).
    """

    probe: Probe
    curves: tuple[Curve, ...]
    vectors: np.ndarray = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return self.probe.as_dict() | {"curves": [asdict(curve) for curve in self.curves]}

    def table(self) -> str:
        """Return all numbers as Markdown."""
        return "\n\n".join([self.probe.table(), *(curve.table() for curve in self.curves)])

    def save(self, folder: Path) -> None:
        """Write `probe.json`, `probe.md` and a figure of each kind.

        Raises:
            OutputError: If the folder cannot be written to.
        """
        write_json(folder / "probe.json", self.as_dict())
        with atomic_path(folder / "probe.md") as temporary:
            temporary.write_text(self.table() + "\n", encoding="utf-8")
        save_figure(draw_layers(self.probe), folder / "layers.png")
        save_figure(draw_counts(self.probe), folder / "confusion.png")
        save_figure(draw_maps(self.probe, self.vectors), folder / "features.png")
        for curve in self.curves:
            save_figure(draw_curve(curve), folder / f"{curve.name}.png")


def percent(spread: Spread) -> str:
    """Write mean and standard deviation in percent."""
    return f"{100 * spread[0]:.1f} ± {100 * spread[1]:.1f}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Return an empty figure, sides in inches, and its panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def draw_layers(probe: Probe) -> Figure:
    """Draw the accuracy of each layer as bars, chance and the paper's number as lines."""
    figure, (panel,) = new_figure(6, 1.2 + 0.35 * len(probe.accuracy))
    means, deviations = 100 * np.array([*probe.accuracy.values()]).T
    colours = ["tab:gray" if layer == "input" else "tab:blue" for layer in probe.accuracy]
    panel.barh([*probe.accuracy], means, xerr=deviations, color=colours)
    panel.axvline(100 * probe.chance, color="black", linestyle=":", label="chance")
    for value in [*probe.paper.values()][-1:]:
        panel.axvline(value, color="tab:orange", linestyle="--", label="paper")
    panel.invert_yaxis()
    panel.set(xlim=(0, 100), xlabel="5-NN accuracy, %", title=probe.network)
    figure.legend(loc="outside lower right", ncols=2)
    return figure


def draw_counts(probe: Probe) -> Figure:
    """Draw which degradation is taken for which, in percent of each row."""
    side = 2 + 0.6 * len(probe.labels)
    figure, (panel,) = new_figure(side, side)
    counts = np.array(probe.counts)
    shares = 100 * counts / counts.sum(1, keepdims=True)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        panel.text(column, row, f"{share:.0f}", ha="center", va="center", color="white" if share > 60 else "black")
    ticks = range(len(probe.labels))
    panel.set_xticks(ticks, probe.labels, rotation=45, ha="right")
    panel.set_yticks(ticks, probe.captions)
    panel.set(xlabel="named", ylabel="true", title=f"{probe.network}, {probe.layer}")
    return figure


def draw_maps(probe: Probe, vectors: np.ndarray) -> Figure:
    """Draw the features of the probe's layer, (T, N, D), in two dimensions: by PCA and by t-SNE."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    types, count, _ = vectors.shape
    flat = vectors.reshape(types * count, -1)
    perplexity = min(30.0, len(flat) / 4)
    projections = {"PCA": PCA(2, random_state=0), "t-SNE": TSNE(2, perplexity=perplexity, random_state=0)}
    figure, panels = new_figure(10, 4.5, columns=2)
    for panel, (title, projection) in zip(panels, projections.items(), strict=True):
        places = projection.fit_transform(flat).reshape(types, count, 2)
        for index, (label, points) in enumerate(zip(probe.captions, places, strict=True)):
            shape = "^" if label.endswith("(unseen)") else "o"
            panel.scatter(*points.T, s=12, alpha=0.7, linewidths=0, color=f"C{index}", marker=shape, label=label)
        panel.set(xticks=[], yticks=[], title=f"{probe.network}, {probe.layer}: {title}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=2)
    return figure


def draw_curve(curve: Curve) -> Figure:
    """Draw the accuracy of each layer along the curve, its spread shaded."""
    figure, (panel,) = new_figure(6, 3.6)
    for layer, spreads in curve.lines.items():
        means, deviations = 100 * np.array(spreads).T
        colour = "tab:gray" if layer == "input" else None
        (line,) = panel.plot(curve.points, means, marker=".", color=colour, label=layer)
        panel.fill_between(curve.points, means - deviations, means + deviations, color=line.get_color(), alpha=0.2)
    panel.plot(curve.points, 100 * np.array(curve.chance), "k:", label="chance")
    panel.set(xlabel=curve.axis, ylabel="5-NN accuracy, %", ylim=(0, 100))
    panel.grid(alpha=0.3)
    panel.legend()
    return figure
