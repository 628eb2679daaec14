"""Frozen features of clips: the rows of a probe table (pre-trained, random init, pixels) and their views."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from jepa.data.transforms import normalize
from jepa.models.encoder import Encoder, build_encoder
from jepa.models.image_encoder import ImageEncoder, build_image_encoder
from jepa.probes import image_baseline
from jepa.probes.clips import unlabelled
from jepa.probes.store import Rows, Store, open_store
from jepa.runs import encoder_sha256, load_encoder

IMAGE = "image"  # the row that is there where one is asked for
MAKERS = ("pretrained", IMAGE, "random_init", "pixels")
THUMBNAIL = 16  # pixels a side of the raw-pixel baseline
BATCH = 8  # clips a forward pass: few enough for a CPU's cache
CHUNK = 8 * BATCH  # clips whose tokens are in memory at a time

Read = Callable[[Tensor], Tensor]


def make_encoder(maker: str, run: str, seed: int, image: tuple[str, str] = ("", "hub")) -> Encoder | ImageEncoder:
    """The target encoder of a pre-training run, or the same architecture at random init (`seed`), frozen.

    The maker `IMAGE` is an image encoder of timm instead: `image` is its name and weights, as `build_image_encoder`
    takes; for EfficientNet-Lite0 the weights come from a package (see `jepa.probes.image_baseline`).
    """
    if maker == IMAGE:
        if image == (image_baseline.NAME, "hub"):
            return image_baseline.build_efficientnet()
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


def cached_tokens(
    cache: Path,
    encoder: Encoder | ImageEncoder,
    clips_file: Path,
    frames: Tensor,
    part: str = "",
    share: tuple[int, int] = (0, 1),
    plain: tuple[Tensor, Store] | None = None,
) -> Store:
    """Tokens (B, K, D) of frames (B, T, 3, h, w) on disk, in the folder `cache`; only what is not there is encoded.

    The frames must be determined by the clips file, whose name stands for data, clip spec and seed, and by `part`; the
    encoder is hashed here. Half precision loses nothing that a probe could see of a LayerNorm's outputs. `share` and
    `plain` are those of `fill`.
    """
    shape = (math.prod(encoder.grid(frames.shape[1], *frames.shape[-2:])), encoder.embed_dim)
    key = {"encoder": encoder_sha256(encoder), "clips": unlabelled(clips_file).stem, "part": part}
    store = open_store(cache / "tokens", key, len(frames), shape)
    fill(store, frames, partial(encode, encoder), share, plain)
    return store


def fill(
    store: Store, frames: Tensor, read: Read, share: tuple[int, int] = (0, 1), plain: tuple[Tensor, Store] | None = None
) -> None:
    """Write what `read` makes of frames (B, T, 3, h, w) into the rows that are missing of this process's `share`.

    The share is (rank, processes). `plain` are frames (B, …) whose tokens are in a store already: clips that are the
    same there are copied.
    """
    rank, world = share
    todo = torch.arange(len(frames)).tensor_split(world)[rank]
    todo = todo[torch.isin(todo, store.missing())]
    if plain is not None and plain[0].shape == frames.shape:
        same = (plain[0][todo] == frames[todo]).flatten(1).all(1)
        for ids in _chunks(todo[same]):
            store.write(ids, plain[1].values[ids])
        todo = todo[~same]
    for ids in _chunks(todo):
        store.write(ids, read(frames[ids]))


def _chunks(ids: Tensor) -> list[Tensor]:
    return [chunk for chunk in ids.split(CHUNK) if len(chunk)]  # torch splits nothing into one part


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


def view(name: str, tokens: Tensor | Rows, frames: Tensor, maker: str) -> Tensor | Rows:
    """What a probe reads of tokens (B, K, D): `tokens` themselves, `pooled` (B, D) or `flat` (B, ·), float32.

    Tokens that lie on disk stay there. Flattened pixel tokens would be the whole clip; thumbnails of `frames`, the
    usual raw-pixel baseline, stand in.
    """
    if name == "tokens":
        return tokens
    if name == "flat" and maker == "pixels":
        return thumbnails(frames)
    chunks = (chunk.float() for chunk in tokens.split(CHUNK))
    return torch.cat([chunk.mean(1) if name == "pooled" else chunk.flatten(1) for chunk in chunks])
