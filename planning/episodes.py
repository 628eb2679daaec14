"""Episode folders: what decides an episode, its files (H.264 video and arrays), and figures over a folder.

OUT/dataset.json says what the folder holds; OUT/episode_NNNNNN.mp4 and .npz are one episode. Files are whole or absent.
"""

import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jepa.planning.envs.base import PlanningEnv

FORMAT = "jepa-episodes-1"


class CollectError(ValueError):
    """Recording cannot start; the message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of an episode, besides its number.

    options: of the environment. shares, noise: of behaviours (see `skills.behave`); empty for the environment's own.
    """

    env: str
    size: int
    steps: int
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    noise: tuple[float, ...] = ()


@dataclass(frozen=True)
class Episode:
    """frames (T, h, w, 3) uint8; actions (T-1, A) and states (T, S) float32; skill (T) int64; object_pos (T, 3)."""

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


def begin(out: Path, recipe: Recipe, env: PlanningEnv) -> None:
    """Write dataset.json, or check that the one there is of the same recipe.

    Raises:
        CollectError: it is of another recipe.
    """
    mixture = {"shares": recipe.shares, "noise": list(recipe.noise)}
    header = {
        "format": FORMAT,
        **{k: getattr(recipe, k) for k in ("env", "size", "steps", "seed")},
        **recipe.options,
        **{name: value for name, value in mixture.items() if value},
        "fps": env.fps,
        "action_dim": len(env.action_units),
        "state_dim": len(env.state_units),
        "action_units": list(env.action_units),
        "state_units": list(env.state_units),
        "labels": {"skill": list(env.skills)},
        "extra": {"object_pos": ["m"] * 3},
    }
    path = out / "dataset.json"
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError as error:
            raise CollectError(f"{path}: not JSON ({error}); use another folder") from error
        keys = [*header, *(k for k in mixture if k in there and k not in header)]
        if changed := [f"{k} {there.get(k)} (now {header.get(k)})" for k in keys if there.get(k) != header.get(k)]:
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
