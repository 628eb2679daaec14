"""Pre-training end to end on tiny shards: exact resume after a kill, clear refusals, health that can tell collapse."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError, load_config
from jepa.data.errors import DataError
from jepa.data.pack import pack
from jepa.health import rankme, std_over_time
from jepa.logs import read
from jepa.masks import multiblock
from jepa.models.sizes import SIZES
from jepa.pretrain import PretrainConfig, run
from jepa.runs import load_encoder, weights_sha256


def config_of(out, shards, tiny_pretrain, *more):
    values = [f"out={out}", f"data.shards={shards}", f"heldout={shards}", *tiny_pretrain, *more]
    return load_config(PretrainConfig, "pretrain", "debug", values)


def losses(out):
    return {r["step"]: r["loss"] for r in read(out / "log.jsonl") if "loss" in r}


def test_a_killed_run_resumes_to_the_same_losses_and_weights(tmp_path, moving_square, tiny_pretrain):
    steps = ("loop.steps=40", "loop.checkpoint_every=6", "loop.measure_every=20")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(config_of(whole, moving_square, tiny_pretrain, *steps))

    command = [sys.executable, "-m", "jepa", "pretrain", "debug", f"out={killed}", f"data.shards={moving_square}"]
    command += [f"heldout={moving_square}", *tiny_pretrain, *steps]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wanted = int.from_bytes(os.urandom(1), "big") % 20 + 8  # anywhere between two checkpoints
    deadline = time.monotonic() + 120
    while len(losses(killed)) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert len(losses(killed)) < 40

    run(config_of(killed, moving_square, tiny_pretrain, *steps))
    assert losses(killed) == losses(whole)
    assert weights_sha256(load_encoder(killed)) == weights_sha256(load_encoder(whole))


def test_worker_processes_change_nothing(tmp_path, moving_square, tiny_pretrain):
    run(config_of(tmp_path / "a", moving_square, tiny_pretrain, "data.cache_gb=0"))
    run(config_of(tmp_path / "b", moving_square, tiny_pretrain, "data.workers=2"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_a_damaged_newest_checkpoint_is_reported_and_the_older_one_used(tmp_path, moving_square, tiny_pretrain, capsys):
    run(config_of(tmp_path, moving_square, tiny_pretrain))
    before = weights_sha256(load_encoder(tmp_path))
    newest = max((tmp_path / "checkpoints").glob("step_*")) / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    run(config_of(tmp_path, moving_square, tiny_pretrain))
    assert "does not match its size and sha256" in capsys.readouterr().err.replace("\n", " ")
    assert weights_sha256(load_encoder(tmp_path)) == before


def test_another_config_in_the_same_folder_is_refused(tmp_path, moving_square, tiny_pretrain):
    run(config_of(tmp_path, moving_square, tiny_pretrain))
    with pytest.raises(CheckpointError, match=r"encoder\.depth: 1 there, 2 here"):
        run(config_of(tmp_path, moving_square, tiny_pretrain, "encoder.depth=2"))


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, moving_square, tiny_pretrain):
    run(config_of(tmp_path / "a", moving_square, tiny_pretrain))
    run(config_of(tmp_path / "b", moving_square, tiny_pretrain, "encoder.width=64"))
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "a" / "checkpoints", dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match=r"does not fit the model: .* is \(64.* the model wants \(32"):
        load_encoder(tmp_path / "a")
    assert config["encoder"]["width"] == 32


def test_missing_shards_and_missing_keys_are_one_line(tmp_path, moving_square, tiny_pretrain):
    with pytest.raises(DataError, match="no such folder of shards"):
        run(config_of(tmp_path, tmp_path / "nowhere", tiny_pretrain))
    with pytest.raises(ConfigError, match=r"data\.shards"):
        run(config_of(tmp_path, "", tiny_pretrain))


def test_a_loss_that_stays_not_finite_from_the_beginning_stops_the_run(tmp_path, moving_square, tiny_pretrain):
    with pytest.raises(FloatingPointError, match="steps 2 to 4, and there is no checkpoint to go back to"):
        run(config_of(tmp_path, moving_square, tiny_pretrain, "loop.optim.lr=1e30", "loop.optim.start_lr=1e30"))


def test_slices_of_a_batch_train_as_the_whole_does(tmp_path, moving_square, tiny_pretrain):
    more = ("batch_size=4", "loop.optim.lr=1e-4")
    run(config_of(tmp_path / "a", moving_square, tiny_pretrain, *more))
    run(config_of(tmp_path / "b", moving_square, tiny_pretrain, *more, "loop.accumulate=4"))
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), abs=1e-5)
    with pytest.raises(ConfigError, match=r"batch of 4 does not divide into loop\.accumulate=3"):
        run(config_of(tmp_path / "c", moving_square, tiny_pretrain, *more, "loop.accumulate=3"))


def test_images_and_videos_train_in_one_run_each_at_its_length(tmp_path, moving_square, tiny_pretrain, monkeypatch):
    images = tmp_path / "images"
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        (images / "class").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(images / "class" / f"{number}.png")
    pack("images", images, tmp_path / "stills")
    grids = []
    sample = multiblock.MultiBlock.sample
    monkeypatch.setattr(
        multiblock.MultiBlock, "sample", lambda self, grid, *rest: grids.append(grid) or sample(self, grid, *rest)
    )
    mix = f"data.mix=[{{shards: {tmp_path / 'stills'}, frames: 1}}, {{shards: {moving_square}, frames: 8, weight: 2}}]"
    more = [f"out={tmp_path / 'run'}", f"heldout={moving_square}", *tiny_pretrain, "loop.steps=12", "loop.accumulate=2"]
    run(load_config(PretrainConfig, "pretrain", "debug", [*more, "batch_size=4", mix]))
    assert set(grids) == {(1, 4, 4), (4, 4, 4)}
    log = read(tmp_path / "run" / "log.jsonl")
    assert len(losses(tmp_path / "run")) == 12 and "health/rankme" in log[-1]


def test_size_presets_are_the_sizes_of_the_models():
    for name, size in SIZES.items():
        assert load_config(PretrainConfig, "pretrain", name, ["out=x"]).encoder == size


def test_recipes_name_their_size_and_cpu_presets_stay_fp32():
    sizes = {"vitl": "vit_large", "vith": "vit_huge", "vitg": "vit_giant_xformers"}
    for short, size in sizes.items():
        for recipe in ("256_16f", "256_64f_cooldown"):
            config = load_config(PretrainConfig, "pretrain", f"{short}_{recipe}")
            assert replace(config.encoder, checkpointing="none") == SIZES[size]
            assert (config.batch_size, config.loop.precision) == (3072, "bf16")
    for name in ("tiny", "small", "demo", "debug"):
        assert load_config(PretrainConfig, "pretrain", name).loop.precision == "fp32"


def test_health_tells_a_collapsed_encoder():
    rng = torch.Generator().manual_seed(0)
    healthy, line = torch.randn(512, 32, generator=rng), torch.randn(512, 1, generator=rng) * torch.ones(1, 32)
    assert rankme(healthy) > 28 and rankme(line) == pytest.approx(1, abs=1e-3)
    assert rankme(healthy + 1000) == pytest.approx(rankme(healthy), rel=1e-3)  # a common mean hides nothing
    still = torch.randn(2, 1, 9, 32, generator=rng).expand(2, 4, 9, 32)
    assert std_over_time(still) == 0  # though positions differ
    assert std_over_time(torch.randn(2, 64, 9, 32, generator=rng)) == pytest.approx(1, abs=0.05)
