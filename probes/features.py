"""Frozen features of clips: the rows of a probe table (pre-trained, random init, pixels) and their views."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from jepa.data.transforms import normalize
from jepa.models.encoder import Encoder, build_encoder
from jepa.models.image_encoder import ImageEncoder, build_image_encoder
from jepa.probes.clips import digest
from jepa.runs import encoder_sha256, load_encoder, read_cache, write_cache

IMAGE = "image"  # the row that is there where one is asked for
MAKERS = ("pretrained", IMAGE, "random_init", "pixels")
THUMBNAIL = 16  # pixels a side of the raw-pixel baseline
BATCH = 8  # clips a forward pass: few enough for a CPU's cache


def make_encoder(maker: str, run: str, seed: int, image: tuple[str, str] = ("", "hub")) -> Encoder | ImageEncoder:
    """The target encoder of a pre-training run, or the same architecture at random init (`seed`), frozen.

    The maker `IMAGE` is an image ViT of timm instead: `image` is its name and weights, as `build_image_encoder` takes.
    """
    if maker == IMAGE:
        return build_image_encoder(*image, seed)
    encoder = load_encoder(run, "target")
    if maker == "random_init":
        encoder = build_encoder(encoder.config, seed)
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode(encoder: Encoder | ImageEncoder, frames: Tensor) -> Tensor:
    """uint8 frames (B, T, 3, h, w) -> float32 tokens (B, K, D), K = t·N, on the CPU; computed on a GPU if any."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = encoder.to(device)
    return torch.cat([encoder(normalize(x.to(device))).float().cpu() for x in frames.split(BATCH)])


def cached_tokens(cache: Path, encoder: Encoder | ImageEncoder, clips_file: Path, frames: Tensor, part: str) -> Tensor:
    """`encode`, unless its result is in the folder `cache` already.

    `frames` (B, T, 3, h, w) must be determined by the clips file, whose name stands for data, clip spec and seed,
    and by `part`; the encoder is hashed here. Kept in half precision, which is what comes back the first time
    too: outputs of a LayerNorm lose nothing that a probe could see.
    """
    key = digest(encoder_sha256(encoder), clips_file.name, part)
    path = cache / f"tokens-{key}.safetensors"
    known = read_cache(path, key)
    if known is None:
        known = {"tokens": encode(encoder, frames).half()}
        write_cache(path, key, known)
    return known["tokens"].float()


def pixel_tokens(frames: Tensor, patch: int, tubelet: int) -> Tensor:
    """uint8 frames (B, T, 3, h, w) -> the normalised pixels of each tubelet patch (B, K, 3·tubelet·p·p)."""
    return rearrange(
        normalize(frames),
        "b (t tt) c (h ph) (w pw) -> b (t h w) (tt c ph pw)",
        tt=tubelet,
        ph=patch,
        pw=patch,
    )


def principal_axes(tokens: Tensor, count: int) -> Tensor:
    """The `count` directions (D, count) in which tokens (B, K, D) vary most; all D where there are no more."""
    flat = tokens.flatten(0, 1)
    flat = flat - flat.mean(0)
    return torch.linalg.eigh(flat.T @ flat).eigenvectors.flip(1)[:, :count].contiguous()


def thumbnails(frames: Tensor) -> Tensor:
    """uint8 frames (B, T, 3, h, w) -> all of them at 16×16, flattened (B, T·3·256)."""
    small = F.interpolate(normalize(frames).flatten(0, 1), (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    return small.view(len(frames), -1)


def view(name: str, tokens: Tensor, frames: Tensor, maker: str) -> Tensor:
    """What a probe reads of tokens (B, K, D): `tokens` themselves, `pooled` (B, D) or `flat` (B, ·).

    Flattened pixel tokens would be the whole clip; thumbnails, the usual raw-pixel baseline, stand in.
    """
    if name == "tokens":
        return tokens
    if name == "pooled":
        return tokens.mean(1)
    return thumbnails(frames) if maker == "pixels" else tokens.flatten(1)
