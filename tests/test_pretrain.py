"""Pre-training end to end on tiny shards: exact resume after a kill, clear refusals, health that can tell collapse."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError, load_config
from jepa.data.errors import DataError
from jepa.health import rankme, std_over_time
from jepa.logs import read
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
    assert "does not match its sha256" in capsys.readouterr().err.replace("\n", " ")
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


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, moving_square, tiny_pretrain):
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        run(config_of(tmp_path, moving_square, tiny_pretrain, "loop.optim.lr=1e30", "loop.optim.start_lr=1e30"))


def test_health_tells_a_collapsed_encoder():
    rng = torch.Generator().manual_seed(0)
    healthy, line = torch.randn(512, 32, generator=rng), torch.randn(512, 1, generator=rng) * torch.ones(1, 32)
    assert rankme(healthy) > 28 and rankme(line) == pytest.approx(1, abs=1e-3)
    assert rankme(healthy + 1000) == pytest.approx(rankme(healthy), rel=1e-3)  # a common mean hides nothing
    still = torch.randn(2, 1, 9, 32, generator=rng).expand(2, 4, 9, 32)
    assert std_over_time(still) == 0  # though positions differ
    assert std_over_time(torch.randn(2, 64, 9, 32, generator=rng)) == pytest.approx(1, abs=0.05)
