"""Packing: good files keep their bytes, bad ones are listed with reasons, nothing is lost or half written."""

import json
import tarfile
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jepa.data.errors import DataError
from jepa.data.index import Manifest
from jepa.data.merge import merge
from jepa.data.pack import PackConfig, pack, source_names
from jepa.data.transcode import Encoding


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
    assert [e.frames for e in manifest] == [20, 12, 9]
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


def test_videos_are_kept_as_they_are(messy: Path, tmp_path: Path) -> None:
    pack("folder", messy, tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.read(0).video == (messy / "good.mp4").read_bytes()
    assert manifest.read(0).meta == {"file": "good.mp4", "label": None, "language": ""}
    with tarfile.open(tmp_path / "out" / manifest[0].shard) as tar:
        assert [Path(n).suffix for n in tar.getnames() if "json" not in n] == [".mp4", ".mkv", ".avi"]


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable video.*a\.mp4: empty file"):
        pack("folder", tmp_path / "raw", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(collected: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PackConfig, Path]:
    """A pack of several shards in one go, and its settings."""
    config = PackConfig(encoding=Encoding(short_side=32), per_shard=3)
    out = tmp_path_factory.mktemp("whole") / "out"
    pack("collected", collected, out, config)
    return config, out


def test_same_input_same_bytes_for_any_number_of_processes(
    collected: Path, tmp_path: Path, whole: tuple[PackConfig, Path]
) -> None:
    config, expected = whole
    pack("collected", collected, tmp_path / "out", config, workers=3)
    assert contents(tmp_path / "out") == contents(expected)
    assert [p.name for p in sorted((tmp_path / "out").glob("*.tar"))] == [f"shard-{i:06d}.tar" for i in range(4)]


def test_parts_make_the_same_whole(collected: Path, tmp_path: Path, whole: tuple[PackConfig, Path]) -> None:
    config, expected = whole
    out = tmp_path / "out"
    for i in (1, 2):
        assert pack("collected", collected, out, config, part=(i, 3)) is None
    with pytest.raises(DataError, match=r"2 of 4 blocks are not packed yet, e\.g\. 0"):
        merge(out)
    pack("collected", collected, out, config, part=(0, 3))
    assert not out.exists()
    assert merge(out).packed == 12
    assert contents(out) == contents(expected) and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("moment", [1, 4, 11])
def test_an_interrupted_pack_goes_on_where_it_stopped(
    collected: Path, tmp_path: Path, whole: tuple[PackConfig, Path], moment: int
) -> None:
    config, expected = whole
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack("collected", collected, tmp_path / "out", config, progress=interrupt)
    with pytest.raises(DataError, match=r"no dataset\.json"):
        Manifest.load(tmp_path / "out.partial")
    pack("collected", collected, tmp_path / "out", config, progress=interrupt)
    assert seen[moment] == (moment - 1) // 3 * 3 + 1  # whole blocks are not packed again
    assert contents(tmp_path / "out") == contents(expected)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_pack_that_was_begun_otherwise_is_not_gone_on_with(collected: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack("collected", collected, out, PackConfig(per_shard=3), part=(0, 2))
    with pytest.raises(DataError, match="begun with another config; give --overwrite"):
        pack("collected", collected, out, PackConfig(per_shard=4), part=(1, 2))
    assert pack("collected", collected, out, PackConfig(per_shard=4), overwrite=True).packed == 12  # type: ignore


def test_a_folder_in_the_way_is_left_alone(tmp_path: Path, make: SimpleNamespace) -> None:
    raw, partial = tmp_path / "raw", tmp_path / "out.partial"
    for folder in (raw, partial):
        folder.mkdir()
    (raw / "a.mp4").write_bytes(make.video(5))
    (partial / "thesis.doc").touch()
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"no pack of ours \(it holds 'thesis\.doc'\)"):
            pack("folder", raw, tmp_path / "out", overwrite=overwrite)
    with pytest.raises(DataError, match="lies inside"):
        pack("folder", partial, tmp_path / "out")
    assert (partial / "thesis.doc").exists()


def test_a_pack_killed_while_it_was_finished_goes_on(
    collected: Path, tmp_path: Path, whole: tuple[PackConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, expected = whole

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("_write_index", "shutil.rmtree", "Path.rename"):
        out = tmp_path / name
        with monkeypatch.context() as context:
            context.setattr(f"jepa.data.merge.{name}", killed)
            with pytest.raises(KeyboardInterrupt):
                pack("collected", collected, out, config)
        with suppress(DataError) if out.exists() else nullcontext():
            pack("collected", collected, out, config)
        assert contents(out) == contents(expected) and not out.with_name(f"{name}.partial").exists()


def test_parts_may_begin_together(collected: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def part(i: int) -> None:
        pack("collected", collected, tmp_path / "out", PackConfig(per_shard=3), part=(i, 4))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(part, range(4)))
    assert merge(tmp_path / "out").packed == 12
    with pytest.raises(DataError, match="give it to `jepa data merge`"):
        pack("collected", collected, tmp_path / "out", part=(0, 2), overwrite=True)


@pytest.mark.parametrize("name", ["frames", "label", "times", "../evil", "_tok", "a.b"])
def test_arrays_may_not_take_the_names_of_others(tmp_path: Path, make: SimpleNamespace, name: str) -> None:
    folder = make.collected(tmp_path / "in", [5, 5])
    with np.load(folder / "episode_000001.npz") as old:
        np.savez(folder / "episode_000001.npz", **{**old, name: np.zeros(5)})
    report = pack("collected", folder, tmp_path / "out")
    assert report is not None and report.packed == 1
    assert report.rejected[0].reason.startswith(f"array '{name}': choose another name")


def test_short_and_repeated_videos_are_left_out_on_request(tmp_path: Path, make: SimpleNamespace) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    noise = make.video(20, noise=True)
    for name, data in {"a": noise, "b": make.video(24, noise=True), "c": noise, "d": make.video(8)}.items():
        (raw / f"{name}.mp4").write_bytes(data)
    everything = pack("folder", raw, tmp_path / "all")
    assert everything is not None and everything.packed == 4
    report = pack("folder", raw, tmp_path / "out", PackConfig(min_seconds=1, unique=True))
    assert report is not None and report.packed == 2
    reasons = {r.file: r.reason for r in report.rejected}
    assert reasons["d.mp4"] == "0.80 s long, less than 1 s"
    assert reasons["c.mp4"].startswith("looks the same as a_mp4-")
    manifest = Manifest.load(tmp_path / "out")
    assert [entry.key[0] for entry in manifest] == ["a", "b"] and all(manifest.read(i).video for i in (0, 1))


def test_statistics_are_those_of_all_rows(shards: Path, manifest: Manifest) -> None:
    statistics = manifest.statistics
    states = np.concatenate([manifest.read(i).arrays["states"] for i in range(12)])
    assert statistics["samples"] == 12 and statistics["frames"] == len(states) == statistics["states"]["count"]
    for name, value in (
        ("mean", states.mean(0)),
        ("std", states.std(0)),
        ("min", states.min(0)),
        ("max", states.max(0)),
    ):
        np.testing.assert_allclose(statistics["states"][name], value, rtol=1e-6)
    assert statistics["ranges"]["frames"] == {"min": 6, "mean": len(states) / 12, "max": 30}
    assert statistics["bytes"] == sum(size for entry in manifest for _, size, _ in entry.members.values())


def test_plain_webdataset_reads_the_shards(shards: Path, manifest: Manifest) -> None:
    import webdataset

    found = {}
    for shard in sorted(shards.glob("*.tar")):
        dataset = webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
        found |= {sample["__key__"]: sample for sample in dataset}
    assert sorted(found) == [e.key for e in manifest]
    for i, entry in enumerate(manifest):
        sample = found[entry.key]
        assert sample["mp4"] == manifest.read(i).video
        assert {"actions.npy", "states.npy", "skill.npy", "object_pos.npy"} <= set(sample)


def test_videos_are_re_encoded(tmp_path: Path, make: SimpleNamespace) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "wide.mp4").write_bytes(make.video(33, 96, 64, fps=12.5))
    (tmp_path / "raw" / "small.mkv").write_bytes(make.video(5, 30, 20, container="matroska"))
    pack("folder", tmp_path / "raw", tmp_path / "out", PackConfig(encoding=Encoding(short_side=32)))
    small, wide = Manifest.load(tmp_path / "out")
    assert (wide.width, wide.height, wide.frames, wide.fps) == (48, 32, 33, 12.5)
    assert (small.width, small.height, small.frames) == (30, 20, 5)
    assert "mp4" in small.members


def test_arrays_keep_their_frame_rate(collected: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="keep its frame rate"):
        pack("collected", collected, tmp_path / "out", PackConfig(encoding=Encoding(fps=5)))


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


def test_arrays_must_fit_the_video(tmp_path: Path, make: SimpleNamespace) -> None:
    folder = make.collected(tmp_path / "in", [6, 6, 6, 6, 6, 6])

    def change(i: int, without: str = "", **arrays: np.ndarray) -> None:
        path = folder / f"episode_{i:06d}.npz"
        with np.load(path) as old:
            np.savez(path, **{name: array for name, array in {**old, **arrays}.items() if name != without})

    change(0, states=np.zeros((5, 7), np.float32))
    change(1, actions=np.zeros((5, 3), np.float32))
    change(2, object_pos=np.full((6, 3), np.nan, np.float32))
    (folder / "episode_000003.npz").unlink()
    change(5, without="object_pos")
    report = pack("collected", folder, tmp_path / "out")
    reasons = [r.reason for r in report.rejected]
    assert report.packed == 1
    assert "states: shape (5, 7), but the video's 6 frames need 6 rows" in reasons[0]
    assert "actions: shape (5, 3), but rows of 7" in reasons[1]
    assert "object_pos: not finite" in reasons[2]
    assert "episode_000003.npz cannot be read" in reasons[3]
    assert "no object_pos" in reasons[4]


def test_errors(tmp_path: Path, collected: Path) -> None:
    with pytest.raises(DataError, match="no source 'tape'; there are: collected, csv, droid"):
        pack("tape", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        pack("folder", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="one view only"):
        pack("collected", collected, tmp_path / "out", PackConfig(camera="wrist"))
    with pytest.raises(DataError, match="lies inside"):
        pack("collected", collected, collected / "out")
    assert source_names() == ["collected", "csv", "droid", "folder", "images", "lerobot", "robomimic"]
