"""Frozen features of clips: the rows of a probe table (pre-trained, random init, pixels) and their views."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

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
from jepa.runs import encoder_config, encoder_sha256, load_encoder

IMAGE = "image"  # the row that is there where one is asked for
MAKERS = ("pretrained", IMAGE, "random_init", "pixels")
THUMBNAIL = 16  # pixels a side of the raw-pixel baseline
BATCH = 8  # clips a forward pass: few enough for a CPU's cache
CHUNK = 8 * BATCH  # clips whose frames and tokens are in memory at a time

Read = Callable[[Tensor], Tensor]


class Frames(Protocol):
    """Frames (B, T, 3, h, w) uint8 that are read or made when they are indexed; a tensor is one of these."""

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, ids: Tensor, /) -> Tensor: ...


def make_encoder(maker: str, run: str, seed: int, image: tuple[str, str] = ("", "hub")) -> Encoder | ImageEncoder:
    """The target encoder of a pre-training run, or the same architecture at random init (`seed`), frozen.

    The maker `IMAGE` is an image encoder of timm instead: `image` is its name and weights, as `build_image_encoder`
    takes; for EfficientNet-Lite0 the weights come from a package (see `jepa.probes.image_baseline`).
    """
    if maker == IMAGE:
        if image == (image_baseline.NAME, "hub"):
            return image_baseline.build_efficientnet()
        return build_image_encoder(*image, seed)
    encoder = build_encoder(encoder_config(run), seed) if maker == "random_init" else load_encoder(run, "target")
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode(encoder: Encoder | ImageEncoder, frames: Tensor) -> Tensor:
    """uint8 frames (B, T, 3, h, w) -> float32 tokens (B, K, D), K = t·N, on the CPU; computed on a GPU if any."""
    encoder = encoder.to(_device())
    return torch.cat([encoder(normalize(x.to(_device()))).float().cpu() for x in frames.split(BATCH)])


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"  # the process's own GPU: see `pool.open_pool`


def cached_tokens(
    cache: Path,
    encoder: Encoder | ImageEncoder,
    clips_file: Path,
    frames: Frames,
    part: str = "",
    share: tuple[int, int] = (0, 1),
    plain: tuple[Frames, Store] | None = None,
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
    store: Store, frames: Frames, read: Read, share: tuple[int, int] = (0, 1), plain: tuple[Frames, Store] | None = None
) -> None:
    """Write what `read` makes of frames (B, T, 3, h, w) into the rows that are missing of this process's `share`.

    The share is (rank, processes). `plain` are frames (B, …) whose tokens are in a store already: clips that are the
    same there are copied.
    """
    rank, world = share
    todo = torch.arange(len(frames)).tensor_split(world)[rank]
    todo = todo[torch.isin(todo, store.missing())]
    for ids in todo.split(CHUNK) if len(todo) else ():
        own, same = frames[ids], torch.zeros(len(ids), dtype=torch.bool)
        if plain is not None and plain[0].shape == frames.shape:
            same = (plain[0][ids] == own).flatten(1).all(1)
            store.write(ids[same], plain[1].values[ids[same]])
        if not same.all():
            store.write(ids[~same], read(own[~same]))


def pixel_tokens(frames: Tensor, patch: int, tubelet: int) -> Tensor:
    """uint8 frames (B, T, 3, h, w) -> the normalised pixels of each tubelet patch (B, K, 3·tubelet·p·p)."""
    return rearrange(
        normalize(frames),
        "b (t tt) c (h ph) (w pw) -> b (t h w) (tt c ph pw)",
        tt=tubelet,
        ph=patch,
        pw=patch,
    )


@torch.no_grad()
def narrowed(frames: Tensor, patch: int, tubelet: int, axes: Tensor) -> Tensor:
    """Pixel tokens of uint8 frames (B, T, 3, h, w) along axes (D, count): (B, K, count), on the CPU."""
    axes = axes.to(_device())
    return torch.cat([(pixel_tokens(x.to(_device()), patch, tubelet) @ axes).cpu() for x in frames.split(BATCH)])


def pixel_axes(frames: Frames, rows: Tensor, patch: int, tubelet: int, count: int) -> Tensor:
    """`principal_axes` of the pixel tokens of some rows of frames (B, T, 3, h, w), a few at a time."""
    chunks = (pixel_tokens(frames[ids].to(_device()), patch, tubelet) for ids in rows.split(BATCH))
    return principal_axes(chunks, count)


def principal_axes(chunks: Iterable[Tensor], count: int) -> Tensor:
    """The `count` directions (D, count) in which tokens, chunks (B, K, D), vary most; all D where there are no more.

    The largest number of each is above 0: an eigenvector's sign is arbitrary, and machines differ in it.
    """
    number, total, products = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for chunk in chunks:
        flat = chunk.flatten(0, 1).double()
        number, total, products = number + len(flat), total + flat.sum(0).cpu(), products + (flat.T @ flat).cpu()
    scatter = products - torch.outer(total, total) / number
    axes = torch.linalg.eigh(scatter).eigenvectors.flip(1)[:, :count]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return (axes * largest.sign()).float().contiguous()


def thumbnails(frames: Tensor) -> Tensor:
    """uint8 frames (B, T, 3, h, w) -> all of them at 16×16, flattened (B, T·3·256)."""
    small = F.interpolate(normalize(frames).flatten(0, 1), (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    return small.view(len(frames), -1)


def view(name: str, tokens: Tensor | Rows, frames: Tensor | Rows, maker: str) -> Tensor | Rows:
    """What a probe reads of tokens (B, K, D): `tokens` themselves, `pooled` (B, D) or `flat` (B, ·), float32.

    Tokens that lie on disk stay there. Flattened pixel tokens would be the whole clip; thumbnails of `frames`, the
    usual raw-pixel baseline, stand in.
    """
    if name == "tokens":
        return tokens
    if name == "flat" and maker == "pixels":
        return torch.cat([thumbnails(chunk) for chunk in frames.split(CHUNK)])
    chunks = (chunk.float() for chunk in tokens.split(CHUNK))
    return torch.cat([chunk.mean(1) if name == "pooled" else chunk.flatten(1) for chunk in chunks])
