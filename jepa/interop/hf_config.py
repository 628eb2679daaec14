"""The config.json of transformers' VJEPA2 models <-> ours, and what one side has and the other has not."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from jepa.checkpoint import CheckpointError
from jepa.interop.model import ClassifierConfig, ModelConfig
from jepa.interop.shapes import MASK_INDEX, Choice
from jepa.models.encoder import EncoderConfig
from jepa.models.pooler import EPS
from jepa.models.predictor import PredictorConfig

_EPS = 1e-6

# What a config must say to be a model that we have, which is transformers' default where it says nothing.
_FIXED: dict[str, Any] = {"layer_norm_eps": _EPS, "qkv_bias": True, "hidden_act": "gelu", "in_chans": 3}

_DEFAULTS: dict[str, Any] = {
    "crop_size": 256,
    "patch_size": 16,
    "tubelet_size": 2,
    "frames_per_clip": 64,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4.0,
    "pred_hidden_size": 384,
    "pred_num_hidden_layers": 12,
    "pred_num_attention_heads": 12,
    "pred_mlp_ratio": 4.0,
    "pred_num_mask_tokens": 10,
    "num_pooler_layers": 3,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
}
"""transformers leaves out of a config what is the default."""


def from_hf_config(values: dict[str, Any], tensors: dict[str, Tensor], choice: Choice, where: str) -> ModelConfig:
    """The config of a model of transformers; which parts it has is read from the names of its tensors.

    transformers gives a classifier the encoder's heads and eps. Where its heads are chosen, it is read as it was
    trained by Meta, with their eps.

    Raises:
        CheckpointError: a config that is not of V-JEPA 2, or asks for something that we do not have.
    """
    if values.get("model_type") != "vjepa2":
        raise CheckpointError(f"{where}: its config says model_type '{values.get('model_type')}', not 'vjepa2'")
    get = _DEFAULTS | _FIXED | values
    if other := [key for key, wanted in _FIXED.items() if get[key] != wanted]:
        raise CheckpointError(
            f"{where}: its config says {other[0]}={get[other[0]]}, and models here have {_FIXED[other[0]]}"
        )
    if bad := [key for key, default in _DEFAULTS.items() if not _like(get[key], default)]:
        raise CheckpointError(f"{where}: its config says {bad[0]}={get[bad[0]]}, which is not of the right type")
    encoder = EncoderConfig(
        size=get["crop_size"],
        patch=get["patch_size"],
        tubelet=get["tubelet_size"],
        width=get["hidden_size"],
        depth=get["num_hidden_layers"],
        heads=choice.heads.get("encoder", get["num_attention_heads"]),
        mlp_ratio=float(get["mlp_ratio"]),
        rope_layout="tiled",
    )
    config = ModelConfig(encoder.width, origin=where, frames=get["frames_per_clip"], encoder=encoder)
    if any(key.removeprefix("vjepa2.").startswith("predictor.") for key in tensors):
        shape = PredictorConfig(
            get["pred_hidden_size"],
            get["pred_num_hidden_layers"],
            choice.heads.get("predictor", get["pred_num_attention_heads"]),
            float(get["pred_mlp_ratio"]),
        )
        count = get["pred_num_mask_tokens"]
        config = replace(config, predictor=shape, mask_tokens=count, mask_index=MASK_INDEX % count)
    if any(key.startswith(("classifier.", "pooler.")) for key in tensors):
        labels = tuple(str(get["id2label"][key]) for key in sorted(get["id2label"], key=int))
        as_trained = "classifier" in choice.heads
        heads, eps = (choice.heads["classifier"], EPS) if as_trained else (encoder.heads, _EPS)
        probe = ClassifierConfig(get["num_pooler_layers"] + 1, heads, eps, {"linear": len(labels)}, labels)
        config = replace(config, classifier=probe)
    return config


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model of transformers.

    Raises:
        CheckpointError: transformers would compute something else, or has no place for a part.
    """
    if why := _not_representable(config):
        raise CheckpointError(f"transformers cannot hold this model: {why}")
    e, p, c = config.encoder, config.predictor, config.classifier
    assert e and p
    values = {
        "architectures": ["VJEPA2ForVideoClassification" if c else "VJEPA2Model"],
        "model_type": "vjepa2",
        "crop_size": e.size,
        "patch_size": e.patch,
        "tubelet_size": e.tubelet,
        "frames_per_clip": config.frames,
        "hidden_size": e.width,
        "num_hidden_layers": e.depth,
        "num_attention_heads": e.heads,
        "mlp_ratio": e.mlp_ratio,
        "pred_hidden_size": p.width,
        "pred_num_hidden_layers": p.depth,
        "pred_num_attention_heads": p.heads,
        "pred_mlp_ratio": p.mlp_ratio,
        "pred_num_mask_tokens": config.mask_tokens,
        **_FIXED,
    }
    if c:
        labels = c.labels or tuple(f"LABEL_{i}" for i in range(c.classes["linear"]))
        values |= {"num_pooler_layers": c.depth - 1, "id2label": {str(i): label for i, label in enumerate(labels)}}
        values |= {"label2id": {label: i for i, label in enumerate(labels)}}
    return values


def processor_config(config: ModelConfig) -> dict[str, Any]:
    """The video_preprocessor_config.json that goes with it."""
    assert config.encoder
    size = config.encoder.size
    return {"video_processor_type": "VJEPA2VideoProcessor", "crop_size": {"height": size, "width": size}}


def _not_representable(config: ModelConfig) -> str:
    e, c = config.encoder, config.classifier
    if not e or not config.predictor or not config.mask_tokens:
        return "its VJEPA2Model has an encoder and a predictor, and here one of them is missing"
    if config.ac_predictor:
        return "it has no action-conditioned predictor"
    if config.levels:
        return "it has no V-JEPA 2.1"
    if e.rope_layout != "tiled" or e.rope_interpolate:
        return "it turns with rope_layout=tiled and does not interpolate; this encoder was trained otherwise"
    if e.swiglu:
        return "it has no SwiGLU"
    if c and "linear" not in c.classes:
        return "its classifier has one linear layer"
    if c and c.heads != e.heads:
        return f"its classifier has the encoder's {e.heads} heads, and this one has {c.heads}"
    return ""


def _like(value: Any, default: Any) -> bool:
    if isinstance(default, dict):
        return isinstance(value, dict) and bool(value) and all(str(key).isdecimal() for key in value)
    if isinstance(default, int):
        return isinstance(value, int) and value > 0
    return isinstance(value, int | float) and value > 0
