"""Faults of data that a run outlives or refuses: bad videos; cut, lost and missing shards; too few of them.

Elsewhere: odd videos (short, one frame, varying rate, rotated, odd sizes) in test_video, test_decode and test_sampling;
flipped bits in test_verify and test_index; errors of the disk in test_store; places and schemes in test_locations.
"""

import runpy
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jepa.data.clip import Clip
from jepa.data.config import DataConfig
from jepa.data.errors import DataError
from jepa.data.index import Manifest
from jepa.data.loader import Clips, clips
from jepa.data.verify import verify

faults = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fault_fixtures.py"))))
watchdog = faults.watchdog

CONFIG = DataConfig(frames=3, fps=0, size=16, rand_augment=True)
BAD = {0: "empty", 2: "zeros", 3: "text", 5: "without moov", 8: "cut", 11: "flipped"}  # by sample
RUN = {"batch_size": 8, "seed": 5, "steps": 4}


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def run(manifest: Manifest, config: DataConfig = CONFIG, **more: int) -> tuple[list[Clip], Clips]:
    loader = clips([manifest], config, **{**RUN, **more})
    return list(loader), loader


def bad_videos(manifest: Manifest, make: SimpleNamespace) -> dict[str, dict[str, bytes]]:
    """D1 to D5 with checksums that fit, so that decoders meet them."""
    slow_start = make.video(40, noise=True)
    fast_start = make.video(40, faststart=True, noise=True)
    assert slow_start.find(b"moov") > slow_start.find(b"mdat") and fast_start.find(b"moov") < fast_start.find(b"mdat")
    videos = {
        "empty": b"",
        "zeros": bytes(5000),
        "text": b"these are words, not frames\n" * 99,
        "without moov": slow_start[: slow_start.find(b"moov") - 4],
        "cut": fast_start[: fast_start.find(b"mdat") + 300],
    }
    return {manifest[i].key: {"mp4": videos[kind]} for i, kind in BAD.items() if kind in videos}


@pytest.fixture
def half_bad(copy: Path, make: SimpleNamespace) -> Manifest:
    """Six of twelve videos cannot be read, each for another reason; D6, the flipped one, keeps its checksum."""
    faults.rewrite(copy, bad_videos(Manifest.load(copy), make))
    assert not list(verify(str(copy)))
    manifest = Manifest.load(copy)
    offset, size, _ = manifest[11].members["mp4"]
    with (copy / manifest[11].shard).open("r+b") as file:
        for place in np.random.default_rng(0).integers(offset + size // 4, offset + size // 2, 5).tolist():
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 16]))
    return manifest


@pytest.mark.fault("D1", "D2", "D3", "D4", "D5", "D6")
def test_bad_videos_are_skipped_counted_and_replaced_in_the_same_way_everywhere(half_bad: Manifest) -> None:
    """D1 to D6."""
    ids, replaced = faults.expected(list(BAD), 12, **RUN)
    batches, loader = run(half_bad)
    assert [batch.sample_id.tolist() for batch in batches] == ids
    keys = {i: (half_bad[i].shard, half_bad[i].key) for i in BAD}
    assert [s[:2] for s in loader.skipped] == [keys[i] for step in replaced for i in step]
    reasons = {s.key: s.reason for s in loader.skipped}
    assert len(reasons) == 6 and all(r and "\n" not in r for r in reasons.values())
    assert "sha256 differs" in reasons[half_bad[11].key]
    for more in ({"workers": 2}, {"start_step": 2}, {"workers": 1, "start_step": 3}):
        config = replace(CONFIG, workers=more.pop("workers", 0))
        again, loader_again = run(half_bad, config, **more)
        start = more.get("start_step", 0)
        assert faults.all_same(again, batches[start:])
        assert loader_again.skipped == loader.skipped[sum(map(len, replaced[:start])) :]
    ranks = [run(half_bad, rank=rank, world=4) for rank in range(4)]
    for step, batch in enumerate(batches):
        assert torch.equal(torch.cat([own[step].frames for own, _ in ranks]), batch.frames)
    assert Counter(s for _, own in ranks for s in own.skipped) == Counter(loader.skipped)


