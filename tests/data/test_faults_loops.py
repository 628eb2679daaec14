"""The faults of the other tests many times over, at random places and moments; too long for every run of the tests."""

import gc
import multiprocessing
import os
import runpy
import shutil
import signal
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jepa.data.config import DataConfig, Part, load_manifests
from jepa.data.errors import DataError
from jepa.data.index import INDEX_FILES, Manifest
from jepa.data.loader import clips
from jepa.data.pack import PackConfig, pack
from jepa.data.transcode import Encoding
from jepa.data.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]
faults = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fault_fixtures.py"))))
watchdog = faults.watchdog


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


@pytest.mark.fault("D11")
@pytest.mark.parametrize("seed", range(10))
def test_flipped_bits_are_found_and_kill_nothing(copy: Path, seed: int) -> None:
    """D11: ten flips a seed, each anywhere in a shard or the index; whoever does not verify meets no other error."""
    rng = np.random.default_rng(seed)
    config = DataConfig(frames=4, fps=4, size=16)
    for name in rng.choice(["shard-000000.tar", "shard-000002.tar", *INDEX_FILES], 10):
        path = copy / name
        data = path.read_bytes()
        place, bit = int(rng.integers(len(data))), 1 << int(rng.integers(8))
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        assert name in {fault.file for fault in verify(str(copy))}, (name, place, bit)
        try:
            loader = clips([Manifest.load(copy)], config, batch_size=12, seed=0, steps=2)
            assert len(list(loader)) == 2
        except DataError as error:
            assert "\n" not in str(error), (name, place, bit)
        path.write_bytes(data)
    assert not list(verify(str(copy)))


@pytest.mark.fault("D11")
@pytest.mark.parametrize("name", INDEX_FILES)
def test_every_bit_of_the_headers_of_the_index(copy: Path, name: str) -> None:
    """D11: what they say is Python's syntax, and numpy reads it as such."""
    data = (copy / name).read_bytes()
    for place in range(128):
        for bit in range(8):
            (copy / name).write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                assert Manifest.load(copy).read(5).id == 5
            except DataError as error:
                assert "\n" not in str(error), (place, bit)


@pytest.mark.parametrize("seed", range(20))
def test_a_pack_killed_at_any_moment_goes_on_to_the_same_bytes(collected: Path, tmp_path: Path, seed: int) -> None:
    """R1 of packing: killed again and again, with no time to clean up."""
    config = PackConfig(encoding=Encoding(short_side=32), per_shard=2, unique=True)
    begun = time.monotonic()
    pack("collected", collected, tmp_path / "whole", config, workers=2)
    seconds, rng, kills = time.monotonic() - begun, np.random.default_rng(seed), 0
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        gc.collect()  # PyAV's dead frames must not be freed in a fork
        process = context.Process(
            target=pack, args=("collected", collected, tmp_path / "out", config), kwargs={"workers": 2}
        )
        process.start()
        process.join(rng.uniform(0, seconds))
        kills += process.is_alive()
        process.kill()
        process.join()
        if (tmp_path / "out").exists():
            break
    with suppress(DataError) if (tmp_path / "out").exists() else nullcontext():  # where it is there, this tidies up
        pack("collected", collected, tmp_path / "out", config, workers=2)
    assert faults.contents(tmp_path / "out") == faults.contents(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]
    if not kills:
        pytest.skip("it was done before it was killed")


@pytest.mark.fault("D15")
@pytest.mark.parametrize("seed", range(20))
def test_workers_killed_at_any_moment_change_nothing(manifest: Manifest, seed: int) -> None:
    """D15: while they start, read, hand over, or wait."""
    rng = np.random.default_rng(seed)
    run = {"batch_size": 8, "seed": seed, "steps": 12}
    expected = list(clips([manifest], DataConfig(frames=3, fps=0, size=16), **run))
    loader = clips([manifest], DataConfig(frames=3, fps=0, size=16, workers=3), **run)
    moments, batches = sorted(rng.choice(12, 2, replace=False).tolist()), []
    for step in range(12):
        if step in moments:
            time.sleep(rng.uniform(0, 0.1))
            if alive := multiprocessing.active_children():
                os.kill(alive[int(rng.integers(len(alive)))].pid or 0, signal.SIGKILL)
        batches.append(next(loader))
    assert faults.all_same(batches, expected) and not loader.skipped


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace) -> list[str]:
    """Five small data sets of several sizes."""
    root = tmp_path_factory.mktemp("sets")
    for number, lengths in enumerate(([9, 12, 5], [20], [7, 8, 9, 10, 11, 12, 6], [15, 16], [6, 6, 10, 6, 6])):
        make.collected(root / f"in{number}", lengths)
        pack("collected", root / f"in{number}", root / f"out{number}", PackConfig(per_shard=2))
    return [str(root / f"out{number}") for number in range(5)]


