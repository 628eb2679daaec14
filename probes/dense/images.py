"""Images with a label map each: files of the same name in two folders, cut to squares of one size."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.data import stills, transforms
from jepa.data.errors import DataError
from jepa.data.npy import read_npy
from jepa.probes.kinds.base import ProbeError

IMAGES, MAPS = (".jpg", ".jpeg", ".png", ".webp", ".bmp"), (".png", ".npy")


@dataclass(frozen=True)
class Pairs:
    """Images and their label maps; those of one sub-folder (a scene, a film) are a group, others are one each."""

    images: tuple[Path, ...]
    maps: tuple[Path, ...]
    groups: Tensor  # (B) int64
    digests: tuple[str, ...]  # sha256 of each image


def find_pairs(images: str, maps: str) -> Pairs:
    """Every image below the folder `images`, with the map at the same place below `maps`, whatever their suffixes.

    Raises:
        ProbeError: no such folder, no image, or an image without a map.
    """
    for folder in (images, maps):
        if not Path(folder).is_dir():
            raise ProbeError(f"no such folder: {folder}")
    found = sorted(path for path in Path(images).rglob("*") if path.suffix.lower() in IMAGES)
    if not found:
        raise ProbeError(f"{images}: no image in it ({', '.join(IMAGES)})")
    stems = [path.relative_to(images).with_suffix("") for path in found]
    known = {
        path.relative_to(maps).with_suffix(""): path for path in Path(maps).rglob("*") if path.suffix.lower() in MAPS
    }
    if lacking := [stem for stem in stems if stem not in known]:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise ProbeError(f"{Path(maps) / lacking[0]}.png (or .npy) is missing, the label map of an image{more}")
    names = [str(stem if stem.parent == Path() else stem.parent) for stem in stems]
    groups = torch.from_numpy(np.unique(names, return_inverse=True)[1])
    with ThreadPoolExecutor() as pool:
        digests = tuple(pool.map(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), found))
    return Pairs(tuple(found), tuple(known[stem] for stem in stems), groups, digests)


def read_images(paths: Sequence[Path], size: int) -> Tensor:
    """Centred squares of images, upright: (B, 1, 3, size, size) uint8, clips of one frame.

    Raises:
        ProbeError: an image cannot be read; names it.
    """
    images = [_image(path) for path in paths]
    return torch.stack([transforms.cut(x, transforms.centre_crop(*x.shape[-2:]), size) for x in images])


def read_maps(pairs: Pairs, size: int, depth_unit: float) -> Tensor:
    """Label maps (B, size, size), cut as the images are, by the nearest pixel: classes uint8, or depths float32 in m.

    `depth_unit` is how many metres 1 in a PNG stands for, and 0 where maps hold classes; .npy files are in metres.

    Raises:
        ProbeError: a map cannot be read, is not one number a pixel, or has another shape than its image.
    """
    with ThreadPoolExecutor() as pool:
        maps = pool.map(lambda image, path: _map(image, path, size, depth_unit), pairs.images, pairs.maps)
        return torch.stack(list(maps))


def _image(path: Path) -> Tensor:
    """(1, 3, h, w) uint8."""
    try:
        image = stills.open_image(path.read_bytes())
        pixels = np.rot90(stills.image_pixels(image), -stills.image_rotation(image) // 90)
    except (DataError, OSError) as error:
        raise ProbeError(f"{path}: {error}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def _map(image: Path, path: Path, size: int, depth_unit: float) -> Tensor:
    values = _numbers(path)
    with stills.open_image(image.read_bytes()) as picture:
        turned = stills.image_rotation(picture) % 180
        shape = picture.size if turned else picture.size[::-1]
    if values.shape != shape:
        raise ProbeError(f"{path}: its shape is {values.shape}, that of its image {shape} (rows, columns)")
    crop = transforms.centre_crop(*shape)
    box = values[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if depth_unit:
        box = box.astype(np.float32) * (depth_unit if path.suffix.lower() == ".png" else 1.0)
    elif box.min() < 0 or box.max() > 255 or not np.issubdtype(box.dtype, np.integer):
        raise ProbeError(f"{path}: a map of classes holds whole numbers from 0 to 255 (255: no label)")
    resized = F.interpolate(torch.from_numpy(box.astype(np.float32))[None, None], (size, size), mode="nearest-exact")
    return resized[0, 0] if depth_unit else resized[0, 0].to(torch.uint8)


def _numbers(path: Path) -> np.ndarray:
    """(h, w): what a PNG or a .npy file holds, a palette's numbers and not its colours."""
    from PIL import Image

    try:
        if path.suffix.lower() == ".npy":
            return read_npy(path.read_bytes())
        with Image.open(path, formats=["PNG"]) as image:
            found = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ProbeError(f"{path}: not a readable label map: {error}") from error
    if found.ndim != 2:
        raise ProbeError(f"{path}: a colour picture; a label map has one channel, a number for each pixel")
    return found
