"""Meta's checkpoints of V-JEPA 2 and 2.1 <-> our names: prefixes, choice of encoder, what is stale or never read."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.interop.dense import from_dense, to_dense
from jepa.interop.fit import MismatchError, Problem, shape_of
from jepa.interop.model import ModelConfig
from jepa.interop.shapes import Choice, read_config
from jepa.interop.tensors import tensors_of
from jepa.models.ac_predictor import ACPredictorConfig

Tensors = dict[str, Tensor]
ENCODERS = ("target_encoder", "ema_encoder", "encoder")

# What a training checkpoint holds beside weights, none of which is part of a model.
_TRAINING = {"opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr"}
_TABLES = ("pos_embed", "predictor_pos_embed")  # positions, which models with rotary ones never read
_VJEPA1_TOKENS = (1568, 4608)  # of a clip of V-JEPA 1: 16 frames at 224 and 384 px, which no clip of V-JEPA 2 has
_VJEPA1_MASK_TOKENS = 2
_MASK_TOKENS = (2, 6, 8, 10)  # of one data set, of three, of V-JEPA 2.1, of the released files
_NEVER_READ = {"extrinsics_encoder.weight": 6, "extrinsics_encoder.bias": 0}  # no released model is given extrinsics

_PREDICTOR_MODALITY = {"video_mod_embed": "video_embed", "img_mod_embed": "image_embed"}


def from_meta(file: dict[str, Any], choice: Choice, where: str) -> tuple[ModelConfig, Tensors]:
    """Config and tensors by our names of a checkpoint as Meta's code writes it.

    The choice is of `target` (target_encoder or ema_encoder, whichever there is) or one of ENCODERS. A file that is
    the state dict of one encoder leaves none, and does not say which it is.

    Raises:
        CheckpointError: an encoder that is not there, positions that are no rotary ones, something else than tensors,
            more than one classifier.
        MismatchError: an entry that belongs to no part of a model.
        ConfigError: a choice where there is none; or as `read_config`.
    """
    bare = any(_bare(key) == "patch_embed.proj.weight" for key in file)
    if bare and choice.which != "target":
        raise ConfigError(f"{where} holds one encoder, and does not say which: leave which=… (--which) out")
    file = {"target_encoder": file} if bare else file
    if unknown := sorted(str(key) for key in file.keys() - {*ENCODERS, *_TRAINING, "predictor", "classifiers"}):
        raise MismatchError(where, [Problem(key, "unexpected") for key in unknown])
    chosen = _choose(file, choice.which, where) if "encoder" in choice.parts else ""
    tensors: Tensors = {}
    encoder = _section(file[chosen], f"{where}: {chosen}") if chosen else {}
    predictor = _section(file["predictor"], f"{where}: predictor") if "predictor" in file else {}
    part = "ac_predictor" if "action_encoder.weight" in predictor else "predictor"
    remarks = _without_tables(encoder, predictor, where)
    tensors |= from_dense(encoder, where)
    if part in choice.parts:
        remarks += _without_extrinsics(predictor, where) if part == "ac_predictor" else _mask_tokens(predictor)
        tensors |= {f"{part}.{_PREDICTOR_MODALITY.get(key, key)}": value for key, value in predictor.items()}
    if "classifiers" in file and "classifier" in choice.parts:
        found = _section(_only_one(file["classifiers"], where), f"{where}: classifiers")
        tensors |= {f"classifier.{key}": value for key, value in found.items()}
    config = read_config(tensors, choice, "" if bare else chosen, where)
    return replace(config, remarks=tuple(remarks)), tensors


def to_meta(config: ModelConfig, tensors: Tensors) -> dict[str, Any]:
    """What `torch.save` shall write: every prefix as Meta's code does; one encoder stands for both that it looks for.

    Raises:
        CheckpointError: a part that Meta's code would compute differently, or has no place for.
    """
    _check_representable(config)
    parts: dict[str, Tensors] = {"encoder": {}, "predictor": {}, "ac_predictor": {}, "classifier": {}, "levels": {}}
    for key, value in tensors.items():
        part, name = key.split(".", 1)
        parts[part][name] = value
    out: dict[str, Any] = {}
    if encoder := parts["encoder"]:
        if config.levels:
            encoder = to_dense(encoder, parts["levels"], len(config.levels))
        out["encoder"] = out["target_encoder"] = {f"module.backbone.{k}": v for k, v in encoder.items()}
    if predictor := parts["predictor"]:
        theirs = {ours: name for name, ours in _PREDICTOR_MODALITY.items()}
        out["predictor"] = {f"module.backbone.{theirs.get(k, k)}": v for k, v in predictor.items()}
    if ac := parts["ac_predictor"]:
        rows = len(ac["action_encoder.bias"])
        unread = {k: ac["action_encoder.bias"].new_zeros((rows, n) if n else rows) for k, n in _NEVER_READ.items()}
        out["predictor"] = {f"module.{k}": v for k, v in (ac | unread).items()}
    if parts["classifier"]:
        out["classifiers"] = [{f"module.{k}": v for k, v in parts["classifier"].items()}]
    return out | {"epoch": 0}


def _choose(file: dict[str, Any], which: str, where: str) -> str:
    """The key of the encoder to take; empty where a file has none, being a probe's."""
    there = [key for key in ENCODERS if key in file]
    if not there:
        return ""
    wanted = ENCODERS[:2] if which == "target" else (which,)
    if not (found := [key for key in wanted if key in there]):
        raise CheckpointError(f"{where} has no {' or '.join(wanted)}; it has {', '.join(there)}: choose with which=…")
    return found[0]


