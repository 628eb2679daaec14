"""Shards of robot episodes of chosen lengths and rate: small noisy videos, poses that turn, and other commands.

With `extrinsics` the camera is elsewhere in every frame. `picture` gives frame t, (h, w, 3) uint8, in place of noise.
"""

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from jepa.data.pack import pack
from jepa.pose import UNITS


def write_shards(
    folder: Path,
    lengths: list[int],
    fps: int = 15,
    units: tuple[str, ...] = UNITS,
    extrinsics: bool = False,
    extrinsics_units: tuple[str, ...] = UNITS[:6],
    picture: Callable[[int], np.ndarray] | None = None,
) -> Path:
    """Pack one episode of each length below `folder`; returns the shards."""
    rng = np.random.default_rng(0)
    raw = folder / "raw"
    raw.mkdir()
    promise = {"format": "jepa-episodes-1", "fps": fps, "action_dim": 7, "state_dim": len(units)}
    promise |= {
        "action_units": UNITS,
        "state_units": units,
        "labels": {},
        "extra": {"extrinsics": extrinsics_units} if extrinsics else {},
    }
    (raw / "dataset.json").write_text(json.dumps(promise))
    for i, frames in enumerate(lengths):
        with av.open(str(raw / f"episode_{i:06d}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=fps)
            stream.height, stream.width = (16, 16) if picture is None else picture(0).shape[:2]
            stream.pix_fmt, stream.options = "yuv420p", {"crf": "10", "threads": "1"}
            for t in range(frames):
                seen = rng.integers(0, 255, (16, 16, 3), np.uint8) if picture is None else picture(t)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(seen, format="rgb24")))
            file.mux(stream.encode(None))
        states = rng.uniform(0.1, 0.9, (frames, len(units))).astype(np.float32)
        actions = rng.uniform(-1, 1, (frames - 1, 7)).astype(np.float32)
        camera = {"extrinsics": rng.uniform(-1, 1, (frames, 6)).astype(np.float32)} if extrinsics else {}
        np.savez(raw / f"episode_{i:06d}.npz", states=states, actions=actions, **camera)
    pack("collected", raw, folder / "shards")
    return folder / "shards"
