"""Image ViTs of timm (DINOv2, DINOv3, …) as video encoders: every frame alone, tokens in raster order."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from jepa.checkpoint import CheckpointError, load_weights
from jepa.config import ConfigError
from jepa.data.transforms import IMAGENET_MEAN, IMAGENET_STD, resize


@dataclass(frozen=True)
class ImageEncoderConfig:
    """What a timm ViT is made for: short side and patch in pixels, width of its tokens. A tubelet is one frame."""

    name: str
    size: int
    patch: int
    width: int
    tubelet: ClassVar[int] = 1

    def pixels(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that such frames are resized to: the short side to `size`, the other to whole patches."""
        return whole_patches(height, width, self.size, self.patch)

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Token grid (t, rows, columns) of a clip of that many frames and pixels: one time step for each frame."""
        height, width = self.pixels(height, width)
        return frames, height // self.patch, width // self.patch


class ImageEncoder(nn.Module):
    """Frames (B, T, 3, h, w) of any size, ImageNet-normalised -> tokens (B, T·N, D) of each frame alone.

    Frames are resized to the size that the model was trained at, keeping their shape to within half a patch; class
    and register tokens are dropped. Raises ConfigError where timm has no such model or it is not a plain ViT.
    """

    scale: Tensor
    shift: Tensor
    embed_dim: int

    def __init__(self, name: str, seed: int, size: int = 0) -> None:
        """Random weights, a function of the seed; `size` 0 is the model's own; others go to the nearest whole patch."""
        super().__init__()
        self.vit = _create(name, seed)
        known = self.vit.pretrained_cfg
        patch = self.vit.patch_embed.patch_size[0]
        size = patch * max(1, round((size or known["input_size"][-1]) / patch))
        self.config = ImageEncoderConfig(name, size, patch, self.vit.num_features)
        self.embed_dim = self.vit.num_features
        mean, std, own_mean, own_std = (
            torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD, known["mean"], known["std"])
        )
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """As `ImageEncoderConfig.grid`."""
        return self.config.grid(frames, height, width)

    def forward(self, frames: Tensor) -> Tensor:  # (B, T, 3, h, w) -> (B, T·N, D)
        images = resize(frames.flatten(0, 1), *self.config.pixels(*frames.shape[-2:]))
        tokens = self.vit.forward_features(images * self.scale + self.shift)[:, self.vit.num_prefix_tokens :]
        return rearrange(tokens, "(b t) n d -> b (t n) d", b=frames.shape[0])  # `len` would fix an export's batch


def whole_patches(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """(height, width) in pixels of the short side `size` and the same ratio, both to the nearest whole patch."""
    factor = size / min(height, width) / patch
    return patch * max(1, round(height * factor)), patch * max(1, round(width * factor))


def build_image_encoder(name: str, weights: str = "hub", seed: int = 0, size: int = 0) -> ImageEncoder:
    """A frozen timm ViT; `weights` is a .safetensors file in timm's names, `hub` (downloaded) or `random` (of `seed`).

    Raises:
        ConfigError: timm has no such model, it is not a plain ViT, or the hub has no weights for it.
        CheckpointError: the file is missing, not safetensors, or does not fit the model; nothing is loaded in part.
    """
    encoder = ImageEncoder(name, seed, size)
    if weights != "random":
        path = _download(encoder.vit.pretrained_cfg, name) if weights == "hub" else Path(weights)
        head = encoder.vit.pretrained_cfg.get("classifier") or "head"  # classifies images: no feature depends on it
        tensors = {k: v for k, v in _read(path).items() if not k.startswith(f"{head}.")}
        load_weights(encoder.vit, tensors, str(path))
    return encoder.eval().requires_grad_(False)


def _create(name: str, seed: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0].split('_')[-1]}*")[:5]
        raise ConfigError(f"timm has no model '{name}'" + f"; there are {', '.join(close)}" * bool(close))
    try:
        # timm draws from the global generator: it is put back, and what is drawn depends on the seed alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vit = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    except TypeError as error:  # it takes images of one size only
        raise ConfigError(f"'{name}' is not a plain ViT; take one like vit_small_patch16_dinov3") from error
    if not hasattr(vit, "num_prefix_tokens"):
        raise ConfigError(f"'{name}' is not a plain ViT; take one like vit_small_patch16_dinov3")
    return vit


def _download(known: dict, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if not known.get("hf_hub_id"):
        raise ConfigError(f"the hub has no weights for '{name}'; give weights=FILE.safetensors")
    try:
        return Path(hf_hub_download(known["hf_hub_id"], "model.safetensors"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"{known['hf_hub_id']} cannot be downloaded ({type(error).__name__}); give weights=FILE.safetensors"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no file {path}: weights are a .safetensors file, `hub` or `random`")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file: {error}") from error
