"""What is in packed data, as tables and as one picture: counts, lengths, sizes, labels, actions and states."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jepa.data.index import Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES = 30  # that are listed by name, the most frequent first
BINS = 40
NAME = 28  # characters of a class name beside a bar
COLOUR, SECOND = "#2a6f97", "#c98b3c"


class Table(NamedTuple):
    """Rows of text under a head."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Numbers(NamedTuple):
    """The statistics of one number of the actions or states, over all frames."""

    name: str
    unit: str
    mean: float
    std: float
    min: float
    max: float


def tables(manifest: Manifest) -> list[Table]:
    """Counts; ranges of lengths, rates and sizes; actions and states; labels. What the data have not is left out."""
    figures = manifest.statistics
    counts = {"samples": len(manifest), "shards": len(manifest.shards), **{n: figures[n] for n in ("frames", "bytes")}}
    totals = [(name, f"{n:,}") for name, n in counts.items()] + [("hours", f"{figures['hours']:,.4g}")]
    ranges = [(n, *(f"{r[x]:.6g}" for x in ("min", "mean", "max"))) for n, r in figures["ranges"].items()]
    found = [Table(manifest.location, ("", ""), totals), Table("Samples", ("", "min", "mean", "max"), ranges)]
    rows: list[tuple[str, ...]]
    both = numbers(manifest, "actions") + numbers(manifest, "states")
    if rows := [(n.name, n.unit, *(f"{x:.4g}" for x in n[2:])) for n in both]:
        found.append(Table("Actions and states", ("", "unit", "mean", "std", "min", "max"), rows))
    if rows := [(name, f"{n:,}", f"{n / len(manifest):.1%}") for name, n in classes(manifest)]:
        found.append(Table("Labels", ("class", "samples", "share"), rows))
    if rows := [(name, ", ".join(names)) for name, names in manifest.spec.labels.items() if name != "label"]:
        found.append(Table("Labels of frames", ("", "classes"), rows))
    if rows := [(name, ", ".join(units)) for name, units in manifest.spec.extra.items()]:
        found.append(Table("Other arrays of frames", ("", "units"), rows))
    return found


def numbers(manifest: Manifest, name: str) -> list[Numbers]:
    """One for each number of "actions" or "states"; none where the data have not got them."""
    found = manifest.statistics[name]
    if not found:
        return []
    units = {"actions": manifest.spec.action_units, "states": manifest.spec.state_units}[name]
    units = units or ("",) * len(found["mean"])
    figures = zip(*(found[figure] for figure in ("mean", "std", "min", "max")), strict=True)
    return [
        Numbers(f"{name.removesuffix('s')} {i}", unit, *values)
        for i, (unit, values) in enumerate(zip(units, figures, strict=True))
    ]


def classes(manifest: Manifest) -> list[tuple[str, int]]:
    """How many samples each class of whole samples has, most frequent first; rare ones in a last row together."""
    labels = manifest.samples["label"]
    counts = np.bincount(labels + 1)  # first those without
    if not counts[1:].any():
        return []
    names = manifest.spec.labels.get("label", ())
    ranked = [int(i) for i in np.argsort(-counts[1:], kind="stable") if counts[1 + i]]
    found = [(names[i] if i < len(names) else str(i), int(counts[1 + i])) for i in ranked[:CLASSES]]
    if rare := ranked[CLASSES:]:
        found.append((f"{len(rare)} other classes", int(counts[1:][rare].sum())))
    return found + ([("without a label", int(counts[0]))] if counts[0] else [])


def plot(manifest: Manifest, path: str | Path) -> None:
    """Write one PNG: histograms of duration, rate and size; below them ranges of actions and states, and labels."""
    from matplotlib.figure import Figure

    counts = classes(manifest)
    ranges = {name: found for name in ("actions", "states") if (found := numbers(manifest, name))}
    longest = max([len(counts), *map(len, ranges.values())])
    heights = [2.6, 1.2 + 0.2 * longest] if longest else [2.6]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    grid = figure.subplots(len(heights), 3, squeeze=False, height_ratios=heights)
    samples = manifest.samples
    _histogram(grid[0, 0], "seconds", {"": samples["frames"] / samples["fps"]})
    _histogram(grid[0, 1], "frames per second", {"": samples["fps"]})
    _histogram(grid[0, 2], "pixels", {name: samples[name] for name in ("width", "height")})
    below = list(grid[1]) if longest else []
    for name, found in ranges.items():
        _bands(below.pop(0), name, found)
    if counts:
        _bars(below.pop(0), counts)
    for axes in below:
        axes.set_axis_off()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)


def _histogram(axes: "Axes", unit: str, values: dict[str, np.ndarray]) -> None:
    low, high = min(float(x.min()) for x in values.values()), max(float(x.max()) for x in values.values())
    if high - low <= 1e-6 * high:  # one value: a bar of its own
        low, high = low - 0.5, high + 0.5
    for (name, x), colour, fill in zip(values.items(), (COLOUR, SECOND), (True, False), strict=False):
        counts, edges = np.histogram(x, BINS, (low, high))
        axes.stairs(counts, edges, fill=fill, color=colour, label=name or None, linewidth=1.5)
    if len(values) > 1:
        axes.legend(fontsize=8, frameon=False)
    axes.set_ylabel("samples", fontsize=9)
    _finish(axes, unit)


def _bands(axes: "Axes", name: str, found: list[Numbers]) -> None:
    """For each number a thin line from least to greatest, and a thick one of a standard deviation about the mean."""
    y = np.arange(len(found))
    mean, std = (np.array([getattr(n, figure) for n in found]) for figure in ("mean", "std"))
    axes.hlines(y, [n.min for n in found], [n.max for n in found], color=COLOUR, linewidth=1.2)
    axes.hlines(y, mean - std, mean + std, color=COLOUR, linewidth=6, alpha=0.45)
    axes.plot(mean, y, "o", color=COLOUR, markersize=4)
    axes.set_yticks(y, [f"{i} {n.unit}".strip() for i, n in enumerate(found)])
    axes.set_ylim(len(found) - 0.5, -0.5)
    _finish(axes, f"{name}: least to greatest, mean ± std")


def _bars(axes: "Axes", counts: list[tuple[str, int]]) -> None:
    y = np.arange(len(counts))
    axes.barh(y, [n for _, n in counts], color=COLOUR)
    axes.set_yticks(y, [name if len(name) <= NAME else name[: NAME - 1] + "…" for name, _ in counts])
    axes.set_ylim(len(counts) - 0.5, -0.5)
    _finish(axes, "samples of each class")


def _finish(axes: "Axes", xlabel: str) -> None:
    axes.set_xlabel(xlabel, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
