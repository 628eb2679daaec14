"""A loaded model: encoder, predictors and classifier as one module whose tensor names every layout is mapped to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa.checkpoint import CheckpointError
from jepa.interop.fit import check_fit
from jepa.models.ac_predictor import ACPredictor, ACPredictorConfig
from jepa.models.encoder import Encoder, EncoderConfig, Keep, PatchEmbed
from jepa.models.levels import Levels, LevelsPredictor
from jepa.models.pooler import ANTICIPATION_HEADS, EPS, AnticipationClassifier, AttentiveClassifier
from jepa.models.predictor import Predictor, PredictorConfig

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ClassifierConfig:
    """An attentive classifier: `classes` by the name of its linear layer, `labels` the names of the classes if known.

    `depth` counts the cross-attention block. `eps` is that of its LayerNorms.
    """

    depth: int = 4
    heads: int = 16
    eps: float = EPS
    classes: dict[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """What a model is made of; a part that is None is not there. Inference has all it needs in here.

    `which` is the encoder that was taken of those in the file. `size` and `frames` of a clip in training are
    `encoder.size` and `frames`. Of `mask_tokens` learned queries inference uses number `mask_index`. `levels` are
    the blocks that V-JEPA 2.1 reads, empty for V-JEPA 2. `width` is that of the tokens. `origin` says whence it came.
    With `ac_standardised` the action-conditioned predictor works in the scales of its run's world model, and not on
    layer-normed tokens and plain actions and states: `jepa.runs.load_world` has both.
    `remarks` are what the reader of a file found odd in it, or left out.
    """

    width: int
    which: str = ""
    origin: str = ""
    frames: int = 64
    encoder: EncoderConfig | None = None
    levels: tuple[int, ...] = ()
    predictor: PredictorConfig | None = None
    mask_tokens: int = 0
    mask_index: int = 0
    ac_predictor: ACPredictorConfig | None = None
    action_dim: int = 7
    state_dim: int = 7
    ac_standardised: bool = False
    classifier: ClassifierConfig | None = None
    remarks: tuple[str, ...] = ()


class DenseEncoder(Encoder):
    """An encoder of V-JEPA 2.1: to it a clip of one frame is an image, and not a still video.

    The patch embedding of images is a part of `Levels`, and only used here.
    """

    images: tuple[PatchEmbed, ...] = ()  # no module of its own: torch does not look into tuples

    def blocks_out(
        self, frames: Tensor, keep: Keep, layers: Sequence[int], embed: PatchEmbed | None = None
    ) -> list[Tensor]:
        """As `Encoder.blocks_out`."""
        if embed is None and frames.shape[1] == 1 and self.images:
            embed = self.images[0]
        return super().blocks_out(frames, keep, layers, embed)

    def plain(self) -> Encoder:
        """The same weights for video alone, where a single frame is a still video, as V-JEPA 2-AC shows it."""
        with torch.device("meta"):
            encoder = Encoder(self.config, torch.Generator())
        encoder.load_state_dict(self.state_dict(), assign=True)
        return encoder.train(self.training).requires_grad_(next(self.parameters()).requires_grad)


class Model(nn.Module):
    """The parts of a checkpoint, each None where the file has none of it.

    encoder: frames (B, T, 3, h, w), ImageNet-normalised -> tokens (B, t·N, D). A single frame is a still video of one
        tubelet, but to V-JEPA 2.1 an image.
    levels: what V-JEPA 2.1 adds to it, see `jepa.models.levels`.
    predictor: `jepa.models.predictor.Predictor`; ask it with `mask_index=model.config.mask_index`.
    ac_predictor: layer-normed tokens (B, T, N, D), actions (B, T, A), states (B, T, S) -> the next tokens.
    classifier: tokens (B, K, D) -> logits (B, C), or verb, noun and action logits.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = generator or torch.Generator()
        self.config = config
        e, p = config.encoder, config.predictor
        self.encoder: Encoder | None = None
        self.levels: Levels | None = None
        if e and config.levels:
            self.encoder = dense = DenseEncoder(e, generator)
            self.levels = Levels(dense, config.levels, generator)
            dense.images = (self.levels.image_patch_embed,)
        elif e:
            self.encoder = Encoder(e, generator)
        self.predictor: Predictor | LevelsPredictor | None = None
        if p and self.encoder:
            rope, count = self.encoder.rope, config.mask_tokens
            self.predictor = (
                LevelsPredictor(p, config.width, len(config.levels), count, rope, generator)
                if config.levels
                else Predictor(p, config.width, count, rope, generator)
            )
        self.ac_predictor: ACPredictor | None = None
        if config.ac_predictor and e:
            grid = (e.size // e.patch, e.size // e.patch)
            self.ac_predictor = ACPredictor(
                config.ac_predictor, config.width, config.action_dim, config.state_dim, grid, generator
            )
        self.classifier = _classifier(config.width, config.classifier) if config.classifier else None

    @classmethod
    def from_pretrained(cls, source: str | Path, **choices: Any) -> "Model":
        """As `jepa.load`."""
        from jepa.interop.load import load

        return load(source, **choices)

    def save_pretrained(self, folder: str | Path, **told: Any) -> None:
        """Write config.json, model.safetensors and a model card to a new folder: see `jepa.interop.save`."""
        from jepa.interop.save import save

        save(self, folder, **told)

    def push_to_hub(self, repo_id: str, private: bool = True, **told: Any) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; returns the address."""
        from jepa.interop.save import push

        return push(self, repo_id, private, **told)


def skeleton(config: ModelConfig) -> Model:
    """The model without weights: names and shapes alone, on torch's `meta` device.

    Raises:
        ValueError: shapes that no model has, such as heads that do not divide the width.
    """
    with torch.device("meta"):
        return Model(config)


def assemble(config: ModelConfig, tensors: Tensors, where: str) -> Model:
    """The model with these weights, in fp32, frozen and in evaluation mode.

    Raises:
        MismatchError: a tensor is missing, unexpected, mis-shaped or not finite; nothing is loaded then.
    """
    if config.mask_tokens and config.mask_index not in range(config.mask_tokens):
        raise CheckpointError(
            f"{where}: mask_index {config.mask_index}, and there are {config.mask_tokens} mask tokens"
        )
    model = skeleton(config)
    check_fit(tensors, model.state_dict(), where)
    # Copies: what is loaded must not change with the file that it was mapped from.
    own = {k: v.to(torch.float32, copy=True).contiguous() for k, v in tensors.items()}
    model.load_state_dict(own, assign=True)
    return model.eval().requires_grad_(False)


def _classifier(width: int, c: ClassifierConfig) -> nn.Module:
    if set(c.classes) == set(ANTICIPATION_HEADS):
        counts = [c.classes[name] for name in ANTICIPATION_HEADS]
        return AnticipationClassifier(width, counts, c.depth, c.heads, c.eps)
    return AttentiveClassifier(width, c.classes["linear"], c.depth, c.heads, c.eps)
