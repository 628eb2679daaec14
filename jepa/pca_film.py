"""A film of what an encoder tells apart: the first three principal components of its tokens as red, green and blue."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from torch import Tensor

from jepa.data.errors import DataError
from jepa.data.show import CRF
from jepa.data.stream import film_of
from jepa.features import Sliding, Window, check_sliding, encoded
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder

if TYPE_CHECKING:
    from sklearn.decomposition import IncrementalPCA

SAMPLED = 32  # windows that the components are fitted to, spread over the film
SPREAD = 2.5  # standard deviations from the middle of a colour to its ends
SIDE = 256  # pixels; smaller pictures are shown in whole multiples of their size


def write_pca_film(path: Path, video: Path, encoder: Encoder | ImageEncoder, sliding: Sliding) -> int:
    """Write the video beside its tokens as an MP4 film, at the video's aspect; returns the number of frames.

    The colours mean the same in every frame of the film: one set of components is fitted to all tokens of windows
    spread over it (all of them in a short one), then every token is drawn. Windows do not overlap, whatever the
    stride: the film is decoded twice, and nothing of it is kept.

    Raises:
        DataError: the video cannot be read, or the film not written.
    """
    sliding = replace(sliding, stride=sliding.window)
    check_sliding(sliding, encoder)
    film = film_of(video, sliding.fps)
    pca = fit_components(video, encoder, sliding, max(1, film.frames // sliding.window // SAMPLED))
    found = encoded(video, encoder, sliding)
    return _write(path, (p for window, tokens in found for p in pictures(window, tokens, encoder, pca)), film.fps)


def fit_components(video: Path, encoder: Encoder | ImageEncoder, sliding: Sliding, every: int = 1) -> "IncrementalPCA":
    """The first three components of the tokens of each `every`-th window; memory does not grow with the film."""
    from sklearn.decomposition import IncrementalPCA

    pca = IncrementalPCA(3)
    for _, tokens in encoded(video, encoder, sliding, every):
        pca.partial_fit(tokens.double().numpy())
    return pca


def colours(tokens: Tensor, pca: "IncrementalPCA") -> np.ndarray:
    """Tokens (K, D) -> (K, 3) uint8: the mean token is grey, `SPREAD` deviations along a component reach the end."""
    scale = SPREAD * np.sqrt(pca.explained_variance_).clip(1e-12)
    share = 0.5 + 0.5 * pca.transform(tokens.double().numpy()) / scale
    return np.rint(255 * share.clip(0, 1)).astype(np.uint8)


def pictures(
    window: Window, tokens: Tensor, encoder: Encoder | ImageEncoder, pca: "IncrementalPCA"
) -> Iterator[np.ndarray]:
    """(h, 2·w, 3) uint8 for each frame of a window that is no repeat: what was seen, and its tokens' colours."""
    length, _, height, width = window.frames.shape
    grid = encoder.grid(length, height, width)
    rgb = rearrange(colours(tokens, pca), "(t r c) rgb -> t r c rgb", t=grid[0], r=grid[1])
    factor = -(-SIDE // min(height, width))
    factor += factor * min(height, width) % 2  # H.264 wants even sides
    for i in range(len(window.times)):
        seen = window.frames[i].permute(1, 2, 0).numpy()
        drawn = rgb[i * grid[0] // length]
        cell = height // grid[1], width // grid[2]
        both = np.concatenate((seen, drawn.repeat(cell[0], 0).repeat(cell[1], 1)), axis=1)
        yield both.repeat(factor, 0).repeat(factor, 1)


def _write(path: Path, shown: Iterator[np.ndarray], fps: float) -> int:
    """Pictures (h, w, 3) as they come, to H.264; the file appears whole or not at all."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    partial, count = path.with_name(path.name + ".partial"), 0
    try:
        with av.open(str(partial), "w", format="mp4") as file:
            stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.pix_fmt, stream.options = "yuv420p", {"crf": str(CRF)}
            for count, picture in enumerate(shown, start=1):
                if count == 1:
                    stream.height, stream.width = picture.shape[:2]
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode(None))
        partial.replace(path)
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: the film cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return count