@pytest.mark.fault("R5")
@pytest.mark.parametrize("case", range(100))
def test_any_world_workers_and_resume_give_the_same_batches_in_the_same_order(folders: list[str], case: int) -> None:
    """R5, for random data sets, weights, lengths, rates, world sizes, numbers of workers and steps."""
    rng = np.random.default_rng(case)
    world, workers = int(rng.integers(1, 9)), int(rng.integers(0, 5))
    chosen = rng.choice(folders, int(rng.integers(1, 5))).tolist()
    parts = [Part(f, float(rng.uniform(0.1, 3)), int(rng.choice([2, 4])), float(rng.choice([0, 5]))) for f in chosen]
    start, steps, seed = int(rng.integers(0, 30)), int(rng.integers(1, 4)), int(rng.integers(1000))
    short = str(rng.choice(["pad_last", "loop", "skip"]))
    config = DataConfig(mix=parts, size=16, short=short, rand_augment=bool(rng.integers(2)), workers=workers)
    plain = DataConfig(mix=parts, size=16, short=short, rand_augment=config.rand_augment, cache_gb=0.1)
    more = {"batch_size": world * int(rng.integers(1, 4)), "seed": seed, "steps": start + steps}
    whole = list(clips(load_manifests(plain), plain, **more))[start:]
    ranks = [
        list(clips(load_manifests(config), config, rank=rank, world=world, start_step=start, **more))
        for rank in range(world)
    ]
    assert {len(own) for own in ranks} == {steps}
    for step, batch in enumerate(whole):
        for name in ("frames", "sample_id", "epoch", "valid"):
            assert torch.equal(torch.cat([getattr(own[step], name) for own in ranks]), getattr(batch, name))
        assert {own[step].step for own in ranks} == {batch.step}


@pytest.mark.fault("D1", "D2", "D3", "D4", "D5", "D6")
@pytest.mark.parametrize("seed", range(25))
def test_damaged_videos_of_every_kind_are_read_or_skipped(
    tmp_path: Path, make: SimpleNamespace, copy: Path, seed: int
) -> None:
    """D1 to D6: cut, flipped, blanked, doubled; with checksums that fit, so that decoders meet them."""
    rng, changes = np.random.default_rng(seed), {}
    for entry in Manifest.load(copy):
        kind = {"container": str(rng.choice(["mp4", "matroska", "avi"])), "faststart": False, "noise": True}
        data = bytearray(make.video(entry.frames, **kind, gop=int(rng.integers(1, 30))))
        a, b = sorted(rng.integers(0, len(data), 2).tolist())
        match int(rng.integers(4)):
            case 0:
                del data[a:]
            case 1:
                for place in rng.integers(0, len(data), int(rng.integers(1, 50))).tolist():
                    data[place] ^= 1 << int(rng.integers(8))
            case 2:
                data[a:b] = bytes(b - a)
            case 3:
                data[a:a] = data[a:b]
        changes[entry.key] = {"mp4": bytes(data)}
    faults.rewrite(copy, changes)
    config = DataConfig(frames=4, fps=0, size=16, workers=2, timeout=5)
    loader = clips([Manifest.load(copy)], config, batch_size=12, seed=seed, steps=3)
    try:
        assert [batch.frames.shape for batch in loader] == [(12, 4, 3, 16, 16)] * 3
    except DataError as error:
        assert "cannot be read" in str(error) and "\n" not in str(error)
    assert all(s.reason and "\n" not in s.reason for s in loader.skipped)
