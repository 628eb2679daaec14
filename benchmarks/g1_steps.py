"""`g1_pick` as steps of a third of a second, whose actions are changes of the commanded joints.

    python benchmarks/g1_steps.py SHARDS OUT

SHARDS is the packed folder of the recordings: 30 frames a second, and in every frame 26 joints as targets and as
measured. OUT/train gets the first 50 recordings, OUT/heldout the other 12; `jepa pack collected` packs each.

A step is 10 frames. Its action is the target at its end minus the target at its beginning: 14 arm joints in radians
(left, then right), 12 hand joints (left, then right) whose numbers run from 0, closed, to 1, open. Post-training cuts
episodes to the shortest, so the recordings to train on become pieces of one length that cover all of them, begun at
frame 0 and again half a step later. Held-out recordings stay whole.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jepa.data.index import Manifest
from jepa.data.loader import read_frames
from jepa.planning.episodes import FORMAT, encode_mp4

STEP = 10  # frames
TRAIN = 50  # recordings
PIECE = 21  # pictures of a training episode: the shortest recording has 22
ARMS, HANDS = 14, 12
UNITS = ["rad"] * ARMS + ["openness"] * HANDS


def pieces(frames: int, piece: int, step: int = STEP) -> Iterator[np.ndarray]:
    """Frame numbers (piece) of training episodes, which cover a recording of that many frames."""
    for phase in (0, step // 2):
        ids = np.arange(phase, frames, step)
        last = len(ids) - piece
        for start in [*range(0, last, piece - 1), last]:
            yield ids[start : start + piece]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    manifest = Manifest.load(options.shards)
    header = {
        "format": FORMAT,
        "fps": manifest[0].fps / STEP,
        "action_dim": len(UNITS),
        "state_dim": len(UNITS),
        "action_units": UNITS,
        "state_units": UNITS,
    }
    written = {"train": 0, "heldout": 0}
    for split in written:
        (options.out / split).mkdir(parents=True)
        (options.out / split / "dataset.json").write_text(json.dumps(header, indent=1))
    for entry in manifest:
        split = "train" if entry.id < TRAIN else "heldout"
        pictures, sample = read_frames(manifest, entry.id, range(entry.frames))
        whole = [np.arange(0, entry.frames, STEP)]
        for ids in pieces(entry.frames, PIECE) if split == "train" else whole:
            stem = options.out / split / f"episode_{written[split]:06d}"
            actions = np.diff(sample.arrays["actions"][np.minimum(ids, entry.frames - 2)], axis=0)
            np.savez(stem.with_suffix(".npz"), actions=actions, states=sample.arrays["states"][ids])
            video = encode_mp4(pictures[ids].permute(0, 2, 3, 1).numpy(), header["fps"])
            stem.with_suffix(".mp4").write_bytes(video)
            written[split] += 1
    print(f"episodes written: {written}")


if __name__ == "__main__":
    main()
