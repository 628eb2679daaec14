"""The benchmark of the training step compares like with like: the reference's reading has our loss and gradients."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jepa.config import load_config
from jepa.pretrain import PretrainConfig

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

TINY = [
    *("data.frames=4", "data.size=32", "encoder.patch=8", "encoder.width=48", "encoder.depth=2", "encoder.heads=3"),
    *("predictor.width=24", "predictor.depth=2", "predictor.heads=2", "batch_size=2", "encoder.rope_layout=tiled"),
]


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from reference import pair

    yield pair
    for name in [name for name in sys.modules if name.split(".")[0] == "reference"]:
        monkeypatch.delitem(sys.modules, name)


def config_of(*more):
    return load_config(PretrainConfig, "pretrain", "debug", [*TINY, "out=nowhere", *more])


@pytest.mark.parametrize("recompute", [False, True])
def test_the_reference_has_our_loss_and_gradients(pair, recompute):
    ours, theirs, clip = pair.make_pair(config_of(), "cpu", recompute)
    with torch.no_grad():
        for side in (ours, theirs):
            for token in side.predictor.mask_tokens:
                token.fill_(0.1)  # zeros would hide how they are placed
    loss, gradients = pair.differences(ours, theirs, clip)
    assert loss <= 1e-6 and gradients <= 1e-4


def test_a_difference_is_seen(pair):
    ours, theirs, clip = pair.make_pair(config_of(), "cpu")
    with torch.no_grad():
        theirs.encoder.blocks[1].attn.proj.weight[0, 0] += 0.5
    loss, gradients = pair.differences(ours, theirs, clip)
    assert loss > 1e-6 and gradients > 1e-3


def test_the_other_layout_is_not_the_references(pair):
    ours, theirs, clip = pair.make_pair(config_of("encoder.rope_layout=interleaved"), "cpu")
    assert pair.differences(ours, theirs, clip)[0] > 1e-6


def test_both_sides_train_alike(pair):
    """AdamW by our groups and by the reference's, fused or not, and both moving averages: the same target."""
    from reference.step import build_adamw as build_reference_adamw

    from jepa.optim import build_adamw

    ours, theirs, clip = pair.make_pair(config_of(), "cpu")
    optim = replace(config_of().loop.optim, lr=0.01)
    named = [(n, p) for n, p in ours.named_parameters() if p.requires_grad]
    before = ours.target_encoder.blocks[0].attn.qkv.weight.clone()
    sides = (ours, build_adamw(named, optim)), (theirs, build_reference_adamw(theirs, optim.lr, optim.weight_decay))
    for model, optimizer in sides:
        loss, _ = model(clip)
        loss.backward()
        optimizer.step()
        model.after_step(0, 10)
    moved = ours.target_encoder.blocks[0].attn.qkv.weight - before
    assert moved.abs().max() > 0
    torch.testing.assert_close(theirs.target_encoder.blocks[0].attn.qkv.weight - before, moved, atol=2e-7, rtol=0.01)


def test_the_script_runs_and_reports_a_ratio():
    command = [sys.executable, str(BENCHMARKS / "pretrain_step.py"), "debug", *TINY, "--rounds", "2"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for words in ("loss differs by", "| reference |", "GFLOP a step", "reference / ours: "):
        assert words in ran.stdout
