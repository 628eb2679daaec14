"""The frames of a video file one after another: constant memory, however long the film is."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.decode import decode, upright
from jepa.data.errors import DataError
from jepa.data.packets import CONTAINERS, MAX_PIXELS, check_size, frame_rotation
from jepa.data.stills import is_image
from jepa.data.video import BARE_STREAMS, LOST_SECONDS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

EARLY = 0.1  # of a frame's time that one may come early and still count as in time: containers round


@dataclass(frozen=True)
class Film:
    """What a video file says of itself: frames per second, and how many frames about (0: it does not say)."""

    fps: float
    frames: int


def film_of(path: Path, fps: float = 0.0) -> Film:
    """How fast and about how many frames `stream` will give.

    Raises:
        DataError: as `stream`.
    """
    if _is_image(path):
        return Film(fps or 1.0, 1)
    with _opened(path) as container:
        rate = _rate(container)
        seconds = container.duration / 1e6 if container.duration else container.streams.video[0].frames / rate
    return Film(fps or rate, round(seconds * (fps or rate)))


def stream(path: Path, fps: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds since the first frame, frame (h, w, 3) uint8 RGB, upright) in the order in which they are shown.

    `fps` > 0: the frame that is shown at each tick of that rate, also where the video's own rate varies; 0: every
    frame. An image is a video of one frame.

    Raises:
        DataError: not readable, or at its end that the file is cut off.
    """
    from av.video.reformatter import VideoReformatter

    if _is_image(path):
        yield 0.0, decode(path.read_bytes())[0]
        return
    with _opened(path) as container:
        distance = 1 / _rate(container)
        shown = _shown(container, path, distance)
        to_rgb = VideoReformatter()  # one for all frames: to set it up costs as much as to use it
        for time, frame in _at_rate(shown, fps, distance) if fps else shown:
            pixels = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
            yield time, upright(pixels[None], frame_rotation(frame))[0]


def _at_rate(
    shown: Iterable[tuple[float, "VideoFrame"]], fps: float, distance: float
) -> Iterator[tuple[float, "VideoFrame"]]:
    """The frame that is on at each tick; the last one is on for `distance` seconds."""
    tick, now, last = 0, 0.0, None
    for now, frame in shown:
        while last is not None and tick / fps + EARLY * distance < now:
            yield tick / fps, last
            tick += 1
        last = frame
    while last is not None and tick / fps + EARLY * distance < now + distance:
        yield tick / fps, last
        tick += 1


def _shown(container: "InputContainer", path: Path, distance: float) -> Iterator[tuple[float, "VideoFrame"]]:
    """(seconds, frame) of all frames that are not hidden by an edit list."""
    packets, first, count = 0, None, 0
    hidden = set()
    video = container.streams.video[0]
    for packet in container.demux(video=0):
        if packet.size and packet.is_corrupt:
            continue
        packets += packet.size > 0
        if packet.is_discard:
            hidden.add(packet.pts)
        for frame in video.codec_context.decode(packet if packet.size else None):
            if frame.pts is None or frame.pts not in hidden:
                time = count * distance if frame.pts is None else float(frame.pts * video.time_base)
                first = time if first is None else first
                count += 1
                yield time - first, frame
    _check_whole(container, path, packets)
    if not count:
        raise DataError("no frames")


def _check_whole(container: "InputContainer", path: Path, packets: int) -> None:
    """MP4 and AVI files say how many frames they have, others how long they are, with their sound."""
    import av

    declared, duration = container.streams.video[0].frames, Fraction(container.duration or 0, av.time_base)
    if packets >= declared > 0:
        return
    with _opened(path, ignore_edits=True) as again:  # an edit list may hide what is there
        there, end = 0, Fraction(0)
        for packet in again.demux():
            if packet.size and not packet.is_corrupt:
                there += packet.stream.type == "video" and packet.stream.index == again.streams.video[0].index
                end = max(end, ((packet.pts or 0) + (packet.duration or 0)) * packet.time_base)
    if there < declared:
        raise DataError(f"truncated: {there} of {declared} frames are there")
    if not declared and end + LOST_SECONDS < duration:
        raise DataError(f"truncated: {float(end):.2f} of {float(duration):.2f} seconds are there")


def _rate(container: "InputContainer") -> float:
    """Frames per second, the mean where they are not even."""
    video = container.streams.video[0]
    rate = video.average_rate or video.guessed_rate
    if not rate or container.format.name in BARE_STREAMS:  # FFmpeg makes up the rate of a bare stream
        raise DataError("no frame rate; put it into an MP4 file")
    return float(rate)


@contextmanager
def _opened(path: Path, *, ignore_edits: bool = False) -> "Iterator[InputContainer]":
    """A container with one video stream at least; what FFmpeg says against it becomes a DataError."""
    import av

    options = {
        "format_whitelist": CONTAINERS,
        "max_pixels": str(MAX_PIXELS),
        "ignore_editlist": str(int(ignore_edits)),
    }
    try:
        with av.open(str(path.resolve()), "r", options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError("no video stream" + " (audio only)" * bool(container.streams.audio))
            context = container.streams.video[0].codec_context
            check_size(context.width, context.height)
            context.options = {"max_pixels": str(MAX_PIXELS)}  # a later header may claim more than the first one
            yield container
    except av.error.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from error


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return is_image(file.read(16))
