"""The index: samples come back as they were packed, and damage of any kind is found and named."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from jepa.data.errors import DataError
from jepa.data.index import Manifest
from jepa.data.npy import read_npy


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def edit_dataset(folder: Path, **values: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_reads_what_was_packed(manifest: Manifest, collected: Path) -> None:
    for i in (11, 0, 5):
        sample = manifest.read(i)
        assert sample.id == manifest[i].id == i
        assert sample.video == (collected / f"episode_{i:06d}.mp4").read_bytes()
        with np.load(collected / f"episode_{i:06d}.npz") as arrays:
            assert set(sample.arrays) == set(arrays.files)
            assert all(np.array_equal(sample.arrays[name], arrays[name]) for name in arrays.files)


def test_spec(manifest: Manifest) -> None:
    spec = manifest.spec
    assert (spec.samples, spec.fps, spec.width, spec.height) == (12, 10.0, 48, 48)
    assert (spec.action_dim, spec.state_dim, spec.state_units) == (7, 7, ("m",) * 7)
    assert manifest.arrays == ("actions", "object_pos", "skill", "states")
    assert spec.labels == {"skill": ("random", "reach")} and spec.extra == {"object_pos": ("m",) * 3}


@pytest.mark.parametrize("seed", range(20))
def test_every_flipped_bit_of_a_sample_is_found(copy: Path, seed: int) -> None:
    manifest = Manifest.load(copy)
    rng = np.random.default_rng(seed)
    entry = manifest[int(rng.integers(len(manifest)))]
    ext = rng.choice(sorted(entry.members))
    offset, size, _ = entry.members[ext]
    shard = copy / entry.shard
    data = bytearray(shard.read_bytes())
    data[offset + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
    shard.write_bytes(data)
    with pytest.raises(DataError, match=rf"{entry.shard}: {entry.key}\.{ext}: sha256"):
        manifest.read(entry.id)


def test_rows_on_disk_are_what_was_packed(manifest: Manifest, collected: Path) -> None:
    entries = list(manifest)
    assert [e.key for e in entries] == [f"episode_{i:06d}" for i in range(12)]
    assert [e.shard for e in entries] == [f"shard-00000{i // 5}.tar" for i in range(12)]
    assert [e.frames for e in entries] == manifest.samples["frames"].tolist()
    assert all((e.fps, e.width, e.height, e.rotation, e.label) == (10.0, 48, 48, 0, None) for e in entries)
    with pytest.raises(IndexError):
        manifest[12]


def test_a_manifest_travels_to_other_processes_without_its_index(manifest: Manifest) -> None:
    manifest[3], manifest.samples["frames"]
    data = pickle.dumps(manifest)
    assert len(data) < 4000
    assert pickle.loads(data)[3] == manifest[3]


@pytest.mark.parametrize("dtype", ["<f4", "u1", "?", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_read_npy_is_numpys_own(dtype: str, order: str) -> None:
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype, order)  # type: ignore[call-overload]
    file = io.BytesIO()
    np.save(file, array)
    found = read_npy(file.getvalue())
    assert np.array_equal(found, array) and found.dtype == array.dtype and found.flags.writeable


def test_read_npy_refuses_what_claims_more_than_it_has() -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(ValueError, match="does not fit"):
        read_npy(file.getvalue() + bytes(80))
    np.save(file := io.BytesIO(), np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="does not fit"):
        read_npy(file.getvalue())
    with pytest.raises(ValueError):
        read_npy(b"no array")


def test_missing_folder_and_index(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(DataError, match="no such folder of shards"):
        Manifest.load(tmp_path / "nowhere")
    (copy / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"no dataset\.json"):
        Manifest.load(copy)


def test_missing_cut_grown_and_extra_shards_are_named(copy: Path) -> None:
    shard = copy / "shard-000001.tar"
    data = shard.read_bytes()
    for other, fault in ((data[:-1], "is cut off"), (data + b"0", "has grown")):
        shard.write_bytes(other)
        with pytest.raises(DataError, match=rf"shard-000001\.tar {fault}"):
            Manifest.load(copy)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-000001\.tar is missing"):
        Manifest.load(copy)
    shard.write_bytes(data)
    shutil.copy(shard, copy / "shard-000009.tar")
    with pytest.raises(DataError, match=r"shard-000009\.tar is not in the index"):
        Manifest.load(copy)


def test_a_shard_that_goes_missing_later_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa.data.retry.RETRY_SECONDS", (0.01,))
    manifest = Manifest.load(copy)
    (copy / manifest[0].shard).unlink()
    with pytest.raises(DataError, match=r"shard-000000\.tar"):
        manifest.read(0)


def test_damaged_index_files(copy: Path) -> None:
    for name in ("samples", "members", "keys"):
        path = copy / "index" / f"{name}.npy"
        data = path.read_bytes()
        for other in (data[:-1], data[:20], b"", data[64:]):
            path.write_bytes(other)
            with pytest.raises(DataError, match=rf"{name}\.npy.*pack the data again"):
                Manifest.load(copy)
        path.write_bytes(data)
    rows = np.load(copy / "index" / "samples.npy")
    rows["shard"][3] = 77
    np.save(copy / "index" / "samples.npy", rows)
    with pytest.raises(DataError, match="the index of sample 3 is damaged"):
        Manifest.load(copy)[3]


def test_damaged_datasets_and_other_formats(copy: Path) -> None:
    spec = json.loads((copy / "dataset.json").read_text())["spec"]
    edit_dataset(copy, spec={**spec, "samples": 13})
    with pytest.raises(DataError, match="promises 13 samples, the index has 12"):
        Manifest.load(copy)
    edit_dataset(copy, spec=spec, shards=[["../../etc/passwd", 1, "0"]])
    with pytest.raises(DataError, match="not a plain name"):
        Manifest.load(copy)
    for text, fault in (
        ('{"format": "other"}', "not of the format jepa-shards-2"),
        ("[]", "damaged"),
        ("{", "damaged"),
    ):
        (copy / "dataset.json").write_text(text)
        with pytest.raises(DataError, match=fault) as error:
            Manifest.load(copy)
        assert "\n" not in str(error.value)
