"""Episode folders: what decides an episode, its files (H.264 video and arrays), and figures over a folder.

OUT/dataset.json says what the folder holds; OUT/episode_NNNNNN.mp4 and .npz are one episode. Files are whole or absent.
"""

import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa.planning.skills import SKILLS

FORMAT = "jepa-episodes-1"
_UNITS = ["m", "m", "m", "rad", "rad", "rad", "closedness"]


class CollectError(ValueError):
    """Recording cannot start; the message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of an episode, besides its number."""

    env: str
    size: int
    steps: int
    seed: int
    variation: float
    num_objects: int


@dataclass(frozen=True)
class Episode:
    """frames (T, h, w, 3) uint8; actions (T-1, 7) and states (T, 7) float32; skill (T) int64; object_pos (T, 3)."""

    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray
    skill: np.ndarray
    object_pos: np.ndarray


def paths(out: Path, index: int) -> tuple[Path, Path]:
    """The arrays and the video of episode `index`."""
    return out / f"episode_{index:06d}.npz", out / f"episode_{index:06d}.mp4"


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)


def begin(out: Path, recipe: Recipe, fps: float) -> None:
    """Write dataset.json, or check that the one there is of the same recipe.

    Raises:
        CollectError: it is of another recipe.
    """
    header = {
        "format": FORMAT,
        **asdict(recipe),
        "fps": fps,
        "action_dim": 7,
        "state_dim": 7,
        "action_units": _UNITS,
        "state_units": _UNITS,
        "labels": {"skill": list(SKILLS)},
        "extra": {"object_pos": ["m"] * 3},
    }
    path = out / "dataset.json"
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise CollectError(f"{path}: not JSON ({error}); use another folder") from error
        if changed := [f"{k} {there.get(k)} (now {v})" for k, v in header.items() if there.get(k) != v]:
            raise CollectError(f"{path}: recorded with {', '.join(changed)}; use another folder")
    out.mkdir(parents=True, exist_ok=True)
    _write(path, (json.dumps(header, indent=1) + "\n").encode())


def save(out: Path, index: int, episode: Episode, fps: float) -> None:
    """Write an episode's two files; it is there when both are."""
    arrays, video = paths(out, index)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        actions=episode.actions,
        states=episode.states,
        skill=episode.skill,
        object_pos=episode.object_pos,
    )
    _write(arrays, buffer.getvalue())
    _write(video, encode_mp4(episode.frames, fps))


def statistics(out: Path, episodes: int) -> dict[str, Any]:
    """Frames by skill, mean object path (m) and share of episodes with a lift, over the first `episodes` episodes."""
    counts, travel, lifted = np.zeros(len(SKILLS), int), [], []
    for index in range(episodes):
        with np.load(paths(out, index)[0], allow_pickle=False) as arrays:
            counts += np.bincount(arrays["skill"], minlength=len(SKILLS))
            positions = arrays["object_pos"]
        travel.append(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
        lifted.append(positions[:, 2].max() > positions[0, 2] + 0.04)
    return {
        "label_frames": dict(zip(SKILLS, counts.tolist(), strict=True)),
        "object_travel_m": round(float(np.mean(travel)), 3),
        "lifted": round(float(np.mean(lifted)), 3),
    }


def encode_mp4(frames: np.ndarray, fps: float) -> bytes:
    """H.264 (yuv420p, crf 18) MP4 of frames (T, h, w, 3) uint8. One thread, so that the bytes repeat."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # With B-frames or macroblock trees, x264 does not always repeat itself on frames this small.
        stream.options = {"crf": "18", "preset": "veryfast", "g": "16", "bf": "0", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
