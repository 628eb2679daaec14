"""Pictures and films of clips as a model sees them, and of what masks hide of them."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from einops import rearrange
from torch import Tensor

from jepa.data.clip import Clip
from jepa.data.errors import DataError

COLUMNS = 16  # frames of a clip on a sheet
SMALLEST = 128  # pixels; smaller frames are shown in whole multiples of their size
EDGE = 2  # pixels around each frame, which show whether it is a repeat
GAP = 8  # pixels between clips
CAPTION = 18  # pixels above each row
WHITE, REPEATED, INK = (255, 255, 255), (240, 138, 36), (40, 46, 50)
DARK = 0.25  # share of its brightness that a hidden pixel keeps
CRF = 16  # of H.264; lower is better and larger


def contact_sheet(clip: Clip, labels: Sequence[str], hidden: Mapping[str, Tensor] | None = None) -> np.ndarray:
    """Clips in rows, their frames in columns, at most `COLUMNS` at even distances: (H, W, 3) uint8.

    `labels` (B) stand above the clips. `hidden` holds (B, T, h, w) bool by name of a mask: below each clip comes one
    row for each mask, with hidden pixels darkened. Frames with `valid` False have an orange edge. Clips of so few
    frames that several fit into `COLUMNS` stand side by side.
    """
    length = clip.frames.shape[1]
    shown = np.linspace(0, length - 1, min(COLUMNS, length)).astype(int)
    views = _views(clip, hidden or {})
    blocks = []
    for b, label in enumerate(_with_repeats(clip, labels)):
        rows = [
            _captioned(name or label, rearrange(tiles[b, shown], "t h w rgb -> h (t w) rgb"))
            for name, tiles in views.items()
        ]
        blocks.append(np.concatenate(rows)[None])
    return _grid(blocks, COLUMNS // len(shown))[0]


def film(clip: Clip, labels: Sequence[str], hidden: Mapping[str, Tensor] | None = None) -> np.ndarray:
    """All clips at once in a grid: (T, H, W, 3) uint8, H and W even. As on a sheet, but masks are beside their clip."""
    views = _views(clip, hidden or {})
    cells = [
        np.concatenate([_captioned(name or label, tiles[b]) for name, tiles in views.items()], axis=-2)
        for b, label in enumerate(_with_repeats(clip, labels))
    ]
    return _grid(cells, math.ceil((len(cells) / len(views)) ** 0.5))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture (H, W, 3) uint8."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, format="png")


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write a film (T, H, W, 3) uint8 as H.264; H and W must be even.

    Raises:
        DataError: it cannot be encoded.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(path), "w", format="mp4") as file:
            stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            _, stream.height, stream.width, _ = frames.shape
            stream.pix_fmt, stream.options = "yuv420p", {"crf": str(CRF)}
            for frame in frames:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise DataError(
            f"{path}: a film of {frames.shape[2]}×{frames.shape[1]} px cannot be written: {error}"
        ) from error


def _views(clip: Clip, hidden: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Framed frames (B, T, h, w, 3): under "" as they are, under a mask's name with darkness over what it hides."""
    frames = rearrange(clip.frames, "b t rgb h w -> b t h w rgb").numpy()
    views = {"": frames}
    for name, mask in hidden.items():
        views[name] = np.where(mask.numpy()[..., None], (DARK * frames).astype(np.uint8), frames)
    return {name: _framed(view, clip.valid.numpy()) for name, view in views.items()}


def _framed(frames: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Frames (B, T, h, w, 3), enlarged if small, with an edge whose colour tells `valid` (B, T)."""
    zoom = max(1, SMALLEST // frames.shape[2])
    frames = frames.repeat(zoom, 2).repeat(zoom, 3)
    b, t, h, w, _ = frames.shape
    out = np.empty((b, t, h + 2 * EDGE, w + 2 * EDGE, 3), np.uint8)
    out[valid], out[~valid] = WHITE, REPEATED
    out[:, :, EDGE:-EDGE, EDGE:-EDGE] = frames
    return out


def _with_repeats(clip: Clip, labels: Sequence[str]) -> list[str]:
    counts = (~clip.valid).sum(1).tolist()
    return [label + (f" · {n} repeated" if n else "") for label, n in zip(labels, counts, strict=True)]


def _captioned(text: str, pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., h, w, 3) with `text` above them, as far as there is room."""
    from PIL import Image, ImageDraw, ImageFont

    width = pictures.shape[-2]
    strip = Image.new("RGB", (width, CAPTION), WHITE)
    ImageDraw.Draw(strip).text((EDGE, 2), text, INK, ImageFont.load_default(12))
    above = np.broadcast_to(np.asarray(strip), (*pictures.shape[:-3], CAPTION, width, 3))
    return np.concatenate([above, pictures], axis=-3)


def _grid(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Cells (t, h, w, 3) in rows of `columns`, with a gap after each: (t, H, W, 3), H and W even as H.264 asks."""
    columns = min(columns, len(cells))
    spaced = np.pad(
        np.stack(cells), ((0, -len(cells) % columns), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255
    )
    grid = rearrange(spaced, "(r c) t h w rgb -> t (r h) (c w) rgb", c=columns)
    return np.pad(grid, ((0, 0), (0, grid.shape[1] % 2), (0, grid.shape[2] % 2), (0, 0)), constant_values=255)
