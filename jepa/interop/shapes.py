"""Reads the shape of a model from its tensors, by our names; only heads are not in there, and come from known sizes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from torch import Tensor

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.interop.model import ClassifierConfig, ModelConfig
from jepa.models.ac_predictor import ACPredictorConfig
from jepa.models.encoder import EncoderConfig
from jepa.models.levels import level_blocks
from jepa.models.pooler import ANTICIPATION_HEADS
from jepa.models.predictor import PredictorConfig
from jepa.models.sizes import SIZES

Tensors = dict[str, Tensor]
PARTS = ("encoder", "predictor", "ac_predictor", "classifier")

MASK_INDEX = 1  # the mask token that inference uses, in the reference and in transformers alike, modulo their number

# Of two sizes with the same width and depth the released one comes last in SIZES.
_KNOWN = {
    "encoder": {(size.width, size.depth): size.heads for size in SIZES.values()},
    "predictor": {(384, 12): 12, (384, 24): 12},
    "ac_predictor": {(1024, 24): 16},
}
_PROBE_HEADS, _PROBE_DEPTH = 16, 4  # of every probe of the reference, whatever its width


@dataclass(frozen=True)
class Choice:
    """What the caller says of a source, because the source does not: see `jepa.load`.

    `heads` and `blocks` are numbers by part. Parts that are not in `parts` are left where they are, and need not fit.
    """

    which: str = "target"
    heads: Mapping[str, int] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[str, ...] = PARTS


def parse_counts(text: str, what: str) -> dict[str, int]:
    """`16`, the encoder's, or `encoder=16,predictor=12` -> `what` (heads or blocks) by part. Raises ConfigError."""
    pairs = [item.split("=") if "=" in item else ["encoder", item] for item in text.split(",") if item]
    if any(len(p) != 2 or p[0] not in PARTS or not p[1].isdecimal() or p[1] == "0" for p in pairs):
        raise ConfigError(f"{what} '{text}': give a number, or PART=NUMBER,… with PART one of {', '.join(PARTS)}")
    return {part: int(count) for part, count in pairs}


def read_config(tensors: Tensors, choice: Choice, which: str, where: str) -> ModelConfig:
    """The config of a V-JEPA 2 or 2.1 model of the reference, whose tensors these are.

    `which` encoder was taken, of the file `where`; it is the name of the file that says the resolution, and nothing
    else does: 384 px where it has that number, or 256. Positions come from the clip at hand in any case.

    Raises:
        ConfigError: a part is of no known size, and its heads are not given; or it has too few blocks.
    """
    parts = {part: {k: v for k, v in tensors.items() if k.startswith(f"{part}.")} for part in (*PARTS, "levels")}
    encoder = _encoder(parts["encoder"], choice, where, dense=bool(parts["levels"]))
    config = ModelConfig(_width(parts, where), which, where, encoder=encoder)
    if encoder and parts["levels"]:
        count = 1 + sum(key.startswith("levels.norms.") and key.endswith("weight") for key in parts["levels"])
        config = replace(config, levels=level_blocks(encoder.depth)[-count:])
    if found := parts["predictor"]:
        width, depth, ratio = _trunk(found, "predictor.predictor_blocks.", "predictor.predictor_norm.weight", where)
        count = sum(key.startswith("predictor.mask_tokens.") for key in found)
        shape = PredictorConfig(width, depth, _heads("predictor", width, depth, choice, where), ratio)
        config = replace(config, predictor=shape, mask_tokens=count, mask_index=MASK_INDEX % max(count, 1))
    if found := parts["ac_predictor"]:
        norm = "ac_predictor.predictor_norm.weight"
        width, depth, ratio = _trunk(found, "ac_predictor.predictor_blocks.", norm, where)
        count = _heads("ac_predictor", width, depth, choice, where)
        inputs = {n: _size(found, f"ac_predictor.{n}_encoder.weight", 1, where) for n in ("action", "state")}
        shape_ac = ACPredictorConfig(width, depth, count, ratio, rope_layout="tiled")
        config = replace(config, ac_predictor=shape_ac, action_dim=inputs["action"], state_dim=inputs["state"])
    if parts["classifier"]:
        config = replace(config, classifier=_classifier(parts["classifier"], choice, where))
    return config


