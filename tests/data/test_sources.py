"""The contract of every source, and what is special about each."""

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.index import Manifest
from jepa.data.pack import pack, source_names
from jepa.data.sources import collected as collected_source
from jepa.data.sources import lerobot
from jepa.data.sources.base import Episode, Rejected, safe_key


def write_lerobot(folder: Path, make: SimpleNamespace) -> Path:
    """Two episodes of 8 and 12 frames, two cameras, as LeRobot 2.1 writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    cameras = ["observation.images.head", "observation.images.wrist"]
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "chunks_size": 1,
        "total_episodes": 2,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.state": {"dtype": "float32", "shape": [3]},
            "action": {"dtype": "float32", "shape": [2]},
            **{name: {"dtype": "video", "shape": [48, 48, 3]} for name in cameras},
            "timestamp": {"dtype": "float32", "shape": [1]},
        },
    }
    lines = []
    for i, n in enumerate([8, 12]):
        state = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
        table = {
            "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 3),
            "action": pa.array([row[:2].tolist() for row in state], pa.list_(pa.float32())),
            "timestamp": pa.array(np.arange(n, dtype=np.float32) / 10),
        }
        files = {f"data/chunk-{i:03d}/episode_{i:06d}.parquet": b""}
        for width, camera in zip((48, 64), cameras, strict=True):
            files[f"videos/chunk-{i:03d}/{camera}/episode_{i:06d}.mp4"] = make.video(n, width)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        pq.write_table(pa.table(table), folder / f"data/chunk-{i:03d}/episode_{i:06d}.parquet")
        lines.append({"episode_index": i, "tasks": [f"task {i}"], "length": n})
    (folder / "meta").mkdir()
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def write_folder(folder: Path, make: SimpleNamespace) -> Path:
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x.y.mp4").write_bytes(make.video(8))
    (folder / "z.webm").write_bytes(make.video(5, container="webm", codec="libvpx-vp9"))
    return folder


WRITERS: dict[str, Callable[[Path, SimpleNamespace], Path]] = {
    "folder": write_folder,
    "lerobot": write_lerobot,
    "collected": lambda folder, make: make.collected(folder, [8, 5]),
}


def test_every_source_has_an_example() -> None:
    assert sorted(WRITERS) == source_names()


@pytest.mark.parametrize("kind", source_names())
def test_contract(kind: str, tmp_path: Path, make: SimpleNamespace) -> None:
    path = WRITERS[kind](tmp_path / "in", make)
    source = importlib.import_module(f"jepa.data.sources.{kind}")
    spec = source.spec(path)
    assert isinstance(spec, Spec) and spec.samples == 0
    assert len(spec.action_units) == spec.action_dim and len(spec.state_units) == spec.state_dim
    found = list(source.episodes(path))
    assert len(found) == 2 and all(isinstance(e, Episode) for e in found)
    for episode in found:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", episode.key)
        assert json.loads(json.dumps(episode.meta)) == episode.meta
        assert episode.suffix in ("mp4", "webm")
    again = list(source.episodes(path))
    assert [(e.key, e.video) for e in again] == [(e.key, e.video) for e in found]
    report = pack(kind, path, tmp_path / "out")
    assert (report.packed, report.rejected) == (2, ())


@pytest.mark.parametrize("kind", source_names())
def test_missing_folder(kind: str, tmp_path: Path) -> None:
    source = importlib.import_module(f"jepa.data.sources.{kind}")
    with pytest.raises(DataError, match="no such folder"):
        source.spec(tmp_path / "nowhere")


def test_lerobot_arrays_camera_and_tasks(tmp_path: Path, make: SimpleNamespace) -> None:
    path = write_lerobot(tmp_path / "in", make)
    pack("lerobot", path, tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert (manifest.spec.fps, manifest.spec.action_dim, manifest.spec.state_dim) == (10.0, 2, 3)
    sample = manifest.read(1)
    state = np.arange(36, dtype=np.float32).reshape(12, 3)
    assert np.array_equal(sample.arrays["states"], state)
    assert np.array_equal(sample.arrays["actions"], state[:-1, :2])
    assert sample.meta["tasks"] == ["task 1"] and manifest.spec.width == 48
    pack("lerobot", path, tmp_path / "wrist", camera="observation.images.wrist")
    assert Manifest.load(tmp_path / "wrist").spec.width == 64
    with pytest.raises(DataError, match=r"no camera 'foot'; there are: observation\.images\.head"):
        pack("lerobot", path, tmp_path / "foot", camera="foot")


def test_lerobot_damage_is_listed(tmp_path: Path, make: SimpleNamespace) -> None:
    path = write_lerobot(tmp_path / "in", make)
    (path / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1 no")
    (path / "videos/chunk-001/observation.images.head/episode_000001.mp4").unlink()
    first, second = lerobot.episodes(path)
    assert isinstance(first, Rejected) and "episode_000000.parquet cannot be read" in first.reason
    assert isinstance(second, Rejected) and "No such file" in second.reason


def test_lerobot_other_versions_are_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    path = write_lerobot(tmp_path / "in", make)
    info = path / "meta" / "info.json"
    info.write_text(info.read_text().replace("v2.1", "v3.0"))
    with pytest.raises(DataError, match=r"version v3\.0 is not supported"):
        lerobot.spec(path)
    info.unlink()
    with pytest.raises(DataError, match="not a LeRobot data set"):
        lerobot.spec(path)


def test_collected_needs_its_description(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.collected(tmp_path / "in", [5])
    info = path / "dataset.json"
    info.write_text(info.read_text().replace("episodes-1", "episodes-9"))
    with pytest.raises(DataError, match="is not jepa-episodes-1"):
        collected_source.spec(path)
    info.unlink()
    with pytest.raises(DataError, match=r"no dataset\.json"):
        collected_source.spec(path)


def test_keys_differ_where_only_unsafe_characters_differ() -> None:
    names = ["a b.mp4", "a_b.mp4", "a/b.mp4", "../a/b.mp4", "\u00e9.mp4", "\u00e8.mp4", "x" * 300, "y" + "x" * 299]
    keys = {safe_key(name) for name in names}
    assert len(keys) == len(names) and max(map(len, keys)) < 80
