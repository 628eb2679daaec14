"""The encoder of V-JEPA 2.1 by Meta's names <-> by ours: a norm for each level, and patch embeddings by modality."""

import torch
from torch import Tensor

from jepa.interop.fit import MismatchError, Problem

Tensors = dict[str, Tensor]

# Theirs -> ours; the norm of the last level is the encoder's own.
_NAMES = {"patch_embed_img.proj.": "levels.image_patch_embed.proj.", "norms_block.": "levels.norms."}
_MODALITY = {
    "video_mod_embed": "encoder.patch_embed.proj.bias",
    "img_mod_embed": "levels.image_patch_embed.proj.bias",
}


def from_dense(found: Tensors, where: str) -> Tensors:
    """An encoder of V-JEPA 2 or 2.1, our names.

    The vector of a modality is added to every token where the bias of its patch embedding is: they become one sum.

    Raises:
        MismatchError: a level's norm, a modality's vector or the patch embedding of images is missing.
    """
    out: Tensors = {}
    numbers = {int(key.split(".")[1]) for key in found if key.startswith("norms_block.")}
    last = max(numbers, default=-1)
    if missing := sorted(set(range(last)) - numbers) + ([3] if last in (1, 2) else []):
        raise MismatchError(where, [Problem(f"norms_block.{number}", "missing") for number in missing])
    if numbers and any(key.startswith("norm.") for key in found):
        raise MismatchError(where, [Problem("norm", "unexpected: norms_block has the last norm")])
    dense = {*_MODALITY, *(f"patch_embed_img.proj.{kind}" for kind in ("weight", "bias"))}
    if not dense.isdisjoint(found) and (missing_keys := sorted(dense - found.keys())):
        raise MismatchError(where, [Problem(f"encoder.{key}", "missing") for key in missing_keys])
    for key, value in found.items():
        if key in _MODALITY:
            continue
        name = next((ours + key.removeprefix(theirs) for theirs, ours in _NAMES.items() if key.startswith(theirs)), "")
        out[name.replace(f"levels.norms.{last}.", "encoder.norm.") or f"encoder.{key}"] = value
    for key, bias in _MODALITY.items():
        if key in found:
            if bias not in out or found[key].numel() != out[bias].numel():
                raise MismatchError(where, [Problem(f"encoder.{key}", "not as wide as its patch embedding")])
            out[bias] = out[bias] + found[key].flatten()
    return out


def to_dense(encoder: Tensors, levels: Tensors, count: int) -> Tensors:
    """Meta's names of an encoder with `count` levels; the vectors of modalities, which biases hold, are zeros."""
    out = {k.replace("norm.", f"norms_block.{count - 1}.", k.startswith("norm.")): v for k, v in encoder.items()}
    for key, value in levels.items():
        theirs = next(t for t, ours in _NAMES.items() if f"levels.{key}".startswith(ours))
        out[theirs + f"levels.{key}".removeprefix(_NAMES[theirs])] = value
    width = len(encoder["norm.weight"])
    return out | {key: torch.zeros(1, 1, width) for key in _MODALITY}
