"""A run of ours as a model: encoder and predictor of pre-training, or encoder and action-conditioned predictor."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from jepa.checkpoint import CheckpointError, read_model
from jepa.config import from_dict
from jepa.interop.model import ModelConfig
from jepa.interop.shapes import MASK_INDEX
from jepa.interop.tensors import read_json
from jepa.models.encoder import Encoder, EncoderConfig
from jepa.models.levels import level_blocks
from jepa.models.predictor import PredictorConfig

Tensors = dict[str, Tensor]

_ONLINE = {"encoder.": "encoder.", "levels.": "levels.", "predictor.": "predictor."}
_TARGET = {"target_encoder.": "encoder.", "target_levels.": "levels.", "predictor.": "predictor."}
DROP_PATH_COUNTER = (
    "drop_path._extra_state"  # how often drop path was drawn: for the resume of a run, no part of a model
)


def from_run(run: Path, which: str) -> tuple[ModelConfig, Tensors]:
    """Config and tensors of the newest valid checkpoint of a pre-training or post-training run.

    Where an objective has no target encoder, its only one is `target` too.

    Raises:
        CheckpointError: no valid checkpoint, or an encoder that the run does not have.
    """
    if "world" in read_json(run / "config.json"):
        return _posttrained(run)
    values, stored, folder = read_model(run)
    targeted = any(key.startswith("target_encoder.") for key in stored)
    if which == "ema_encoder" or (which == "target_encoder" and not targeted):
        raise CheckpointError(f"{run} has no {which}; choose which=target or which=encoder")
    online = which == "encoder" or not targeted
    tensors = {
        ours + key.removeprefix(theirs): value
        for key, value in stored.items()
        for theirs, ours in (_ONLINE if online else _TARGET).items()
        if key.startswith(theirs) and not key.endswith(DROP_PATH_COUNTER)
    }
    # How a run was trained is none of a model's business: what is loaded drops nothing and checkpoints nothing.
    encoder = replace(from_dict(EncoderConfig, values["encoder"], str(run)), drop_path=0.0, checkpointing="none")
    config = ModelConfig(
        encoder.width,
        which="encoder" if online else "target_encoder",
        origin=str(folder),
        frames=int(values["data"]["frames"]),
        encoder=encoder,
    )
    if any(key.startswith("levels.") for key in tensors):
        config = replace(config, levels=tuple(values["objective"]["levels"] or level_blocks(encoder.depth)))
    if count := sum(key.startswith("predictor.mask_tokens.") for key in tensors):
        predictor = replace(from_dict(PredictorConfig, values["predictor"], str(run)), checkpointing="none")
        lengths = list(values["objective"].get("lengths") or [])  # each has a mask token of its own
        index = lengths.index(config.frames) if config.frames in lengths else MASK_INDEX % count
        config = replace(config, predictor=predictor, mask_tokens=count, mask_index=index)
    return config, tensors


def _posttrained(run: Path) -> tuple[ModelConfig, Tensors]:
    from jepa.runs import load_world  # brings the training loop along
    from jepa.worlds.ac_jepa import ACJepa

    encoder, world = load_world(run)
    if not isinstance(encoder, Encoder):
        what = getattr(encoder.config, "name", "raw pixels")
        raise CheckpointError(f"{run} is a world model on {what}, which no layout here can hold")
    shape = replace(encoder.config, drop_path=0.0, checkpointing="none")
    tensors = {f"encoder.{k}": v for k, v in encoder.state_dict().items() if not k.endswith(DROP_PATH_COUNTER)}
    config = ModelConfig(shape.width, origin=str(run), frames=shape.tubelet, encoder=shape)
    if not isinstance(world, ACJepa):
        return config, tensors
    predictor = world.predictor
    config = replace(
        config,
        ac_predictor=replace(world.config.predictor, checkpointing="none"),
        action_dim=predictor.action_encoder.in_features,
        state_dim=predictor.state_encoder.in_features if predictor.state_encoder else 0,
        ac_standardised=True,
    )
    return config, tensors | {f"ac_predictor.{k}": v for k, v in predictor.state_dict().items()}
