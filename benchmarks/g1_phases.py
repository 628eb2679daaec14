"""Phases of a pick (reach, grasp, carry, release) of every frame of `g1_pick`, from the joints of the right hand.

    python benchmarks/g1_phases.py SHARDS OUT.safetensors [--sheet sheet.png]

SHARDS is the packed folder of the recordings (26 joints a frame). The rule: the hand's openness is the mean of its
finger joints (states 20 to 24, 1 is open), smoothed. In a pick it is high, low, high: the hand opens, holds the tube,
and lets go. The mark is the frame above which openness rises most on both sides; the highest value before it and the
highest after it are the two open hands.

- reach: until openness falls for the last time through 85 % of the way up to the first;
- grasp: until it falls through 35 % of it;
- carry: until it rises for the last time through 50 % of the way up to the second;
- release: to the end, so letting go and drawing back.

A recording whose hand hardly opens and closes gets -1 in every frame. OUT holds `phase/KEY`, (T) int64 of each
recording; its metadata names the classes and the thresholds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from jepa.data.index import Manifest
from jepa.data.loader import read_frames

CLASSES = ("reach", "grasp", "carry", "release")
FINGERS = slice(20, 25)  # pinky, ring, middle, index, thumb bend; the thumb's rotation does not tell
SMOOTH = 0.3  # s, a moving mean
BEGINS, CLOSED, OPENS = 0.85, 0.35, 0.5  # shares of the way from closed to open: begins to close, is closed, lets go
LEAST = 0.08  # by how much openness must rise above the lowest, on both sides
COLOURS = ("#2a6f97", "#c98b3c", "#4f8f5b", "#9b4f8f")
MOMENTS = ((0, 0.0), (0, 0.6), (0, 0.97), (1, 0.5), (2, 0.0), (2, 0.5), (2, 0.97), (3, 0.15), (3, 0.5), (3, 1.0))


def openness(states: np.ndarray, fps: float) -> np.ndarray:
    """Joints (T, 26) -> how open the right hand is, (T): 1 is open, smoothed over `SMOOTH` seconds."""
    width = max(1, round(SMOOTH * fps)) | 1
    padded = np.pad(states[:, FINGERS].mean(1).astype(np.float64), width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def phases(states: np.ndarray, fps: float) -> np.ndarray:
    """Joints (T, 26) -> the class of every frame, (T) int64; all -1 where the rule finds no pick."""
    hand = openness(states, fps)
    before = np.maximum.accumulate(hand)
    after = np.maximum.accumulate(hand[::-1])[::-1]
    depth = np.minimum(before, after) - hand
    low = int(np.argmax(depth))
    if depth[low] < LEAST:
        return np.full(len(hand), -1)
    closing = (hand - hand[low]) / (before[low] - hand[low])  # 1: as open as it was before it closed
    opening = (hand - hand[low]) / (after[low] - hand[low])
    grasp = int(np.flatnonzero(closing[:low] >= BEGINS)[-1]) + 1
    carry = int(np.flatnonzero(closing[:low] > CLOSED)[-1]) + 1
    open_again = low + int(np.argmax(hand[low:]))
    release = low + int(np.flatnonzero(opening[low:open_again] <= OPENS)[-1]) + 1
    return np.searchsorted([grasp, carry, release], np.arange(len(hand)), side="right")


def contact_sheet(manifest: Manifest, labels: dict[str, np.ndarray], samples: Sequence[int], out: Path) -> None:
    """Frames of some recordings, a row each, at the same moments of every phase; frame number and phase above them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * len(MOMENTS), 1.4 * len(samples)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(samples), len(MOMENTS), squeeze=False)
    for i, row in zip(samples, grid, strict=True):
        entry = manifest[i]
        own = labels[entry.key]
        row[0].set_ylabel(entry.key, fontsize=5)
        shown = [(c, np.flatnonzero(own == c), share) for c, share in MOMENTS]
        at = [(c, int(ids[round(share * (len(ids) - 1))])) if len(ids) else (c, None) for c, ids, share in shown]
        wanted = sorted({frame for _, frame in at if frame is not None})
        frames = read_frames(manifest, i, wanted)[0] if wanted else None
        for axes, (c, frame) in zip(row, at, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            if frame is None or frames is None:
                continue
            axes.imshow(frames[wanted.index(frame)].permute(1, 2, 0).numpy())
            axes.set_title(f"{CLASSES[c]} {frame / entry.fps:.1f} s", fontsize=6, color=COLOURS[c], pad=2)
    figure.savefig(out, dpi=110)


def durations(labels: dict[str, np.ndarray], fps: float) -> Table:
    """How long the phases last, and in how many recordings each is missing."""
    table = Table("phase", "share of frames", "median s", "10 % s", "90 % s", "missing in")
    total = sum(map(len, labels.values()))
    for c, name in enumerate(CLASSES):
        frames = np.array([(own == c).sum() for own in labels.values()])
        low, middle, high = np.quantile(frames / fps, (0.1, 0.5, 0.9))
        missing = int((frames == 0).sum())
        table.add_row(name, f"{frames.sum() / total:.1%}", f"{middle:.1f}", f"{low:.1f}", f"{high:.1f}", f"{missing}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--rows", type=int, default=16, help="recordings of the contact sheet")
    options = parser.parse_args()
    manifest = Manifest.load(options.shards)
    labels = {entry.key: phases(manifest.read(entry.id).arrays["states"], entry.fps) for entry in manifest}
    rule = {
        "fingers": [FINGERS.start, FINGERS.stop],
        "smooth_s": SMOOTH,
        "begins": BEGINS,
        "closed": CLOSED,
        "opens": OPENS,
        "least": LEAST,
    }
    save_file(
        {f"phase/{key}": torch.from_numpy(own) for key, own in labels.items()},
        options.out,
        metadata={"classes": json.dumps(CLASSES), "rule": json.dumps(rule), "shards": manifest.sha256},
    )
    console = Console()
    console.print(durations(labels, manifest[0].fps))
    lacking = [key for key, own in labels.items() if set(own) != set(range(len(CLASSES)))]
    console.print(f"{len(labels)} recordings; those that lack a phase: {', '.join(lacking) or 'none'}")
    if options.sheet:
        rows = np.unique(np.linspace(0, len(manifest) - 1, options.rows).round().astype(int)).tolist()
        contact_sheet(manifest, labels, rows, options.sheet)


if __name__ == "__main__":
    main()