def _encoder(found: Tensors, choice: Choice, where: str, dense: bool) -> EncoderConfig | None:
    """V-JEPA 2 turns tiled; 2.1 (`dense`) turns properly and stretches positions to the grid of training."""
    if not found:
        return None
    width, depth, ratio = _trunk(found, "encoder.blocks.", "encoder.norm.weight", where)
    patch = "encoder.patch_embed.proj.weight"
    return EncoderConfig(
        size=384 if re.search(r"(?<!\d)384(?!\d)", PurePath(where).name) else 256,
        patch=_size(found, patch, -1, where),
        tubelet=_size(found, patch, 2, where),
        width=width,
        depth=depth,
        heads=_heads("encoder", width, depth, choice, where),
        mlp_ratio=ratio,
        rope_layout="interleaved" if dense else "tiled",
        rope_interpolate=dense,
        swiglu="encoder.blocks.0.mlp.fc3.weight" in found,
    )


def _trunk(found: Tensors, blocks: str, norm: str, where: str) -> tuple[int, int, float]:
    """Width, depth and MLP ratio of a stack of blocks; a hole in the numbering shows when the tensors are compared."""
    numbers = [int(m[1]) for key in found if (m := re.match(re.escape(blocks) + r"(\d+)\.", key))]
    if not numbers:
        raise ConfigError(f"{where}: '{blocks}*' is missing, so this is no V-JEPA 2 {blocks.split('.')[0]}")
    first = f"{blocks}{min(numbers)}.mlp."
    width, hidden = _size(found, norm, 0, where), _size(found, f"{first}fc1.weight", 0, where)
    ratio = hidden / width * (1.5 if f"{first}fc3.weight" in found else 1)
    return width, max(numbers) + 1, ratio if int(width * ratio) >= hidden else math.nextafter(ratio, math.inf)


def _heads(part: str, width: int, depth: int, choice: Choice, where: str) -> int:
    """The heads of a stack of blocks, of which the last ones cannot be seen to be missing but by their number."""
    known = [d for w, d in _KNOWN[part] if w == width]
    _check_depth(part, depth, known if depth < max(known, default=0) else [depth], choice, where)
    if part in choice.heads:
        return choice.heads[part]
    if (width, depth) not in _KNOWN[part]:
        raise ConfigError(
            f"{where}: {part} of {depth} blocks of width {width} is no known size; "
            f"say how many heads it has: heads={{'{part}': N}}, --heads {part}=N"
        )
    return _KNOWN[part][width, depth]


def _check_depth(part: str, depth: int, known: Sequence[int], choice: Choice, where: str) -> None:
    """Raises ConfigError where the blocks are not as many as the caller says, or else as one knows of such a part."""
    if depth in ([choice.blocks[part]] if part in choice.blocks else known):
        return
    usual = f"it should have {' or '.join(map(str, known))}"
    wanted = f"{choice.blocks[part]} were asked for" if part in choice.blocks else usual
    raise ConfigError(
        f"{where}: {part} has {depth} blocks, and {wanted}; if the file is whole, convert it with "
        f"--blocks {part}={depth} (blocks={{'{part}': {depth}}})"
    )


def _classifier(found: Tensors, choice: Choice, where: str) -> ClassifierConfig:
    blocks = {key.split(".")[3] for key in found if key.startswith("classifier.pooler.blocks.")}
    names = [n for n in ("linear", *ANTICIPATION_HEADS) if f"classifier.{n}.weight" in found]
    classes = {name: len(found[f"classifier.{name}.weight"]) for name in names} or {"linear": 0}
    if names not in (["linear"], list(ANTICIPATION_HEADS)):
        there = ", ".join(names) or "none"
        raise CheckpointError(f"{where}: a classifier's heads are linear, or verb, noun and action; there are: {there}")
    depth = max((int(number) for number in blocks), default=-1) + 2
    _check_depth("classifier", depth, [_PROBE_DEPTH], choice, where)
    return ClassifierConfig(depth, choice.heads.get("classifier", _PROBE_HEADS), classes=classes)


def _width(parts: dict[str, Tensors], where: str) -> int:
    if parts["encoder"]:
        return _size(parts["encoder"], "encoder.norm.weight", 0, where)
    if parts["classifier"]:
        return _size(parts["classifier"], "classifier.pooler.query_tokens", -1, where)
    raise ConfigError(f"{where} holds neither an encoder nor a classifier of V-JEPA 2")


def _size(found: Tensors, key: str, axis: int, where: str) -> int:
    if key not in found or not -found[key].ndim <= axis < found[key].ndim:
        raise ConfigError(f"{where}: '{key}' is missing or has no axis {axis}, so the shape of the model is unknown")
    return found[key].shape[axis]
