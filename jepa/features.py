"""Features of whole videos by any encoder: a window slides over the film, and few frames are in memory at a time."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from jepa.config import ConfigError
from jepa.data.errors import DataError
from jepa.data.stream import film_of, stream
from jepa.data.transforms import normalize, resize
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder, whole_patches

BATCH = 4  # windows a forward pass
LEVELS = ("pooled", "tokens")


@dataclass(frozen=True)
class Sliding:
    """Windows of `window` frames, one every `stride` frames, of a film at `fps` frames a second (0: every frame)."""

    window: int = 16
    stride: int = 16
    fps: float = 0.0


@dataclass(frozen=True)
class Window:
    """Frames (T, 3, h, w) uint8, and the times (s) of those that are no repeats of the last one."""

    frames: Tensor
    times: tuple[float, ...]


def windows(shown: Iterable[tuple[float, Tensor]], sliding: Sliding) -> Iterator[Window]:
    """Windows over (seconds, frame (3, h, w)), until one reaches the end; the last frame fills up what it lacks.

    Never more than `sliding.window` frames are held.
    """
    held: deque[tuple[float, Tensor]] = deque(maxlen=sliding.window)
    start, count, done = 0, 0, 0  # of the next window; frames seen; frames that some window has shown
    for count, item in enumerate(shown, start=1):
        held.append(item)
        if count == start + sliding.window:
            yield _window(list(held), sliding.window)
            start, done = start + sliding.stride, count
    if done < count and start < count:
        yield _window(list(held)[start - count :], sliding.window)


def encoded(
    path: Path, encoder: Encoder | ImageEncoder, sliding: Sliding, every: int = 1
) -> Iterator[tuple[Window, Tensor]]:
    """(window, tokens (K, D) float32 on the CPU) over a video file, where the encoder is; `every`: only each n-th.

    The whole picture is shown, not a square of it: its short side becomes the encoder's own, the other keeps the
    ratio to whole patches.

    Raises:
        DataError: the video cannot be read, is cut off, or its pictures change their shape.
    """
    device = next(encoder.parameters()).device
    chosen = islice(windows(_resized(path, encoder, sliding.fps), sliding), 0, None, every)
    while batch := list(islice(chosen, BATCH)):
        clips = torch.stack([window.frames for window in batch]).to(device)
        with torch.no_grad():
            tokens = encoder(normalize(clips)).float().cpu()
        yield from zip(batch, tokens, strict=True)


def check_sliding(sliding: Sliding, encoder: Encoder | ImageEncoder) -> None:
    """Raises ConfigError for windows that the encoder cannot take."""
    tubelet = encoder.config.tubelet
    if sliding.window % tubelet or sliding.window < 1:
        raise ConfigError(f"--window {sliding.window}: this encoder takes frames in groups of {tubelet}")
    if sliding.stride < 1 or sliding.fps < 0:
        raise ConfigError(f"--stride {sliding.stride}, --fps {sliding.fps}: must be at least 1, and not below 0")


def extract(
    videos: Sequence[Path],
    encoder: Encoder | ImageEncoder,
    out: Path,
    level: str,
    sliding: Sliding,
    source: str,
    progress: Callable[[Path, float, int], None] = lambda video, share, rows: None,
) -> dict[Path, str]:
    """Write the features of all videos to `out`; returns those that cannot be used, with the reason.

    A .safetensors file holds, by the video's path, (W, D) `pooled` or (W, K, D) `tokens` of its W windows, and under
    PATH:seconds (W, 2) when the first and the last frame of each is shown. A .npy file holds the first for one video.
    `progress` is told a video, the share of it that is done, and its windows so far.

    Raises:
        ConfigError: options that do not go together.
        DataError: none of the videos can be used.
    """
    check_sliding(sliding, encoder)
    if level not in LEVELS:
        raise ConfigError(f"--level {level}: must be {' or '.join(LEVELS)}")
    if out.suffix not in (".safetensors", ".npy") or (out.suffix == ".npy" and len(videos) > 1):
        raise ConfigError(f"--out {out}: must end with .safetensors, or with .npy for one video")
    out.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    bad: dict[Path, str] = {}
    with TemporaryDirectory(dir=out.parent, prefix=".features-") as spool:
        for i, video in enumerate(dict.fromkeys(videos)):
            try:
                about = max(1, film_of(video, sliding.fps).frames)
                rows = _rows(encoded(video, encoder, sliding), level)
                tally = _tally(rows, lambda n, v=video, a=about: progress(v, min(1.0, n * sliding.stride / a), n))
                tensors |= _spooled(tally, Path(spool) / str(i), video.as_posix())
            except (DataError, OSError) as error:
                bad[video] = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if not tensors:
            first, reason = next(iter(bad.items()))
            raise DataError(f"{first}: {reason}" + f" (and {len(bad) - 1} more that cannot be used)" * (len(bad) > 1))
        _write(out, tensors, {"encoder": source, "level": level, "sliding": json.dumps(asdict(sliding))})
    return bad


def _resized(path: Path, encoder: Encoder | ImageEncoder, fps: float) -> Iterator[tuple[float, Tensor]]:
    """(seconds, frame (3, h, w) uint8) of a video, all of them as large as the first one becomes."""
    first, config = None, encoder.config
    for time, pixels in stream(path, fps):
        height, width = pixels.shape[:2]
        shape = whole_patches(height, width, config.size, config.patch)
        first = first or (shape, f"{width}×{height}")
        if shape != first[0]:
            raise DataError(
                f"its pictures change from {first[1]} to {width}×{height} px at {time:.2f} s: cut it or re-encode it"
            )
        yield time, resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], *shape)[0]


def _window(held: list[tuple[float, Tensor]], length: int) -> Window:
    times, frames = zip(*held, strict=True)
    return Window(torch.stack([*frames, *[frames[-1]] * (length - len(frames))]), times)


def _rows(found: Iterable[tuple[Window, Tensor]], level: str) -> Iterator[tuple[Tensor, tuple[float, float]]]:
    for window, tokens in found:
        yield tokens.mean(0) if level == "pooled" else tokens, (window.times[0], window.times[-1])


def _tally(rows: Iterable, tell: Callable[[int], None]) -> Iterator:
    for count, row in enumerate(rows, start=1):
        yield row
        tell(count)


def _spooled(rows: Iterable[tuple[Tensor, tuple[float, float]]], path: Path, name: str) -> dict[str, Tensor]:
    """Features as they come, to a file that the tensors then look into: a long film's tokens outgrow the memory."""
    seconds, shape = [], torch.Size()
    with path.open("wb") as file:
        for features, span in rows:
            features.numpy().tofile(file)
            seconds.append(span)
            shape = features.shape
    stored = torch.from_numpy(np.memmap(path, np.float32, "r+", shape=(len(seconds), *shape)))
    return {name: stored, f"{name}:seconds": torch.tensor(seconds, dtype=torch.float32)}


def _write(out: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    partial = out.with_name(out.name + ".partial")
    if out.suffix == ".safetensors":
        save_file(tensors, partial, metadata=metadata)
    else:
        with partial.open("wb") as file:
            np.save(file, next(iter(tensors.values())).numpy())
    partial.replace(out)
