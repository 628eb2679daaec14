"""The benchmarks run, and what they compare with is right: on one tiny clip; speed itself is not tested."""

import importlib.util
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch

from jepa.data import transforms

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_loader", ROOT / "benchmarks/loader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clip(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    bench.write_clip(path, np.random.default_rng(0), 128, 64, 4.5)
    return path


def test_clips_are_what_the_result_says(bench: ModuleType, clip: Path, tmp_path: Path) -> None:
    with av.open(clip) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in file.decode(stream)]
    assert (stream.codec_context.name, stream.average_rate, len(frames)) == ("h264", 30, 135)
    assert all(np.abs(a - b).mean() > 0.5 for a, b in pairwise(frames))  # always in motion
    assert frames[0].std() > 20
    bench.write_clip(tmp_path / "again.mp4", np.random.default_rng(0), 128, 64, 0.2)
    bench.write_clip(tmp_path / "and_again.mp4", np.random.default_rng(0), 128, 64, 0.2)
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "and_again.mp4").read_bytes()


def test_reference_takes_the_frames_of_v_jepa_2(bench: ModuleType) -> None:
    """Steps of 7 frames: a window of 112 that ends before the last frame, 16 ids over 15 distances."""
    for seed in range(20):
        ids = bench.reference_ids(300, 30.0, np.random.default_rng(seed))
        assert ids.shape == (16,) and ids[0] >= 0 and ids[-1] < 299
        assert ids[-1] - ids[0] == 111 and set(np.diff(ids)) <= {7, 8}


def test_reference_transform_gives_the_pixels_of_the_formula(bench: ModuleType) -> None:
    """Each pixel worked out by itself: bilinear between the four around it, no antialias, then normalised."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 400, 500, 3), np.uint8)
    for seed in range(4):
        found = bench.reference_transform(frames, np.random.default_rng(seed))
        c = transforms.random_crop(
            400, 500, scale=(0.3, 1.0), aspect=(0.75, 1.35), hflip=True, rng=np.random.default_rng(seed)
        )
        assert found.shape == (3, 2, 256, 256) and found.dtype == torch.float32
        for t, channel, y, x in [(0, 0, 0, 0), (1, 2, 255, 255), (0, 1, 100, 37), (1, 0, 3, 250)]:
            box = frames[t, c.top : c.top + c.height, c.left : c.left + c.width, channel].astype(float)
            v = min(max((y + 0.5) * c.height / 256 - 0.5, 0), c.height - 1)
            u = min(max(((255 - x if c.mirror else x) + 0.5) * c.width / 256 - 0.5, 0), c.width - 1)
            rows, columns = [int(v), min(int(v) + 1, c.height - 1)], [int(u), min(int(u) + 1, c.width - 1)]
            value = np.array([1 - v % 1, v % 1]) @ box[np.ix_(rows, columns)] @ np.array([1 - u % 1, u % 1])
            mean, std = (0.485, 0.456, 0.406)[channel], (0.229, 0.224, 0.225)[channel]
            assert float(found[channel, t, y, x]) == pytest.approx((value / 255 - mean) / std, abs=1e-3)


def test_ours_loads_what_the_reference_loads(bench: ModuleType, clip: Path, tmp_path: Path) -> None:
    """The same windows and boxes of the same files; a box that is enlarged knows no antialias: equal, but rounded."""
    ways, size = bench.prepare(clip.parent, tmp_path / "shards", 2)
    for epoch in range(2):
        watches = [bench.Watch() for _ in ways]
        reference, kept, h264, jpeg = (way(epoch, watch) for way, watch in zip(ways.values(), watches, strict=True))
        assert reference.shape == (1, 3, 16, 256, 256) and reference.dtype == torch.float32
        assert kept.shape == h264.shape == jpeg.shape == (1, 16, 3, 256, 256) and kept.dtype == torch.uint8
        levels = (reference.transpose(1, 2) - transforms.normalize(kept)).abs() * 255 * 0.225
        assert levels.max() < 1.1  # uint8 is rounded after the rows and after the columns
        assert all(set(watch) == set(bench.STAGES) and min(watch.values()) > 0 for watch in watches)
    assert size[bench.REFERENCE] == clip.stat().st_size / 1e6 < size["ours, the same files"]


def test_480p_is_not_shrunk_before_it_is_cut() -> None:
    """Whole frames from 480 to 468 rows would cost more than the rest of the transform; 1080 rows are worth it."""
    assert transforms.shrunk_size(480, 854, 468) == (480, 854)
    assert transforms.shrunk_size(1080, 1920, 468) == (468, 832)


def test_table_says_what_was_missed(bench: ModuleType) -> None:
    seconds = dict(zip([bench.REFERENCE, *bench.PACKED], (0.4, 0.39, 0.1, 0.01), strict=True))
    costs = {
        name: [bench.Watch(all=s * noise, decode=s * noise / 2, normalize=0.1) for noise in (1, 1.5, 1, 2, 1, 1)]
        for name, s in seconds.items()
    }
    lines = list(bench.table(costs, dict.fromkeys(seconds, 0.8), 2))
    assert lines[2] == "| reference | 0.80 | 0.0 | 100.0 | 0.0 | 0.0 | 100.0 | 200.0 | 5.0 |"
    assert "| 1.03 (1.03–1.03) | 1.15 | 1.25 | **missed** |" in lines[-3]
    assert "| 4.00 (4.00–4.00) | 4 |  | met | 2.00 | 50.0 |" in lines[-2]
    assert "| 40.00 (40.00–40.00) | 15 | 20 | met, and the aim |" in lines[-1]
    assert bench.verdict(4.1, 3.9, 4.0, None) == bench.verdict(4.1, np.nan, 4.0, None) == "met, but not beyond doubt"
