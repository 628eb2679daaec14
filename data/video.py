"""Check a video or an image before it is packed: whole, decodable, and of what size and rate."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.packets import decode_packets, frame_numbers, frame_rotation, open_video, read_packets
from jepa.data.stills import image_pixels, image_rotation, is_image, open_image

if TYPE_CHECKING:
    from av.packet import Packet

LOST_SECONDS = Fraction(1, 4)  # a Matroska file may end this much before the duration it declares

BARE_STREAMS = ("h264", "hevc", "mpegvideo", "m4v", "mjpeg")  # of them FFmpeg makes up the rate


@dataclass(frozen=True)
class VideoInfo:
    """What a checked video has: frames, frames per second, pixels as shown.

    The stored pictures are upright when turned by `rotation` (0, 90, 180 or 270) degrees clockwise. `times`
    (frames,), float64, are seconds from the first frame where the frame rate varies, None where it does not; `fps` is
    the mean rate then.
    """

    frames: int
    fps: float
    width: int
    height: int
    rotation: int = 0
    times: np.ndarray | None = None


def inspect(data: bytes, *, to_transcode: bool = False) -> VideoInfo:
    """Check that a video's or an image's bytes are whole and can be decoded; an image is one frame at 1 fps.

    The declared size is looked at before a frame is decoded. `to_transcode` allows what encoding anew mends.

    Raises:
        DataError: with the reason why not (empty, not a video, audio only, cut off, too large, ...).
    """
    import av

    if not data:
        raise DataError("empty file")
    if is_image(data):
        return _inspect_image(data)
    try:
        with open_video(data) as container:
            packets = read_packets(container)
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            if container.format.name in BARE_STREAMS:
                raise DataError("no frame rate: a bare stream; put it into an MP4 file")
            _check_whole(data, len(packets), stream.frames)
            first = next(decode_packets(packets), None)
        hidden = sum(packet.is_discard for packet in packets)
        if hidden and not to_transcode:
            raise DataError(f"{hidden} frames are hidden by an edit list; encode it anew")
        if first is None:
            raise DataError("no frames")
        fps, times = _rate(packets, rate)
    except av.error.FFmpegError as error:
        raise DataError(_why_unreadable(data, error.strerror)) from error
    frames = len(packets) - hidden
    height, width = decode(data, [frames - 1]).shape[1:3]  # the first is decoded already
    return VideoInfo(frames, fps, width, height, frame_rotation(first), times)


def _inspect_image(data: bytes) -> VideoInfo:
    image = open_image(data)
    height, width = image_pixels(image).shape[:2]
    rotation = image_rotation(image)  # in some files it lies behind the pixels
    return VideoInfo(1, 1.0, *((height, width) if rotation % 180 else (width, height)), rotation)


def _check_whole(data: bytes, frames: int, declared: int) -> None:
    """MP4 and AVI files say how many frames they have, others only how long they are, with their sound."""
    import av

    with open_video(data, ignore_edits=True) as container:
        if declared and frames < declared:  # the end of the file may be gone, or an edit list hides some
            frames = len(read_packets(container))
            if frames < declared:
                raise DataError(f"truncated: {frames} of {declared} frames are there")
        elif not declared:
            packets = [p for p in container.demux() if p.size and not p.is_corrupt and p.pts is not None]
            end = max(((p.pts + (p.duration or 0)) * p.time_base for p in packets), default=Fraction(0))
            duration = Fraction(container.duration or 0, av.time_base)
            if end + LOST_SECONDS < duration:
                raise DataError(f"truncated: {float(end):.2f} of {float(duration):.2f} seconds are there")


def _rate(packets: list["Packet"], declared: Fraction | None) -> tuple[float, np.ndarray | None]:
    """Frames per second, and the times of frames (s) where they are not even."""
    numbers = frame_numbers(packets)
    if not numbers or len(numbers) < 2:
        if not declared:
            raise DataError("no frame rate")
        return float(declared), None
    ticks = np.fromiter(numbers, float)
    times = (ticks - ticks[0]) * float(packets[0].time_base)
    mean = (len(times) - 1) / times[-1]
    for fps in (float(declared or mean), mean):
        if np.abs(times * fps - np.arange(len(times))).max() <= 0.5:  # half a frame
            return fps, None
    return mean, times


def _why_unreadable(data: bytes, message: str | None) -> str:
    if b"\0" not in data[:4096]:
        return "not a video (looks like text)"
    if data[4:8] == b"ftyp" and b"moov" not in data:
        return "truncated: an MP4 file without its index (moov)"
    return f"not a readable video: {message}"
