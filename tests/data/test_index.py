"""The index: samples come back as they were packed, and damage of any kind is found and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jepa.data.errors import DataError
from jepa.data.index import Manifest


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def edit_index(folder: Path, line: int, **values: object) -> None:
    lines = (folder / "index.jsonl").read_text().splitlines()
    lines[line] = json.dumps({**json.loads(lines[line]), **values})
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n")


def test_reads_what_was_packed(manifest: Manifest, collected: Path) -> None:
    for i in (11, 0, 5):
        sample = manifest.read(i)
        assert sample.id == manifest.samples[i].id == i
        assert sample.video == (collected / f"episode_{i:06d}.mp4").read_bytes()
        with np.load(collected / f"episode_{i:06d}.npz") as arrays:
            assert set(sample.arrays) == set(arrays.files)
            assert all(np.array_equal(sample.arrays[name], arrays[name]) for name in arrays.files)


def test_spec(manifest: Manifest) -> None:
    spec = manifest.spec
    assert (spec.samples, spec.fps, spec.width, spec.height) == (12, 10.0, 48, 48)
    assert (spec.action_dim, spec.state_dim, spec.state_units) == (7, 7, ("m",) * 7)
    assert spec.labels == {"skill": ("random", "reach")} and spec.extra == {"object_pos": ("m",) * 3}


@pytest.mark.parametrize("seed", range(20))
def test_every_flipped_bit_of_a_sample_is_found(copy: Path, seed: int) -> None:
    manifest = Manifest.load(copy)
    rng = np.random.default_rng(seed)
    entry = manifest.samples[rng.integers(len(manifest))]
    ext = rng.choice(sorted(entry.members))
    offset, size, _ = entry.members[ext]
    shard = copy / entry.shard
    data = bytearray(shard.read_bytes())
    data[offset + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
    shard.write_bytes(data)
    with pytest.raises(DataError, match=rf"{entry.shard}: {entry.key}\.{ext}: sha256"):
        manifest.read(entry.id)


def test_missing_folder_and_index(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(DataError, match="no such folder of shards"):
        Manifest.load(tmp_path / "nowhere")
    (copy / "index.jsonl").unlink()
    with pytest.raises(DataError, match=r"no index\.jsonl"):
        Manifest.load(copy)


def test_missing_and_cut_shards_are_named(copy: Path) -> None:
    shard = copy / "shard-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"shard-000001\.tar is cut off"):
        Manifest.load(copy)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-000001\.tar is missing"):
        Manifest.load(copy)


def test_a_shard_that_goes_missing_later_is_named(copy: Path) -> None:
    manifest = Manifest.load(copy)
    (copy / manifest.samples[0].shard).unlink()
    with pytest.raises(DataError, match=r"shard-000000\.tar: episode_000000: cannot be read"):
        manifest.read(0)


def test_damaged_index_lines(copy: Path) -> None:
    edit_index(copy, 3, id=7)
    with pytest.raises(DataError, match="line 4 has id 7, expected 3"):
        Manifest.load(copy)
    edit_index(copy, 3, id=3, shard="../../etc/passwd")
    with pytest.raises(DataError, match="not a plain file name"):
        Manifest.load(copy)
    edit_index(copy, 3, shard="shard-000000.tar", nonsense=1)
    with pytest.raises(DataError, match="line 4 is damaged"):
        Manifest.load(copy)


def test_lost_lines_and_other_formats(copy: Path) -> None:
    index = copy / "index.jsonl"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"promises 12 samples, index\.jsonl has 11"):
        Manifest.load(copy)
    (copy / "dataset.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match="not of the format jepa-shards-1"):
        Manifest.load(copy)
    (copy / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        Manifest.load(copy)
