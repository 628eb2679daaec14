"""Features of action anticipation: what the encoder sees of a clip, and what the predictor expects a while later."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.data.transforms import normalize
from jepa.interop.load import load
from jepa.interop.model import Model
from jepa.logs import console
from jepa.models.predictor import Predictor
from jepa.probes.features import BATCH
from jepa.runs import encoder_sha256, weights_sha256

FEATURES = ("both", "encoder", "predictor")


@dataclass(frozen=True)
class Foresight:
    """An encoder with its predictor, frozen: `features` says whose tokens are read, `fps` how fast the frames come.

    The predictor is asked by mask token `mask_index` for one time step, the one that begins `ahead` seconds behind the
    clip, given all of the clip's tokens.
    """

    model: Model
    features: str
    mask_index: int
    fps: float

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.model.config.width

    def tokens(self, frames: int, size: int) -> int:
        """How many tokens a clip has. Raises ConfigError where frames or size do not fit."""
        assert self.model.encoder is not None
        try:
            time, rows, columns = self.model.encoder.grid(frames, size, size)
        except ValueError as error:
            raise ConfigError(f"frames {frames}, size {size}: {error}") from error
        return (time * (self.features != "predictor") + (self.features != "encoder")) * rows * columns

    @torch.no_grad()
    def __call__(self, clips: Tensor, ahead: Tensor) -> Tensor:
        """uint8 clips (B, T, 3, h, w), seconds (B) -> tokens (B, 1, K, D) float16, first what is seen.

        By bf16 autocast on a GPU, as the reference does here.
        """
        assert self.model.encoder is not None
        device = next(self.model.encoder.parameters()).device
        parts = []
        for chunk, seconds in zip(clips.split(BATCH), ahead.split(BATCH), strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                seen = self.model.encoder(normalize(chunk.to(device)))
                parts.append(self._read(seen, chunk.shape, seconds.to(device)).half())
        return torch.cat(parts)[:, None]

    def _read(self, seen: Tensor, shape: torch.Size, ahead: Tensor) -> Tensor:
        if self.features == "encoder":
            return seen
        encoder, predictor = self.model.encoder, self.model.predictor
        assert encoder is not None and isinstance(predictor, Predictor)
        grid = encoder.grid(shape[1], *shape[-2:])
        place = torch.arange(grid[1] * grid[2], device=seen.device)
        steps = (ahead * self.fps / encoder.config.tubelet).long()  # whole time steps from the clip to what is asked
        target = seen.shape[1] + len(place) * steps[:, None] + place
        context = torch.arange(seen.shape[1], device=seen.device).expand(len(seen), -1)
        expected = predictor(seen, context, target, grid, self.mask_index)
        return torch.cat((seen, expected), 1) if self.features == "both" else expected

    @property
    def sha256(self) -> str:
        """A digest of what decides the tokens of a clip."""
        assert self.model.encoder is not None
        digests = [encoder_sha256(self.model.encoder), self.features, f"{self.fps:g}"]
        if self.features != "encoder" and self.model.predictor is not None:
            digests += [weights_sha256(self.model.predictor), str(self.mask_index)]
        return " ".join(digests)

    def said(self) -> dict[str, float]:
        """Which mask token asks, of how many, and its norm: one that is 0 was never trained."""
        if self.features == "encoder" or self.model.predictor is None:
            return {}
        tokens = self.model.predictor.mask_tokens
        norm = float(tokens[self.mask_index].norm())
        return {"mask_index": self.mask_index, "mask_tokens": len(tokens), "mask_token_norm": norm}


def make_foresight(maker: str, source: str, seed: int, features: str, mask_index: int, fps: float) -> Foresight:
    """Encoder and predictor of `jepa.load(source)`, or (`random_init`) both of that shape at random (`seed`).

    Raises:
        CheckpointError: there is no such model.
        ConfigError: it lacks the parts, or the mask token, that are asked for.
    """
    model = load(source)
    config = model.config
    if model.encoder is None:
        raise ConfigError(f"encoder={source} has no encoder")
    if features != "encoder":
        if not isinstance(model.predictor, Predictor):
            kind = "V-JEPA 2.1's predictor, which is not read here" if model.predictor else "no predictor"
            raise ConfigError(f"encoder={source} has {kind}: set features=encoder")
        if not 0 <= mask_index < config.mask_tokens:
            raise ConfigError(f"mask_index {mask_index}: {source} has {config.mask_tokens} mask tokens, from 0 on")
    if maker == "random_init":
        bare = replace(config, classifier=None, ac_predictor=None)
        model = Model(bare, torch.Generator().manual_seed(seed))
    found = Foresight(model.eval().requires_grad_(False), features, mask_index, fps)
    if maker != "random_init" and found.said().get("mask_token_norm") == 0:
        console.print(f"[yellow]mask token {mask_index} is zero and so was never trained; choose another mask_index")
    return found
