"""Meta's checkpoints of V-JEPA 2 and 2.1 <-> our names: prefixes, choice of encoder, what is stale or never read."""

from typing import Any

import torch
from torch import Tensor

from jepa.checkpoint import CheckpointError
from jepa.interop.model import MismatchError, ModelConfig, Problem
from jepa.interop.shapes import Heads, read_config
from jepa.interop.tensors import tensors_of
from jepa.models.ac_predictor import ACPredictorConfig

Tensors = dict[str, Tensor]
ENCODERS = ("target_encoder", "ema_encoder", "encoder")

# What a training checkpoint holds beside weights, none of which is part of a model.
_TRAINING = {"opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr"}
_STALE = {"pos_embed", "predictor_pos_embed"}  # tables that models with rotary positions never read
_NEVER_READ = {"extrinsics_encoder.weight": 6, "extrinsics_encoder.bias": 0}  # no released model is given extrinsics

# V-JEPA 2.1, theirs -> ours; the norm of the last level is the encoder's own.
_DENSE = {"patch_embed_img.proj.": "levels.image_patch_embed.proj.", "norms_block.": "levels.norms."}
_MODALITY = {
    "video_mod_embed": "encoder.patch_embed.proj.bias",
    "img_mod_embed": "levels.image_patch_embed.proj.bias",
}
_PREDICTOR_MODALITY = {"video_mod_embed": "video_embed", "img_mod_embed": "image_embed"}


def from_meta(file: dict[str, Any], which: str, heads: Heads, where: str) -> tuple[ModelConfig, Tensors]:
    """Config and tensors by our names of a checkpoint as Meta's code writes it.

    `which` of its encoders: `target` (target_encoder or ema_encoder, whichever there is) or one of ENCODERS. A file
    that is the state dict of one encoder has no choice.

    Raises:
        CheckpointError: an encoder that is not there, something else than tensors, more than one classifier.
        MismatchError: an entry that belongs to no part of a model.
    """
    if any(_bare(key) == "patch_embed.proj.weight" for key in file):
        file = {"encoder": file}
        which = "encoder"
    if unknown := sorted(str(key) for key in file.keys() - {*ENCODERS, *_TRAINING, "predictor", "classifiers"}):
        raise MismatchError(where, [Problem(key, "unexpected") for key in unknown])
    chosen = _choose(file, which, where)
    tensors: Tensors = {}
    if chosen:
        tensors |= _encoder(_section(file[chosen], f"{where}: {chosen}"), where)
    if "predictor" in file:
        found = _section(file["predictor"], f"{where}: predictor")
        part = "ac_predictor" if "action_encoder.weight" in found else "predictor"
        own = {_PREDICTOR_MODALITY.get(k, k): v for k, v in found.items() if k not in _NEVER_READ}
        tensors |= {f"{part}.{key}": value for key, value in own.items()}
    if "classifiers" in file:
        probes = file["classifiers"]
        if not isinstance(probes, list):
            raise CheckpointError(f"{where}: classifiers is a {type(probes).__name__}, not a list of state dicts")
        if len(probes) != 1:
            raise CheckpointError(f"{where} holds {len(probes)} classifiers, a sweep's; keep one of them in the file")
        found = _section(probes[0], f"{where}: classifiers")
        tensors |= {f"classifier.{key}": value for key, value in found.items()}
    return read_config(tensors, heads, chosen, where), tensors


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
            encoder = _dense_encoder(encoder, parts["levels"], len(config.levels))
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


def _section(values: Any, where: str) -> Tensors:
    """The tensors of one part, without prefixes and stale tables."""
    named = {_bare(key): value for key, value in tensors_of(values, where).items()}
    if len(named) < len(values):
        raise CheckpointError(f"{where} has two tensors of one name, with and without the prefix module. or backbone.")
    return {key: value for key, value in named.items() if key not in _STALE}


def _bare(key: Any) -> str:
    return str(key).removeprefix("module.").removeprefix("backbone.")


def _encoder(found: Tensors, where: str) -> Tensors:
    """Our names. The vector of a modality is added to every token where the bias of its patch embedding is: one sum."""
    out: Tensors = {}
    numbers = {int(key.split(".")[1]) for key in found if key.startswith("norms_block.")}
    last = max(numbers, default=-1)
    if missing := sorted(set(range(last)) - numbers) + ([3] if last in (1, 2) else []):
        raise MismatchError(where, [Problem(f"norms_block.{number}", "missing") for number in missing])
    if numbers and any(key.startswith("norm.") for key in found):
        raise MismatchError(where, [Problem("norm", "unexpected: norms_block has the last norm")])
    for key, value in found.items():
        if key in _MODALITY:
            continue
        name = next((ours + key.removeprefix(theirs) for theirs, ours in _DENSE.items() if key.startswith(theirs)), "")
        out[name.replace(f"levels.norms.{last}.", "encoder.norm.") or f"encoder.{key}"] = value
    for key, bias in _MODALITY.items():
        if key in found:
            if bias not in out or found[key].numel() != out[bias].numel():
                raise MismatchError(where, [Problem(key, "unexpected: the patch embedding it belongs to is missing")])
            out[bias] = out[bias] + found[key].flatten()
    return out


def _dense_encoder(encoder: Tensors, levels: Tensors, count: int) -> Tensors:
    out = {k.replace("norm.", f"norms_block.{count - 1}.", k.startswith("norm.")): v for k, v in encoder.items()}
    for key, value in levels.items():
        theirs = next(t for t, ours in _DENSE.items() if f"levels.{key}".startswith(ours))
        out[theirs + f"levels.{key}".removeprefix(_DENSE[theirs])] = value
    width = len(encoder["norm.weight"])
    return out | {key: torch.zeros(1, 1, width) for key in _MODALITY}


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
        raise CheckpointError("Meta's action-conditioned predictor turns tiled, and is neither markov nor residual")
    if config.predictor and ac:
        raise CheckpointError("a file of Meta's has room for one predictor, and this model has two")
