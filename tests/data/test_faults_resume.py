"""Resume: what follows is what would have followed, at no cost, for another world and other workers too."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jepa.data.clip import Clip
from jepa.data.config import DataConfig
from jepa.data.index import Manifest, Sample
from jepa.data.loader import clips
from jepa.data.order import Mixture, order
from jepa.data.store import LocalStore

faults = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fault_fixtures.py"))))
watchdog = faults.watchdog

CONFIG = DataConfig(frames=3, fps=0, size=16, rand_augment=True)


def run(manifest: Manifest, config: DataConfig = CONFIG, **more: int) -> list[Clip]:
    return list(clips([manifest], config, **{"batch_size": 8, "seed": 5, **more}))


@pytest.mark.fault("R4")
def test_resume_reads_nothing_of_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R4: from opening a million samples to the first batch, far into the run."""
    build = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "index_scale.py"))["build"]
    build(tmp_path / "shards", 10**6, 100)
    read, decoded = [], []
    monkeypatch.setattr(LocalStore, "read_range", lambda *_: pytest.fail("read without need"))
    monkeypatch.setattr(Manifest, "read", lambda _, i: (read.append(i), Sample(b"", {}, {}, i))[1])
    blank = np.zeros((3, 16, 16, 3), np.uint8)
    monkeypatch.setattr("jepa.data.slots.decode", lambda *_, **__: (decoded.append(1), blank)[1])
    with faults.within(2):
        manifest = Manifest.load(tmp_path / "shards")
        loader = clips([manifest], CONFIG, batch_size=8, seed=5, steps=10**7, start_step=10**6)
        batch = next(loader)
    mixture = Mixture((10**6,), 8, 5)
    assert batch.step == 10**6 and (batch.epoch == 8).all()
    assert batch.sample_id.tolist() == read == [order(mixture, 10**6, slot).sample for slot in range(8)]
    assert len(decoded) == 8


@pytest.mark.fault("R5")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 0), (2, 3), (4, 1)])
def test_a_run_goes_on_with_another_world_and_other_workers(manifest: Manifest, world: int, workers: int) -> None:
    """R5. For random data sets, weights and lengths: test_loader and test_faults_loops."""
    whole, start = run(manifest, steps=6), 2
    config = replace(CONFIG, workers=workers)
    ranks = [run(manifest, config, steps=6, start_step=start, rank=r, world=world) for r in range(world)]
    for step, batch in enumerate(whole[start:]):
        for name in ("frames", "sample_id", "epoch", "valid"):
            assert torch.equal(torch.cat([getattr(own[step], name) for own in ranks]), getattr(batch, name))
        assert {own[step].step for own in ranks} == {batch.step}


@pytest.mark.fault("R6")
def test_a_run_does_not_go_on_with_another_batch_size(tmp_path: Path, save_model: Callable[..., None]) -> None:
    """R6: it would repeat and leave out samples; any other setting of a run is refused likewise (test_pretrain)."""
    from jepa.checkpoint import CheckpointError, claim_run

    claim_run(tmp_path / "run", {"batch_size": 8, "seed": 5})
    save_model(tmp_path / "run", torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="batch_size: 8 there, 4 here"):
        claim_run(tmp_path / "run", {"batch_size": 4, "seed": 5})
    assert order(Mixture((12,), 8, 5), 2, 0) != order(Mixture((12,), 4, 5), 2, 0)  # which is why


@pytest.mark.fault("R7")
def test_augmentation_and_masks_belong_to_seed_epoch_and_sample(manifest: Manifest) -> None:
    """R7: whatever the batch size, whatever was drawn before; the size of blocks belongs to the step as well."""
    from jepa.masks.multiblock import Config, build

    def by_sample(batch_size: int, steps: int, start: int = 0) -> dict[tuple[int, int], torch.Tensor]:
        batches = run(manifest, batch_size=batch_size, steps=steps, start_step=start)
        rows = (row for b in batches for row in zip(b.epoch.tolist(), b.sample_id.tolist(), b.frames, strict=True))
        return {(epoch, i): frames for epoch, i, frames in rows}

    whole, resumed = by_sample(12, 3), by_sample(4, 9, start=3)
    assert len(whole) == 36 and len(resumed) == 24
    assert all(torch.equal(frames, whole[place]) for place, frames in resumed.items())
    assert not any(torch.equal(whole[0, i], whole[1, i]) for i in range(12))

    grid, ids, epochs = (2, 8, 8), torch.arange(12), torch.arange(12) // 4
    going, fresh = build(Config(), seed=5), build(Config(), seed=5)
    for step in range(4):
        masks = going.sample(grid, ids, epochs, step)
    for own in (slice(0, 12), slice(4, 8), slice(8, 12)):
        for mask, again in zip(masks, fresh.sample(grid, ids[own], epochs[own], 3), strict=True):
            assert torch.equal(mask.context[own], again.context) and torch.equal(mask.target[own], again.target)
