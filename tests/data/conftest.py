"""Small videos and data sets of every kind, made on the spot; frame i is textured grey of mean 6 i + 12."""

import io
import json
import tempfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from jepa.data.index import Manifest


def make_video(
    frames: int = 20,
    width: int = 48,
    height: int = 48,
    fps: float = 10,
    container: str = "mp4",
    codec: str = "libx264",
    faststart: bool = False,
    noise: bool = False,
    gop: int = 250,
) -> bytes:
    rng = np.random.default_rng(frames)
    texture = rng.integers(2, 23, (height, width, 1))  # so that another crop is another picture
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video"
        options = {"movflags": "faststart"} if faststart else {}
        with av.open(path, "w", format=container, options=options) as file:
            stream = file.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": "18", "threads": "1", "g": str(gop)}
            for i in range(frames):
                image = (texture + 6 * i).clip(0, 255).astype(np.uint8).repeat(3, 2)
                if noise:
                    image = rng.integers(0, 255, image.shape, dtype=np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            file.mux(stream.encode(None))
        return path.read_bytes()


def make_audio() -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
        file.mux(stream.encode(None))
    return out.getvalue()


def frame_numbers(frames: torch.Tensor) -> torch.Tensor:
    """The numbers of frames (..., C, h, w) of `make_video`, whatever their crop."""
    return ((frames.float().mean((-3, -2, -1)) - 12) / 6).round().long()


def write_collected(folder: Path, lengths: list[int], fps: float = 10, size: int = 48) -> Path:
    """An episode folder as `jepa collect` writes it; states hold the frame's number, actions its negative."""
    folder.mkdir()
    info = {
        "format": "jepa-episodes-1",
        "fps": fps,
        "action_dim": 7,
        "state_dim": 7,
        "action_units": ["m"] * 7,
        "state_units": ["m"] * 7,
        "labels": {"skill": ["random", "reach"]},
        "extra": {"object_pos": ["m"] * 3},
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    for i, n in enumerate(lengths):
        (folder / f"episode_{i:06d}.mp4").write_bytes(make_video(n, size, size, fps))
        np.savez(
            folder / f"episode_{i:06d}.npz",
            states=np.repeat(np.arange(n, dtype=np.float32)[:, None], 7, 1),
            actions=-np.repeat(np.arange(n - 1, dtype=np.float32)[:, None], 7, 1),
            skill=np.arange(n) % 2,
            object_pos=np.full((n, 3), i, np.float32),
        )
    return folder


@pytest.fixture(scope="session")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lengths = [20, 24, 6, 30, 20, 21, 22, 23, 25, 26, 27, 28]
    return write_collected(tmp_path_factory.mktemp("episodes") / "in", lengths)


@pytest.fixture(scope="session")
def shards(collected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collected episodes, packed into several shards; not to be changed."""
    from jepa.data.pack import PackConfig, pack

    out = tmp_path_factory.mktemp("shards") / "out"
    pack("collected", collected, out, PackConfig(per_shard=5))
    return out


@pytest.fixture
def manifest(shards: Path) -> "Manifest":
    from jepa.data.index import Manifest

    return Manifest.load(shards)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers of this file, for tests."""
    return SimpleNamespace(video=make_video, audio=make_audio, collected=write_collected, numbers=frame_numbers)
