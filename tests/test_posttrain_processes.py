"""Two processes under ZeRO-2 post-train as one: the same features, losses and weights; a NaN changes nothing."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from jepa import encode
from jepa.checkpoint import read_model
from jepa.config import load_config
from jepa.engines.launch import engine
from jepa.logs import read
from jepa.models.ac_predictor import ACPredictorConfig
from jepa.optim import OptimConfig, build_adamw
from jepa.posttrain import PosttrainConfig, run
from jepa.update import update
from jepa.worlds import ac_jepa
from jepa.worlds.base import Sequence, WorldSpec

ZERO2 = Path(__file__).parent.parent / "configs" / "accelerate" / "zero2_cpu.yaml"
SMALL = [
    *("world.predictor.width=24", "world.predictor.depth=2", "world.predictor.heads=2", "batch_size=4", "frames=4"),
    *("world.predictor.markov=false", "world.predictor.window=2", "world.scale=layer_norm", "world.rollout=3"),
    *("weights=random", "encoder=debug", "loop.checkpoint_every=6", "loop.timeout=60"),
]


PARTS = "import sys; from jepa import encode; encode.PART = 30; from jepa.cli import app; app(sys.argv[1:])"
"""The command line, with files of features that hold two of the episodes: three files for two processes."""


def test_two_processes_of_zero_2_train_as_one(tmp_path, moving_square, monkeypatch):
    pytest.importorskip("deepspeed")
    given = [f"shards={moving_square}", f"heldout={moving_square}", *SMALL]
    monkeypatch.setattr(encode, "PART", 30)
    (tmp_path / "parts.py").write_text(PARTS)
    run(load_config(PosttrainConfig, "posttrain", "debug", [f"out={tmp_path / 'one'}", *given]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ZERO2), "--quiet"]
    command = [*launch, f"--main_process_port={port}", str(tmp_path / "parts.py"), "posttrain", "debug"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    ran = subprocess.run(
        [*command, f"out={tmp_path / 'two'}", *given],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    for split in ("train", "heldout"):
        one, two = (sorted((tmp_path / name / "features" / split).iterdir()) for name in ("one", "two"))
        assert [file.name for file in two] == [file.name for file in one] and len(one) == 3
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))
    one, two = ([r for r in read(tmp_path / name / "log.jsonl") if "loss" in r] for name in ("one", "two"))
    assert len(one) == 6
    for key in ("loss", "loss_forced", "loss_rollout", "grad_norm"):
        assert [r[key] for r in two] == pytest.approx([r[key] for r in one], rel=1e-4), key
    (_, one, _), (_, two, _) = (read_model(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name].float(), one[name].float(), atol=1e-5, rtol=1e-4)


def test_a_window_that_is_not_finite_changes_nothing():
    """Nor does it go on in the next step: nothing of a batch is kept in the world."""
    shape = ACPredictorConfig(24, 1, 2)
    world = ac_jepa.build(ac_jepa.Config(shape), WorldSpec(8, 7, 7, (2, 3)), torch.Generator().manual_seed(0))
    optim = OptimConfig(lr=1e-3)
    own = engine(Accelerator(cpu=True), world, build_adamw(world.named_parameters(), optim), 0.0, 1)
    rng = torch.Generator().manual_seed(1)
    parts = (torch.randn(2, 3, *shape, generator=rng) for shape in ((6, 8), (7,), (7,)))
    tokens, actions, states = parts
    good = Sequence(tokens, actions[:, :-1], states)
    bad = Sequence(torch.where(tokens > 2, torch.nan, tokens), good.actions, states)
    assert bad.tokens.isnan().any() and "nonfinite" not in update(own, good, 1)
    before = {name: piece.values.clone() for name, piece in own.pieces().items()}
    assert "nonfinite" in update(own, bad, 1)
    assert all(torch.equal(before[name], piece.values) for name, piece in own.pieces().items())
    assert "nonfinite" not in update(own, good, 1)
