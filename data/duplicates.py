"""Find videos that look the same: a hash of their looks that survives re-encoding and resizing."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from jepa.data.decode import decode
from jepa.data.transforms import resize
from jepa.data.video import VideoInfo

MOMENTS = (0.1, 0.5, 0.9)  # of the video's length
BITS = len(MOMENTS) * 64
BANDS = 8  # two hashes that differ in fewer bits than this agree in one band
CLOSE = BANDS - 1  # bits by which near-duplicates may differ


def looks(data: bytes, info: VideoInfo) -> str:
    """The hash of a video as 48 hex digits: whether brightness rises from left to right, at 8x8 places of 3 frames."""
    ids = [int(moment * info.frames) for moment in MOMENTS]
    frames = torch.from_numpy(decode(data, ids, rotation=info.rotation)).permute(0, 3, 1, 2)
    grey = resize(frames, 8, 9).float().mean(1)  # (3, 8, 9)
    return np.packbits((grey.diff(dim=-1) > 0).numpy()).tobytes().hex()


def near_duplicates(hashes: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """For (key, hash) in order: (key, the earlier key that it repeats), of those that repeat one.

    Hashes that differ in at most `CLOSE` bits agree in at least one of `BANDS` bands, so only those are compared.
    """
    seen: dict[tuple[int, str], list[tuple[str, int]]] = defaultdict(list)
    width = BITS // 4 // BANDS
    for key, digest in hashes:
        bands = [(b, digest[b * width : (b + 1) * width]) for b in range(BANDS)]
        value = int(digest, 16)
        earlier = (other for band in bands for other in seen[band])
        first = next((name for name, other in earlier if (value ^ other).bit_count() <= CLOSE), None)
        if first is not None:
            yield key, first
        else:
            for band in bands:
                seen[band].append((key, value))
