"""ViTs (DINOv2, DINOv3, …) and convolutional nets of timm as video encoders: every frame alone, in raster order."""

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
    """What a timm model is made for: short side and patch in pixels, width of its tokens. A tubelet is one frame."""

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
    and register tokens are dropped. A convolutional net's tokens are the places of its last feature map, and its
    patch is that map's stride. Raises ConfigError where timm has no such model or it is neither.
    """

    scale: Tensor
    shift: Tensor
    embed_dim: int

    def __init__(self, name: str, seed: int, size: int = 0) -> None:
        """Random weights, a function of the seed; `size` 0 is the model's own; others go to the nearest whole patch."""
        super().__init__()
        self.net = _create(name, seed)
        known = self.net.pretrained_cfg
        patch = self.net.feature_info[-1]["reduction"]
        size = patch * max(1, round((size or known["input_size"][-1]) / patch))
        self.config = ImageEncoderConfig(name, size, patch, self.net.num_features)
        self.embed_dim = self.net.num_features
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
        tokens = self.net.forward_features(images * self.scale + self.shift)
        # a convolutional net gives a map (B·T, D, rows, columns)
        tokens = tokens.flatten(2).mT if tokens.ndim == 4 else tokens[:, self.net.num_prefix_tokens :]
        return rearrange(tokens, "(b t) n d -> b (t n) d", b=frames.shape[0])  # `len` would fix an export's batch


def whole_patches(height: int, width: int, size: int, patch: int) -> tuple[int, int]:
    """(height, width) in pixels of the short side `size` and the same ratio, both to the nearest whole patch."""
    factor = size / min(height, width) / patch
    return patch * max(1, round(height * factor)), patch * max(1, round(width * factor))


def build_image_encoder(name: str, weights: str = "hub", seed: int = 0, size: int = 0) -> ImageEncoder:
    """A frozen timm model; `weights` are a .safetensors file in timm's names, `hub` (downloaded) or `random` (of seed).

    Raises:
        ConfigError: timm has no such model, it gives no tokens or map, or the hub has no weights for it.
        CheckpointError: the file is missing, not safetensors, or does not fit the model; nothing is loaded in part.
    """
    encoder = ImageEncoder(name, seed, size)
    if weights != "random":
        path = _download(encoder.net.pretrained_cfg, name) if weights == "hub" else Path(weights)
        head = encoder.net.pretrained_cfg.get("classifier") or "head"  # classifies images: no feature depends on it
        heads = tuple(f"{name}." for name in ((head,) if isinstance(head, str) else head))
        tensors = {k: v for k, v in _read(path).items() if not k.startswith(heads)}
        load_weights(encoder.net, tensors, str(path))
    return encoder.eval().requires_grad_(False)


def _create(name: str, seed: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0].split('_')[-1]}*")[:5]
        raise ConfigError(f"timm has no model '{name}'" + f"; there are {', '.join(close)}" * bool(close))
    # timm draws from the global generator: it is put back, and what is drawn depends on the seed alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = timm.create_model(name, num_classes=0, dynamic_img_size=True)
            fits = hasattr(net, "num_prefix_tokens")
        except TypeError:  # no ViT, or one that takes images of one size only
            net = timm.create_model(name, num_classes=0)
            fits = _maps_images(net)
    if not fits:
        raise ConfigError(
            f"'{name}' is neither a plain ViT nor a convolutional net; take one like vit_small_patch16_dinov3"
        )
    return net


@torch.no_grad()
def _maps_images(net: nn.Module) -> bool:
    """Whether it turns images of any size into one feature map (B, D, rows, columns)."""
    if net.pretrained_cfg.get("fixed_input_size"):
        return False
    stride = net.feature_info[-1]["reduction"]
    found = net.eval().forward_features(torch.zeros(1, 3, 2 * stride, 3 * stride))
    return found.shape == (1, net.num_features, 2, 3)


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
