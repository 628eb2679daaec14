"""Two CPU processes with DDP or ZeRO give what one process gives: losses, weights, skipped steps, change of engine.

One pair of processes runs all of them (`parity_run.py`), so a test reads what it wrote.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepa.objectives import vjepa2_1
from jepa.update import slices

SCRIPT = Path(__file__).with_name("parity_run.py")
spec = importlib.util.spec_from_file_location("parity_run", SCRIPT)
parity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parity)
CLOSE = 1e-5


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """results(kind, name): (figures, tensors) of the first process."""
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("parity")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    environment = {**kept, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(SCRIPT), str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            said, _ = run.communicate(timeout=500)
        finally:
            run.terminate()  # and with it both processes
    assert run.returncode == 0, said[-5000:]

    def read(kind, name, rank=0):
        stem = folder / f"{kind}_{name}_{rank}"
        return json.loads(stem.with_suffix(".json").read_text()), load_file(stem.with_suffix(".safetensors"))

    return read


@pytest.fixture(scope="session")
def alone():
    """alone(name): (losses, norms, state dict) of one process, written out in torch."""

    def run(steps, accumulate, left_out):
        objective = parity.objective()
        trained = [p for p in objective.parameters() if p.requires_grad]
        adamw, losses, norms = parity.adamw(objective), [], []
        for step in range(1, steps + 1):
            parity.set_schedule(adamw, parity.OPTIM, step, parity.STEPS)
            parts = [objective(part)[0] / accumulate for part in slices(parity.batch(step), accumulate)]
            sum(parts).backward()
            losses.append(sum(parts).item())
            norms.append(torch.nn.utils.clip_grad_norm_(trained, parity.CLIP).item())
            if step != left_out:
                adamw.step()
                objective.after_step(step, parity.STEPS)
            adamw.zero_grad()
        return losses, norms, objective.state_dict()

    runs = {"straight": run(parity.STEPS, 1, 0), "eventful": run(parity.END, 2, parity.NAN_STEP)}
    return runs.__getitem__


def flat(state, part):
    chosen = [name for name in sorted(state) if name.startswith(part) and not name.endswith("_extra_state")]
    return torch.cat([state[name].flatten() for name in chosen])


def assert_same(kind, name, results, alone):
    """Loss sequence, norms before clipping, trained and EMA weights are those of one process."""
    (figures, tensors), (losses, norms, state) = results(kind, name), alone(name)
    finite = [i for i, record in enumerate(figures["records"]) if "nonfinite" not in record]
    for key, wanted in (("loss", losses), ("grad_norm", norms)):
        got = [figures["records"][i][key] for i in finite]
        assert got == pytest.approx([wanted[i] for i in finite], rel=CLOSE), key
    model = {key.removeprefix("model/"): value for key, value in tensors.items() if key.startswith("model/")}
    assert model.keys() == state.keys()
    for part in ("target_encoder", "encoder", "predictor"):
        difference = flat(model, part) - flat(state, part)
        assert difference.norm() < CLOSE * flat(state, part).norm(), part


def check_straight(kind, results, alone):
    assert_same(kind, "straight", results, alone)
    figures, tensors = results(kind, "straight")
    other, _ = results(kind, "straight", 1)
    assert figures["records"] == other["records"]  # means over processes
    assert figures["counts"] == [1, 1]  # the pieces make up everything, and none is there twice
    shifted = (tensors["features/after"] - tensors["features/before"]).abs().max()
    objective = parity.objective()
    with torch.no_grad():
        wanted = [objective.target_encoder(parity.normalize(parity.batch(0).frames))]
        objective.load_state_dict(alone("straight")[2])
        wanted.append(objective.target_encoder(parity.normalize(parity.batch(0).frames)))
    torch.testing.assert_close(tensors["features/before"], wanted[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tensors["features/after"], wanted[1], rtol=1e-4, atol=1e-4)
    assert shifted > 0.01


def check_eventful(kind, results, alone):
    assert_same(kind, "eventful", results, alone)
    for rank in (0, 1):
        figures, _ = results(kind, "eventful", rank)
        skipped = [i for i, record in enumerate(figures["records"], start=1) if "nonfinite" in record]
        assert skipped == [parity.NAN_STEP]
        assert figures["untouched"] and figures["untouched_finite"] and figures["kept"]


def test_ddp_gives_the_losses_and_weights_of_one_process(results, alone):
    check_straight("ddp", results, alone)


def test_ddp_accumulates_skips_on_all_processes_and_hands_over_to_another_engine(results, alone):
    check_eventful("ddp", results, alone)


def test_zero1_gives_the_losses_and_weights_of_one_process(results, alone):
    check_straight("zero1", results, alone)


def test_zero1_accumulates_skips_on_all_processes_and_hands_over_to_another_engine(results, alone):
    check_eventful("zero1", results, alone)


def test_zero2_gives_the_losses_and_weights_of_one_process(results, alone):
    check_straight("zero2", results, alone)


def test_zero2_accumulates_skips_on_all_processes_and_hands_over_to_another_engine(results, alone):
    check_eventful("zero2", results, alone)


def test_zero3_gives_the_losses_and_weights_of_one_process(results, alone):
    check_straight("zero3", results, alone)


def test_zero3_accumulates_skips_on_all_processes_and_hands_over_to_another_engine(results, alone):
    check_eventful("zero3", results, alone)


def test_zero3_default_gives_the_losses_and_weights_of_one_process(results, alone):
    check_straight("zero3_default", results, alone)


def test_zero3_default_accumulates_skips_on_all_processes_and_hands_over_to_another_engine(results, alone):
    check_eventful("zero3_default", results, alone)


@pytest.mark.parametrize("kind", parity.KINDS)
def test_parameters_that_a_step_leaves_out_get_nothing_of_the_step_before(kind, results):
    """Named by no engine: DDP must look for them, and ZeRO-3 keeps their last gradient."""
    objective = parity.objective(vjepa2_1)
    trained = [p for p in objective.parameters() if p.requires_grad]
    adamw = parity.adamw(objective)
    for record, clip in zip(
        results(kind, "partial")[0]["records"], (parity.batch(1), parity.image(parity.batch(2))), strict=True
    ):
        loss, _ = objective(clip)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, parity.CLIP).item()
        assert record["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert record["grad_norm"] == pytest.approx(norm, rel=1e-3)  # weight decay is not the same
        adamw.step()
        adamw.zero_grad()