def _only_one(probes: Any, where: str) -> Any:
    if not isinstance(probes, list):
        raise CheckpointError(f"{where}: classifiers is a {type(probes).__name__}, not a list of state dicts")
    if len(probes) != 1:
        raise CheckpointError(f"{where} holds {len(probes)} classifiers, a sweep's; keep one of them in the file")
    return probes[0]


def _section(values: Any, where: str) -> Tensors:
    """The tensors of one part, without prefixes."""
    named = {_bare(key): value for key, value in tensors_of(values, where).items()}
    if len(named) < len(values):
        raise CheckpointError(f"{where} has two tensors of one name, with and without the prefix module. or backbone.")
    return named


def _bare(key: Any) -> str:
    return str(key).removeprefix("module.").removeprefix("backbone.")


def _without_tables(encoder: Tensors, predictor: Tensors, where: str) -> list[str]:
    """Take tables of positions out, which some files still have; what to say of it.

    Raises:
        CheckpointError: the table is in use: rotary positions would give features, and wrong ones.
    """
    masks = sum(key.startswith("mask_tokens.") for key in predictor)
    remarks = []
    for tensors, key in ((encoder, _TABLES[0]), (predictor, _TABLES[1])):
        if key not in tensors:
            continue
        shape = shape_of(table := tensors.pop(key))
        if masks == _VJEPA1_MASK_TOKENS or any(length in table.shape for length in _VJEPA1_TOKENS):
            raise CheckpointError(
                f"{where} takes its positions from a table ({key}, {shape}), as V-JEPA 1 does; models here have rotary "
                "ones and would give other features: take a checkpoint of V-JEPA 2"
            )
        remarks.append(f"left out: {key} ({shape}), a table of positions, which models with rotary ones do not read")
    return remarks


def _without_extrinsics(predictor: Tensors, where: str) -> list[str]:
    """Take the extrinsics encoder out; what to say of it. Raises MismatchError where it is not whole."""
    found = {key: predictor.pop(key) for key in _NEVER_READ if key in predictor}
    if not found:
        return []
    rows = len(predictor["action_encoder.weight"])
    for key, columns in _NEVER_READ.items():
        wanted = (rows, columns) if columns else (rows,)
        if key not in found:
            raise MismatchError(where, [Problem(f"ac_predictor.{key}", "missing")])
        if found[key].shape != wanted:
            shapes = shape_of(found[key]), "×".join(map(str, wanted))
            raise MismatchError(where, [Problem(f"ac_predictor.{key}", "of another shape", *shapes)])
    return ["left out: ac_predictor.extrinsics_encoder, which no released model is given"]


def _mask_tokens(predictor: Tensors) -> list[str]:
    """What to say of a number of mask tokens that no file should have: the last ones may have been lost."""
    count = sum(key.startswith("mask_tokens.") for key in predictor)
    if not predictor or count in _MASK_TOKENS:
        return []
    usual = f"{', '.join(map(str, _MASK_TOKENS[:-1]))} or {_MASK_TOKENS[-1]}"
    return [f"predictor: {count} mask tokens, where files of Meta's have {usual}: some may be missing"]


def _check_representable(config: ModelConfig) -> None:
    e, ac = config.encoder, config.ac_predictor
    layout = ("interleaved", True) if config.levels else ("tiled", False)
    if e and (e.rope_layout, e.rope_interpolate) != layout:
        raise CheckpointError(
            f"Meta's code turns this encoder with rope_layout={layout[0]} rope_interpolate={layout[1]}, and it was "
            f"trained with {e.rope_layout} and {e.rope_interpolate}: its features would be others"
        )
    plain = ACPredictorConfig(ac.width, ac.depth, ac.heads, ac.mlp_ratio, "tiled") if ac else None
    if ac != plain:
        raise CheckpointError(
            "Meta's action-conditioned predictor turns tiled, sees all frames, reads states and no camera, is told of "
            "them by tokens, and is not residual"
        )
    if config.predictor and ac:
        raise CheckpointError("a file of Meta's has room for one predictor, and this model has two")
