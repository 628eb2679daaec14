"""Packing: good files keep their bytes, bad ones are listed with reasons, nothing is lost or half written."""

import json
import tarfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jepa.data import pack as module
from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.index import Manifest
from jepa.data.pack import pack, source_names


@pytest.fixture
def messy(tmp_path: Path, make: SimpleNamespace) -> Path:
    """Three good videos among every kind of bad file."""
    folder = tmp_path / "raw"
    (folder / "sub dir").mkdir(parents=True)
    start_first = make.video(40, faststart=True, noise=True)
    index_last = make.video(40, noise=True)
    matroska = make.video(40, container="matroska", noise=True)
    files = {
        "good.mp4": make.video(20),
        "sub dir/Gr\u00fc\u00dfe ..\u00e9.MKV": make.video(12, container="matroska"),
        "sub dir/good.avi": make.video(9, container="avi"),
        "empty.mp4": b"",
        "text.mp4": b"these are words, not frames\n" * 99,
        "zeros.mov": bytes(5000),
        "cut_start_first.mp4": start_first[: len(start_first) * 2 // 3],
        "cut_index_last.mp4": index_last[: len(index_last) * 2 // 3],
        "cut.mkv": matroska[: len(matroska) * 2 // 3],
        "sound.mp4": make.audio(),
        "notes.txt": b"hello",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_good_files_are_packed_and_bad_ones_listed(messy: Path, tmp_path: Path) -> None:
    report = pack("folder", messy, tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert report.packed == len(manifest) == 3
    assert [e.frames for e in manifest.samples] == [20, 12, 9]
    assert {r.file: r.reason for r in report.rejected} == {
        "empty.mp4": "empty file",
        "text.mp4": "not a video (looks like text)",
        "zeros.mov": "not a readable video: Invalid data found when processing input",
        "cut_start_first.mp4": next(r.reason for r in report.rejected if "start_first" in r.file),
        "cut_index_last.mp4": "truncated: an MP4 file without its index (moov)",
        "cut.mkv": next(r.reason for r in report.rejected if r.file == "cut.mkv"),
        "sound.mp4": "no video stream (audio only)",
        "notes.txt": "not a video file (suffix '.txt')",
    }
    assert all("truncated: " in r.reason for r in report.rejected if r.file.startswith("cut"))
    ledger = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert ledger == [{"file": r.file, "reason": r.reason} for r in report.rejected]


def test_strict_packs_the_good_ones_and_then_fails(messy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"8 files cannot be used .* the other 3 are packed"):
        pack("folder", messy, tmp_path / "out", strict=True)
    assert len(Manifest.load(tmp_path / "out")) == 3


def test_videos_are_kept_as_they_are(messy: Path, tmp_path: Path) -> None:
    pack("folder", messy, tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.read(0).video == (messy / "good.mp4").read_bytes()
    assert manifest.read(0).meta == {"file": "good.mp4"}
    with tarfile.open(tmp_path / "out" / manifest.samples[0].shard) as tar:
        assert [Path(n).suffix for n in tar.getnames() if "json" not in n] == [".mp4", ".mkv", ".avi"]


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable video.*a\.mp4: empty file"):
        pack("folder", tmp_path / "raw", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_same_input_same_bytes(collected: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pack("collected", collected, tmp_path / name, short_side=32, shard_mb=0.02)
    first = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert first == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert len([name for name in first if name.endswith(".tar")]) > 1


def test_plain_webdataset_reads_the_shards(shards: Path, manifest: Manifest) -> None:
    import webdataset

    found = {}
    for shard in sorted(shards.glob("*.tar")):
        dataset = webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
        found |= {sample["__key__"]: sample for sample in dataset}
    assert sorted(found) == [e.key for e in manifest.samples]
    for i, entry in enumerate(manifest.samples):
        sample = found[entry.key]
        assert sample["mp4"] == manifest.read(i).video
        assert {"actions.npy", "states.npy", "skill.npy", "object_pos.npy"} <= set(sample)


def test_short_side(tmp_path: Path, make: SimpleNamespace) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "wide.mp4").write_bytes(make.video(33, 96, 64, fps=12.5))
    (tmp_path / "raw" / "small.mkv").write_bytes(make.video(5, 30, 20, container="matroska"))
    pack("folder", tmp_path / "raw", tmp_path / "out", short_side=32)
    manifest = Manifest.load(tmp_path / "out")
    small, wide = manifest.samples
    assert (wide.width, wide.height, wide.frames, wide.fps) == (48, 32, 33, 12.5)
    assert (small.width, small.height, small.frames) == (30, 20, 5)
    data = manifest.read(1).video
    frames = torch.from_numpy(decode(data)).permute(0, 3, 1, 2)
    assert make.numbers(frames).tolist() == list(range(33))
    keys = [*_key_frames(data), 33]
    assert keys[0] == 0 and max(b - a for a, b in pairwise(keys)) <= 16


def _key_frames(data: bytes) -> list[int]:
    from jepa.data.decode import open_video

    with open_video(data) as container:
        return [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]


def test_frames_hidden_by_an_edit_list(tmp_path: Path, make: SimpleNamespace) -> None:
    """Cutting an MP4 without re-encoding leaves frames in the file that players skip; that is no truncation."""
    data = bytearray(make.video(40, gop=10))
    start = data.find(b"elst") + 16
    data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + 15 * 1024).to_bytes(4, "big")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "cut.mp4").write_bytes(data)
    with pytest.raises(DataError, match="5 frames are hidden by an edit list"):
        pack("folder", tmp_path / "raw", tmp_path / "out")
    pack("folder", tmp_path / "raw", tmp_path / "out", short_side=32)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.samples[0].frames == len(decode(manifest.read(0).video)) == 25
    frames = torch.from_numpy(decode(manifest.read(0).video)).permute(0, 3, 1, 2)
    assert make.numbers(frames).tolist() == list(range(15, 40))


def test_out_is_only_replaced_on_request(collected: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack("collected", collected, out)
    (out / "old").touch()
    with pytest.raises(DataError, match="--overwrite"):
        pack("collected", collected, out)
    assert (out / "old").exists()
    pack("collected", collected, out, overwrite=True)
    assert not (out / "old").exists() and len(Manifest.load(out)) == 12


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_things_is_never_replaced(collected: Path, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(DataError, match="not empty and holds no shards"):
        pack("collected", collected, tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.doc").exists()


def test_an_interrupted_pack_is_not_taken_for_a_whole_one(
    collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack("collected", collected, tmp_path / "out", progress=interrupt)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # as if killed: nobody cleans up
    with pytest.raises(KeyboardInterrupt):
        pack("collected", collected, tmp_path / "out", progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["out.partial"]
    with pytest.raises(DataError, match=r"no dataset\.json"):
        Manifest.load(tmp_path / "out.partial")
    monkeypatch.undo()
    assert pack("collected", collected, tmp_path / "out").packed == 12
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_arrays_must_fit_the_video(tmp_path: Path, make: SimpleNamespace) -> None:
    folder = make.collected(tmp_path / "in", [6, 6, 6, 6, 6])

    def change(i: int, **arrays: np.ndarray) -> None:
        path = folder / f"episode_{i:06d}.npz"
        with np.load(path) as old:
            np.savez(path, **{**old, **arrays})

    change(0, states=np.zeros((5, 7), np.float32))
    change(1, actions=np.zeros((5, 3), np.float32))
    change(2, object_pos=np.full((6, 3), np.nan, np.float32))
    (folder / "episode_000003.npz").unlink()
    report = pack("collected", folder, tmp_path / "out")
    reasons = [r.reason for r in report.rejected]
    assert report.packed == 1
    assert "states: shape (5, 7), but the video's 6 frames need 6 rows" in reasons[0]
    assert "actions: shape (5, 3), but rows of 7" in reasons[1]
    assert "object_pos: not finite" in reasons[2]
    assert "episode_000003.npz cannot be read" in reasons[3]


def test_errors(tmp_path: Path, collected: Path) -> None:
    with pytest.raises(DataError, match="no source 'tape'; there are: collected, folder, lerobot"):
        pack("tape", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        pack("folder", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="one view only"):
        pack("collected", collected, tmp_path / "out", camera="wrist")
    with pytest.raises(DataError, match="lies inside"):
        pack("collected", collected, collected / "out")
    assert source_names() == ["collected", "folder", "lerobot"]