@pytest.mark.fault("D7")
@pytest.mark.parametrize("workers", [0, 2])
def test_all_bad_fails_soon_with_the_count(copy: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """D7: in a large batch too, only as many are tried as are needed to know."""
    manifest = Manifest.load(copy)
    faults.rewrite(copy, {entry.key: {"mp4": b""} for entry in manifest})
    manifest, tried = Manifest.load(copy), []
    read = Manifest.read
    monkeypatch.setattr(Manifest, "read", lambda self, i: (tried.append(i), read(self, i))[1])
    with faults.within(10), pytest.raises(DataError, match=r"^12 samples in a row cannot be read; the first: [^\n]*$"):
        run(manifest, replace(CONFIG, workers=workers), batch_size=512)
    assert sorted(tried) == ([] if workers else list(range(12)))


@pytest.mark.fault("D7")
def test_more_bad_samples_than_the_limit_fail_soon_with_the_count(half_bad: Manifest) -> None:
    """D7: none is counted away by those that stand in for it."""
    with faults.within(10), pytest.raises(DataError, match=r"^\d+ of the last 1\d\d samples .* \(limit 5%\)") as error:
        run(half_bad, steps=10**6)
    assert "\n" not in str(error.value)


@pytest.mark.fault("D10")
@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000002.tar"])
@pytest.mark.parametrize("place", ["header", "payload", "edge"])
def test_cut_shards_are_named_at_the_start(copy: Path, name: str, place: str) -> None:
    """D10: also where what is left is a whole tar."""
    entry = next(e for e in Manifest.load(copy) if e.shard == name)
    offset, size, _ = entry.members["mp4"]
    cut = {"header": offset - 200, "payload": offset + size // 2, "edge": offset + -(-size // 512) * 512}[place]
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:cut])
    with pytest.raises(DataError, match=f"{name} is cut off: {cut} bytes, the index says {len(data)}"):
        Manifest.load(copy)
    (copy / name).write_bytes(data[:cut].ljust(len(data), b"\0"))  # as after a crash of the file system
    with pytest.raises(DataError, match=f"{name}: {entry.key}.*sha256 differs"):
        [Manifest.load(copy).read(e.id) for e in Manifest.load(copy) if e.shard == name]


@pytest.mark.fault("D12")
def test_missing_extra_and_exchanged_shards_are_named_at_the_start(copy: Path) -> None:
    """D12: a shard under the name of another one cannot have its samples."""
    first, second = copy / "shard-000000.tar", copy / "shard-000001.tar"
    shutil.copy(first, copy / "shard-000007.tar")
    with pytest.raises(DataError, match=r"shard-000007\.tar is not in the index"):
        Manifest.load(copy)
    (copy / "shard-000007.tar").unlink()
    data = first.read_bytes()
    first.unlink()
    with pytest.raises(DataError, match=r"shard-000000\.tar is missing"):
        Manifest.load(copy)
    first.write_bytes(second.read_bytes()[: len(data)].ljust(len(data), b"\0"))
    with pytest.raises(DataError, match=r"shard-000000\.tar: episode_000000"):
        Manifest.load(copy).read(0)


@pytest.mark.fault("D13")
@pytest.mark.parametrize("workers", [0, 2])
def test_few_samples_in_one_shard_are_enough_for_many_ranks(
    tmp_path: Path, make: SimpleNamespace, workers: int
) -> None:
    """D13: eight ranks take the same number of steps, and together every sample once an epoch."""
    from jepa.data.pack import pack

    pack("collected", make.collected(tmp_path / "in", [6, 4, 5, 6, 7]), tmp_path / "out")
    manifest = Manifest.load(tmp_path / "out")
    assert len(manifest.shards) == 1 and len(manifest) == 5
    config, ranks = replace(CONFIG, workers=workers), range(8) if workers == 0 else (0, 7)
    parts = [run(manifest, config, steps=5, rank=rank, world=8)[0] for rank in ranks]
    assert [[clip.step for clip in part] for part in parts] == [list(range(5))] * len(parts)
    ids = Counter(int(i) for part in parts for clip in part for i in clip.sample_id)
    assert ids == dict.fromkeys(range(5), 8) or workers
    assert faults.all_same(parts[-1], run(manifest, steps=5, rank=7, world=8)[0])


@pytest.mark.fault("D14")
def test_a_lost_shard_is_counted_and_read_again_when_it_is_back(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D14. How often a read is tried again, and errors of the disk: test_store."""
    monkeypatch.setattr("jepa.data.retry.RETRY_SECONDS", (0.01, 0.01))
    manifest, away = Manifest.load(copy), copy / "away"
    lost = copy / "shard-000002.tar"  # samples 10 and 11
    loader = clips([manifest], CONFIG, batch_size=12, seed=5, steps=10**6)
    whole = faults.expected([], 12, 12, 5, 3)[0]
    assert next(loader).sample_id.tolist() == whole[0] and not loader.skipped
    lost.rename(away)
    ids, replaced = faults.expected([10, 11], 12, 12, 5, 2)
    assert next(loader).sample_id.tolist() == ids[1]
    assert [s.key for s in loader.skipped] == [manifest[i].key for i in replaced[1]]
    assert {s.shard for s in loader.skipped} == {lost.name} and all(
        "cannot be read" in s.reason for s in loader.skipped
    )
    away.rename(lost)
    assert next(loader).sample_id.tolist() == whole[2] and len(loader.skipped) == len(replaced[1])


@pytest.mark.fault("D14")
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_that_stay_lost_stop_the_run(copy: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """D14."""
    monkeypatch.setattr("jepa.data.retry.RETRY_SECONDS", (0.01, 0.01))
    loader = clips([Manifest.load(copy)], replace(CONFIG, workers=workers), batch_size=12, seed=5, steps=10**6)
    next(loader)
    (copy / "shard-000001.tar").unlink()
    with faults.within(10), pytest.raises(DataError, match=r"\(limit 5%\).*shard-000001\.tar: cannot be read"):
        list(loader)
