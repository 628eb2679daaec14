"""Our objective beside the reference's: same weights, same masks, one clip; and how far apart they are."""

import torch
from reference import model
from reference.step import Reference
from torch import nn

from jepa.config import build
from jepa.data.clip import Clip
from jepa.masks.base import Masks
from jepa.models.encoder import build_encoder
from jepa.pretrain import PretrainConfig


class FixedMasks:
    """The masks of one step, made once: no part of either step, for the reference makes them in its loader."""

    def __init__(self, masks: list[Masks]) -> None:
        self._masks, self.configs = masks, len(masks)

    def sample(self, *_: object) -> list[Masks]:
        return self._masks


def make_pair(config: PretrainConfig, device: str, recompute: bool = False) -> tuple[nn.Module, Reference, Clip]:
    """Ours, the reference (with activation checkpointing where `recompute`) and a clip of noise, on `device`."""
    rng = torch.Generator().manual_seed(1)
    batch, data = config.batch_size, config.data
    shape = (batch, data.frames, 3, data.size, data.size)
    clip = Clip(
        frames=torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8).to(device),
        sample_id=torch.arange(batch),
        epoch=torch.zeros(batch, dtype=torch.int64),
        step=0,
        valid=torch.ones(batch, data.frames, dtype=torch.bool, device=device),
    )
    encoder, e, p = build_encoder(config.encoder, config.seed), config.encoder, config.predictor
    grid = encoder.grid(data.frames, data.size, data.size)
    drawn = build(config.masks, config.seed).sample(grid, clip.sample_id, clip.epoch, 0)
    masks = FixedMasks([Masks(m.context.to(device), m.target.to(device)) for m in drawn])
    ours = build(config.objective, encoder, p, masks, rng)
    with torch.no_grad():  # a fresh attention is so even that positions would hardly change the loss
        for name, parameter in ours.named_parameters():
            if name.endswith("qkv.weight"):
                parameter *= 5
    theirs = Reference(
        model.Encoder(e.patch, e.tubelet, e.width, e.depth, e.heads, e.mlp_ratio),
        model.Predictor(e.width, masks.configs, p.width, p.depth, p.heads, p.mlp_ratio),
        masks,
        config.objective.ema_start,
    )
    theirs.load_state_dict(ours.state_dict())
    theirs.encoder.recompute = theirs.predictor.recompute = recompute
    return ours.to(device), theirs.to(device), clip


def differences(ours: nn.Module, theirs: nn.Module, clip: Clip) -> tuple[float, float]:
    """Of the losses; and the worst of the gradients, relative to the tensor's largest. Leaves no gradients behind."""
    losses = []
    for side in (ours, theirs):
        loss, _ = side(clip)
        loss.backward()
        losses.append(loss.item())
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    got = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    worst = max(
        float((got[name] - grad).abs().max() / grad.abs().max().clamp_min(1e-30)) for name, grad in wanted.items()
    )
    for side in (ours, theirs):
        side.zero_grad(set_to_none=True)
    return abs(losses[0] - losses[1]), worst
