"""Checkpoints appear whole or not at all, load strictly, and never run code."""

import json
import pickle

import pytest
import torch
from torch import nn

from jepa import checkpoint
from jepa.checkpoint import CheckpointError, claim_data, claim_run, latest, load_weights, read_model, restore, save


def trained(seed=0, steps=3):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for _ in range(steps):
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_round_trip_continues_bit_equal(tmp_path):
    model, optimizer = trained()
    folder = save(tmp_path, 3, model, optimizer)
    again, again_optimizer = trained(seed=1, steps=0)
    assert restore(folder, again, again_optimizer) == 3
    x = torch.randn(16, 4)
    for m, o in ((model, optimizer), (again, again_optimizer)):
        m(x).square().mean().backward()
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("stage", ["save_file", "_sha256", "_sync"])
def test_a_crash_while_saving_leaves_the_previous_checkpoint(tmp_path, monkeypatch, stage):
    model, optimizer = trained()
    first = save(tmp_path, 1, model, optimizer)

    def crash(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, stage, crash)
        with pytest.raises(OSError, match="no space"):
            save(tmp_path, 2, model, optimizer)
    assert latest(tmp_path) == (first, [])
    assert save(tmp_path, 2, model, optimizer) == latest(tmp_path)[0]


def test_only_the_newest_are_kept(tmp_path):
    model, optimizer = trained()
    for step in range(1, 6):
        save(tmp_path, step, model, optimizer, keep=2)
    assert [f.name for f in sorted((tmp_path / "checkpoints").iterdir())] == ["step_00000004", "step_00000005"]


def test_every_flipped_bit_is_found(tmp_path):
    model, optimizer = trained()
    older, newer = save(tmp_path, 1, model, optimizer), save(tmp_path, 2, model, optimizer)
    for file in ("model.safetensors", "optimizer.safetensors"):
        whole = (newer / file).read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 25)):
            damaged = bytearray(whole)
            damaged[place] ^= 4
            (newer / file).write_bytes(damaged)
            found, problems = latest(tmp_path)
            assert found == older and file in problems[0]
        (newer / file).write_bytes(whole)
    assert latest(tmp_path) == (newer, [])


def test_loading_is_all_or_nothing():
    model, _ = trained()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    good = {k: v + 1 for k, v in before.items()}
    for tensors, message in (
        ({k: v for k, v in good.items() if k != "0.bias"}, "0.bias is missing"),
        ({**good, "extra": torch.zeros(1)}, "extra is unexpected"),
        ({**good, "2.weight": torch.zeros(3, 8)}, r"2.weight is \(3, 8\), the model wants \(2, 8\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_weights(model, tensors, "here")
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_nothing_is_unpickled(tmp_path):
    class Gadget:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w').close()",))

    model, optimizer = trained()
    folder = save(tmp_path, 1, model, optimizer)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Gadget()))
    state = json.loads((folder / "state.json").read_text())
    state["sha256"]["model.safetensors"] = checkpoint._sha256(folder / "model.safetensors")
    (folder / "state.json").write_text(json.dumps(state))
    claim_run(tmp_path, {})
    with pytest.raises(CheckpointError, match="cannot read"):
        read_model(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_missing_runs_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no run at"):
        read_model(tmp_path / "nowhere")
    claim_run(tmp_path, {"a": 1})
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        read_model(tmp_path)


def test_a_run_is_of_one_config_once_it_has_a_checkpoint(tmp_path):
    claim_run(tmp_path, {"a": 1})
    claim_run(tmp_path, {"a": 2})  # nothing was trained: a mistake may be put right
    save(tmp_path, 1, *trained())
    with pytest.raises(CheckpointError, match="a: 2 there, 1 here"):
        claim_run(tmp_path, {"a": 1})


def test_a_run_notices_that_its_data_have_changed(tmp_path):
    for _ in range(2):
        claim_data(tmp_path, {"shards/a": "1", "shards/b": "2"})
        save(tmp_path, 1, *trained())
    with pytest.raises(CheckpointError, match="shards/b: 2 there, 3 here"):
        claim_data(tmp_path, {"shards/a": "1", "shards/b": "3"})
