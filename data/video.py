"""Check a video file before it is packed, and make a smaller one of it."""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from jepa.data.decode import decode, decode_pyav, open_video
from jepa.data.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

LOST_SECONDS = Fraction(1, 4)  # a Matroska file may end this much before the duration it declares


@dataclass(frozen=True)
class VideoInfo:
    """What a checked video has: frames, frames per second, pixels."""

    frames: int
    fps: float
    width: int
    height: int


def inspect(data: bytes, *, to_shrink: bool = False) -> VideoInfo:
    """Check that a video file's bytes are whole and can be decoded; `to_shrink` allows what `shrink` mends.

    Raises:
        DataError: with the reason why not (empty, not a video, audio only, cut off, ...).
    """
    import av

    if not data:
        raise DataError("empty file")
    try:
        with open_video(data) as container:
            if not container.streams.video:
                raise DataError("no video stream" + " (audio only)" * bool(container.streams.audio))
            stream = container.streams.video[0]
            rate, declared = stream.average_rate or stream.guessed_rate, stream.frames
            duration = Fraction(container.duration or 0, av.time_base)
            frames, hidden, end = _count(container)
        if frames < declared:
            with open_video(data, ignore_edits=True) as container:
                there, *_ = _count(container)
            if there < declared:
                raise DataError(f"truncated: {there} of {declared} frames are there")
    except av.error.FFmpegError as error:
        raise DataError(_why_unreadable(data, error.strerror)) from error
    if not declared and end + LOST_SECONDS < duration:
        raise DataError(f"truncated: {float(end):.2f} of {float(duration):.2f} seconds are there")
    if hidden and not to_shrink:
        raise DataError(f"{hidden} frames are hidden by an edit list; give a short side to encode it anew")
    frames -= hidden
    if not frames:
        raise DataError("no frames")
    if not rate:
        raise DataError("no frame rate")
    read = decode_pyav if hidden else decode  # decord takes hidden frames for others
    height, width = read(data, [0, frames - 1]).shape[1:3]
    return VideoInfo(frames, float(rate), width, height)


def _count(container: "InputContainer") -> tuple[int, int, Fraction]:
    """Whole packets of the first video stream, how many of them are hidden, the last moment (s) of all."""
    frames, hidden, end = 0, 0, Fraction(0)
    for packet in container.demux():
        if packet.size and not packet.is_corrupt:
            frames += packet.stream is container.streams.video[0]
            hidden += packet.stream is container.streams.video[0] and packet.is_discard
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
    return frames, hidden, end


def _why_unreadable(data: bytes, message: str | None) -> str:
    if b"\0" not in data[:4096]:
        return "not a video (looks like text)"
    if data[4:8] == b"ftyp" and b"moov" not in data:
        return "truncated: an MP4 file without its index (moov)"
    return f"not a readable video: {message}"


def shrink(data: bytes, short_side: int) -> bytes:
    """The same frames as H.264 in MP4 with `short_side` pixels on the shorter side, or fewer if it has fewer.

    A key frame every 16 frames keeps access to single frames cheap. The same input gives the same bytes.

    Raises:
        DataError: the video cannot be decoded.
    """
    import av
    from av.video.frame import PictureType

    out = io.BytesIO()
    try:
        with open_video(data) as source, av.open(out, "w", format="mp4") as target:
            video = source.streams.video[0]
            factor = min(1.0, short_side / min(video.width, video.height))
            rate = video.average_rate or video.guessed_rate
            stream = target.add_stream("libx264", rate=rate)
            stream.width, stream.height = (_even(n * factor) for n in (video.width, video.height))
            stream.pix_fmt = "yuv420p"
            # x264's bytes depend on the number of threads, and its mbtree differs from run to run
            options = {"threads": "1", "x264-params": "mbtree=0"}
            stream.options = {"g": "16", "crf": "20", "preset": "veryfast", **options}
            for i, frame in enumerate(source.decode(video)):
                small = frame.reformat(stream.width, stream.height, "yuv420p", interpolation="AREA")
                small.pts, small.time_base = i, 1 / rate  # frames keep their number
                small.pict_type = PictureType.NONE  # else the source dictates key frames
                target.mux(stream.encode(small))
            target.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from error
    return out.getvalue()


def _even(length: float) -> int:
    """H.264 with 4:2:0 colour needs even sides."""
    return max(2, 2 * round(length / 2))
