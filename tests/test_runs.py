"""A run, and a checkpoint of a run that is named, open to the encoder that they hold."""

import pytest
import torch
from torch import nn

from jepa import checkpoint
from jepa.checkpoint_writer import Writer
from jepa.config import to_dict
from jepa.models.encoder import build_encoder
from jepa.pieces import whole
from jepa.runs import encoder_config, load_encoder, load_world, reading, run_and_step


@pytest.fixture
def run(tiny, tmp_path):
    """A run with the checkpoints of steps 1 and 2, of encoders at random init of these seeds."""
    checkpoint.claim_run(tmp_path / "run", {"encoder": to_dict(tiny)})
    for step in (1, 2):
        model = nn.ModuleDict({"target_encoder": build_encoder(tiny, step)})
        with Writer(tmp_path / "run") as writer:
            writer.save(step, {f"model/{k}": whole(v) for k, v in model.state_dict().items()}, {})
    return tmp_path / "run"


def test_a_named_checkpoint_is_opened_and_not_the_newest(run, tiny):
    weight = {step: build_encoder(tiny, step).patch_embed.proj.weight for step in (1, 2)}
    first = run / "checkpoints" / "step_00000001"
    assert torch.equal(load_encoder(first).patch_embed.proj.weight, weight[1])
    assert torch.equal(load_encoder(run).patch_embed.proj.weight, weight[2])
    assert encoder_config(first) == encoder_config(run) == tiny
    assert run_and_step(first) == (run, 1) and run_and_step(run) == (run, None)


@pytest.mark.parametrize("text", ["", "{", "[1]", "7"])
def test_a_damaged_config_is_one_line_that_names_the_run(run, text):
    (run / "config.json").write_text(text)
    for opened in (encoder_config, load_encoder, load_world, reading):
        with pytest.raises(checkpoint.CheckpointError, match=f"{run} is no run"):
            opened(run)


def test_a_checkpoint_that_is_not_there_is_one_line_that_names_those_that_are(run):
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint of step 3 in .*there are: 1, 2"):
        load_encoder(run / "checkpoints" / "step_00000003")
