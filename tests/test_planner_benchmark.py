"""The benchmark of planning compares like with like: the reference's reading has our energies and poses."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from jepa.pose import integrate

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = {"width": 24, "depth": 2, "heads": 2, "embed": 8, "grid": 3, "samples": 5, "chunk": 2}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    import planner

    yield planner
    for name in set(sys.modules) - before:
        if name in ("planner", "pretrain_step") or name.split(".")[0] == "reference":
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def pair(bench):
    pair = bench.make_pair(argparse.Namespace(**TINY, horizons=[1, 2, 3], device="cpu"))
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():  # so small a model needs loud weights for the energies to differ
        for p in pair.predictor.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=rng))
    pair.world.predictor.load_state_dict(pair.predictor.state_dict())
    return pair


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_the_reference_has_our_energies(bench, pair, horizon):
    ours, theirs = bench.plan_ours(pair, horizon, 2, iterations=2), bench.plan_theirs(pair, horizon, iterations=2)
    assert ours.shape == (5,) and theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_difference_is_seen(bench, pair):
    with torch.no_grad():
        pair.predictor.predictor_blocks[1].attn.proj.weight[0, 0] += 0.5
    assert (bench.plan_ours(pair, 2, 2) - bench.plan_theirs(pair, 2)).abs().max() > 1e-4


def test_the_reference_moves_poses_as_we_do(bench):
    rng = torch.Generator().manual_seed(0)
    poses, moves = torch.rand(20, 7, generator=rng), 0.3 * torch.randn(20, 7, generator=rng)
    torch.testing.assert_close(bench.reference.move(poses, moves), integrate(poses, moves), atol=1e-5, rtol=0)


def test_the_script_runs_and_reports_ratios():
    sizes = [f"--{name}={value}" for name, value in TINY.items()]
    command = [sys.executable, str(BENCHMARKS / "planner.py"), *sizes, "--rounds=2", "--poses=3"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for words in ("H=3: energies differ by", "poses differ by", "| reference / ours (95 %) |", "| H=2 |", "| pose |"):
        assert words in ran.stdout
