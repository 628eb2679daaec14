"""A few frames out of a long video file: only what lies around them is read, however many gigabytes it has."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.decode import upright
from jepa.data.errors import DataError
from jepa.data.packets import CONTAINERS, MAX_PIXELS, check_size, frame_rotation

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

EARLY = 0.1  # of a frame's time that one may come early and still count as in time: containers round


def excerpt(path: Path, seconds: Sequence[float]) -> np.ndarray:
    """The frame that is shown at each of these times: (T, h, w, 3) uint8 RGB, upright.

    Times are seconds from the first frame, in any order; before it is the first frame. Decoding starts at the last key
    frame before the earliest.

    Raises:
        DataError: the file cannot be read, or ends before the latest.
    """
    import av

    options = {"format_whitelist": CONTAINERS, "max_pixels": str(MAX_PIXELS)}
    try:
        with av.open(str(path.resolve()), "r", options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError("no video stream" + " (audio only)" * bool(container.streams.audio))
            context = container.streams.video[0].codec_context
            check_size(context.width, context.height)
            context.thread_count = 1  # more threads cost more CPU for the same frames
            return _chosen(container, np.maximum(seconds, 0.0))
    except av.error.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from error


def _chosen(container: "InputContainer", seconds: np.ndarray) -> np.ndarray:
    from av.video.reformatter import VideoReformatter

    video = container.streams.video[0]
    distance = 1 / float(video.average_rate or video.guessed_rate or 1)
    times, places = np.unique(seconds, return_inverse=True)
    wanted = times + EARLY * distance
    to_rgb = VideoReformatter()  # one for all frames: to set it up costs as much as to use it
    found: list[np.ndarray] = []
    for frame, until in _lasting(_from(container, float(wanted[0])), (1 + EARLY) * distance):
        if count := int(np.searchsorted(wanted, until)) - len(found):
            pixels = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
            found += [upright(pixels[None], frame_rotation(frame))[0]] * count
        if len(found) == len(wanted):
            return np.stack(found)[places]
    raise DataError(f"ends before {times[-1]:.2f} s")


def _lasting(frames: Iterable[tuple[float, "VideoFrame"]], distance: float) -> Iterator[tuple["VideoFrame", float]]:
    """(frame, second at which the next one is shown); the last lasts for `distance`."""
    last, now = None, 0.0
    for now, frame in frames:
        if last is not None:
            yield last, now
        last = frame
    if last is not None:
        yield last, now + distance


def _from(container: "InputContainer", second: float) -> "Iterator[tuple[float, VideoFrame]]":
    """(seconds from the first frame, frame) from one that is shown at `second` or earlier on."""
    video = container.streams.video[0]
    assert video.time_base is not None
    start = video.start_time or 0
    for target in (start + int(second / video.time_base), start):  # where the first lands too late, from the start
        container.seek(target, stream=video, backward=True)
        frames = ((float((f.pts - start) * video.time_base), f) for f in container.decode(video) if f.pts is not None)
        first = next(frames, None)
        if first and (first[0] <= second or target == start):
            yield first
            yield from frames
            return
