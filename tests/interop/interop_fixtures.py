"""Tiny models with loud random weights, and a checkpoint as Meta's code writes it, spelled out name by name."""

from dataclasses import replace

import torch

from jepa.interop.model import ClassifierConfig, Model, ModelConfig, assemble, skeleton
from jepa.models.ac_predictor import ACPredictorConfig
from jepa.models.encoder import EncoderConfig
from jepa.models.predictor import PredictorConfig

ENCODER = EncoderConfig(size=32, patch=8, width=48, depth=2, heads=2, rope_layout="tiled")
VJEPA2 = ModelConfig(48, frames=4, encoder=ENCODER, predictor=PredictorConfig(24, 2, 2), mask_tokens=3, mask_index=1)
CLASSIFIER = ClassifierConfig(depth=4, heads=2, eps=1e-6, classes={"linear": 5})
CONFIGS = {
    "encoder and predictor": VJEPA2,
    "classifier": replace(VJEPA2, classifier=replace(CLASSIFIER, labels=("up", "down", "left", "right", "still"))),
    "V-JEPA 2.1": replace(
        VJEPA2,
        encoder=replace(ENCODER, depth=4, rope_layout="interleaved", rope_interpolate=True),
        levels=(0, 1, 2, 3),
    ),
    "action-conditioned": replace(
        VJEPA2,
        predictor=None,
        mask_tokens=0,
        mask_index=0,
        ac_predictor=ACPredictorConfig(24, 2, 2, rope_layout="tiled"),
    ),
    "anticipation": replace(
        VJEPA2,
        classifier=replace(
            CLASSIFIER, classes={"verb_classifier": 3, "noun_classifier": 4, "action_classifier": 6}, eps=1e-5
        ),
    ),
}
HEADS = {"encoder": 2, "predictor": 2, "ac_predictor": 2, "classifier": 2}


def random_model(config: ModelConfig, seed: int = 0) -> Model:
    """Every weight is drawn, biases and mask tokens too: nothing that is mixed up can go unnoticed."""
    g = torch.Generator().manual_seed(seed)
    shapes = skeleton(config).state_dict()
    drawn = {key: 0.2 * torch.randn(value.shape, generator=g) for key, value in shapes.items()}
    drawn = {key: value + ("norm" in key and key.endswith("weight")) for key, value in drawn.items()}
    return assemble(config, drawn, "random")


def meta_names(width: int, hidden: int, depth: int, blocks: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a stack of blocks of Meta's."""
    names: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        for name, shape in {
            "norm1": (width,),
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "norm2": (width,),
            "mlp.fc1": (hidden, width),
            "mlp.fc2": (width, hidden),
        }.items():
            names |= {f"{blocks}.{i}.{name}.weight": shape, f"{blocks}.{i}.{name}.bias": shape[:1]}
    return names


def meta_checkpoint(seed: int = 0) -> dict:
    """A training checkpoint of V-JEPA 2 at width 48, with other weights in each encoder, and stale tables."""
    g = torch.Generator().manual_seed(seed)
    encoder = {"patch_embed.proj.weight": (48, 3, 2, 8, 8), "patch_embed.proj.bias": (48,)}
    encoder |= meta_names(48, 192, 2, "blocks") | {"norm.weight": (48,), "norm.bias": (48,), "pos_embed": (1, 32, 48)}
    predictor = {"predictor_embed.weight": (24, 48), "predictor_embed.bias": (24,), "predictor_pos_embed": (1, 32, 24)}
    predictor |= {f"mask_tokens.{k}": (1, 1, 24) for k in range(3)} | meta_names(24, 96, 2, "predictor_blocks")
    predictor |= {"predictor_norm.weight": (24,), "predictor_norm.bias": (24,)}
    predictor |= {"predictor_proj.weight": (48, 24), "predictor_proj.bias": (48,)}

    def drawn(names: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        return {f"module.backbone.{name}": 0.2 * torch.randn(shape, generator=g) for name, shape in names.items()}

    weights = {"encoder": drawn(encoder), "predictor": drawn(predictor), "target_encoder": drawn(encoder)}
    return {**weights, "opt": {"state": {}}, "scaler": None, "epoch": 3, "loss": 0.5, "batch_size": 2, "lr": 1e-4}
