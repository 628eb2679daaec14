"""`jepa export` gives one plain file, whichever engine wrote the checkpoint, or one line that says why not."""

import json
import threading

import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from jepa.checkpoint import CheckpointError, claim_run
from jepa.checkpoint_writer import Writer
from jepa.cli_run import export
from jepa.config import from_dict, to_dict
from jepa.export import export as write
from jepa.models.encoder import EncoderConfig, build_encoder
from jepa.pieces import Piece, whole


@pytest.fixture
def run(tiny, tmp_path):
    """Checkpoints of steps 1 (in bf16, which no engine of ours gives) and 2; and the model of step 2."""
    model = nn.Module()
    model.encoder, model.target_encoder, model.predictor = (
        build_encoder(tiny, 0),
        build_encoder(tiny, 7),
        nn.Linear(2, 2),
    )
    claim_run(tmp_path / "run", {"encoder": to_dict(tiny)})
    with Writer(tmp_path / "run") as writer:
        for step, dtype in ((1, torch.bfloat16), (2, torch.float32)):
            weights = {f"model/{k}": whole(v.to(dtype)) for k, v in model.state_dict().items()}
            writer.save(step, weights, {})
    return tmp_path / "run", model


def test_an_exported_encoder_needs_only_its_file(run, tmp_path):
    folder, model = run
    out = tmp_path / "new" / "target.safetensors"
    write(folder, out, "target_encoder")
    with safe_open(out, "pt") as file:
        about = file.metadata()
    assert (about["part"], about["step"]) == ("target_encoder", "2")
    encoder = build_encoder(from_dict(EncoderConfig, json.loads(about["config"])["encoder"], "here"), seed=3)
    encoder.load_state_dict(load_file(out))
    frames = torch.rand(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder(frames), model.target_encoder(frames))
    assert not torch.equal(encoder(frames), model.encoder(frames))


def test_all_of_a_chosen_step_is_fp32(run, tmp_path):
    folder, model = run
    write(folder, tmp_path / "all.safetensors", step=1)
    tensors = load_file(tmp_path / "all.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {torch.float32}


def test_a_checkpoint_by_two_processes_gives_whole_tensors(tmp_path):
    claim_run(tmp_path, {})
    barrier, weight = threading.Barrier(2), torch.arange(6.0).reshape(2, 3)

    def one(rank):
        with Writer(tmp_path, rank, 2, "zero3", barrier.wait) as writer:
            writer.save(1, {"model/w": Piece(weight.reshape(-1)[3 * rank : 3 * rank + 3], (2, 3), 3 * rank)}, {})

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    write(tmp_path, tmp_path / "all.safetensors")
    assert torch.equal(load_file(tmp_path / "all.safetensors")["w"], weight)


def test_the_verb_and_its_refusals(run, tmp_path):
    folder, _ = run
    app = typer.Typer()
    app.command()(export)
    out = str(tmp_path / "e.safetensors")
    assert CliRunner().invoke(app, [str(folder), out, "--part", "encoder", "--step", "2"]).exit_code == 0
    assert "norm.weight" in load_file(out)
    world = tmp_path / "world"
    claim_run(world, {})
    with Writer(world) as writer:
        writer.save(5, {"model/head.weight": whole(torch.ones(2))}, {})
    for given, message in (
        ([str(tmp_path / "nowhere"), out], "no run at"),
        ([str(folder), out, "--step", "9"], "no checkpoint of step 9 in .*; there are: 1, 2"),
        ([str(folder), out, "--part", "half"], "--part half: must be one of encoder, target_encoder, all"),
        ([str(world), out, "--part", "encoder"], "has no encoder, only head; use --part all"),
    ):
        error = CliRunner().invoke(app, given).exception
        assert isinstance(error, CheckpointError) and "\n" not in str(error)
        with pytest.raises(CheckpointError, match=message):
            raise error
