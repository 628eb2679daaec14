"""Encode a video anew for packing: smaller, upright, with cheap access to single frames, at one rate if wanted."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jepa.data.decode import JPEG_FRAMES, decode
from jepa.data.errors import DataError
from jepa.data.packets import decode_packets, open_video, read_packets
from jepa.data.stills import SUFFIXES, is_image, open_image
from jepa.data.video import VideoInfo, inspect

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

JPEG_QUALITY = 90
# Time in the stream's ticks, and upright planes Y (h, w), U and V (h / 2, w / 2) in the matrix of BT.601: FFmpeg's way
# through RGB would darken them by a level or two.
Pictures: TypeAlias = Iterator[tuple[int, list[np.ndarray]]]
TICK = Fraction(1, 90000)  # s, the unit of time in files of varying rate
ROUNDING = Fraction(1, 1000)  # s; containers round times, Matroska to milliseconds


@dataclass(frozen=True)
class Encoding:
    """How `transcode` encodes: H.264 makes small files, JPEG frames are decoded fastest.

    Raises:
        DataError: a value that cannot be used.
    """

    codec: str = "h264"  # or "jpeg"
    short_side: int = 256  # pixels at most on the shorter side; 0 keeps the size
    gop: int = 16  # frames from one key frame to the next, at most; JPEG frames are all key frames
    fps: float = 0.0  # frames per second; 0 keeps every frame at its time

    def __post_init__(self) -> None:
        if self.codec not in ("h264", "jpeg"):
            raise DataError(f"codec: '{self.codec}' is not there; use 'h264' or 'jpeg'")
        if self.short_side < 0:
            raise DataError(f"short_side: {self.short_side} is negative; use pixels, or 0 to keep the size")
        if self.gop < 1:
            raise DataError(f"gop: {self.gop} is not positive; use the frames from one key frame to the next")
        if not (math.isfinite(self.fps) and self.fps >= 0):
            raise DataError(f"fps: {self.fps} is no rate; use frames per second, or 0 to keep every frame")


def transcode(data: bytes, encoding: Encoding, info: VideoInfo | None = None) -> tuple[bytes, str]:
    """The video in MP4 as `encoding` says, upright, and the file's suffix; never enlarged.

    The same input gives the same bytes. With `fps`, frame k is the last one shown at time k / fps. An image larger
    than `short_side` becomes a JPEG of that size, another one is kept. `info` is what `inspect` found, if it is known.

    Raises:
        DataError: the input cannot be used, as `inspect` finds, or cannot be decoded.
    """
    import av

    info = info or inspect(data, to_transcode=True)
    factor = min(1.0, encoding.short_side / min(info.width, info.height)) if encoding.short_side else 1.0
    if is_image(data):
        return (data, SUFFIXES[open_image(data).format]) if factor == 1 else (_small_jpeg(data, factor), "jpg")
    size = tuple(_even(side, factor) for side in (info.width, info.height))
    rate = Fraction(encoding.fps or info.fps).limit_denominator(1001)
    varies = info.times is not None and not encoding.fps
    out = io.BytesIO()
    try:
        with av.open(out, "w", format="mp4") as target:
            stream = target.add_stream("libx264" if encoding.codec == "h264" else "mjpeg", rate=rate)
            stream.width, stream.height = size
            stream.time_base = stream.codec_context.time_base = TICK if varies else 1 / rate
            schedule = _schedule(info, encoding.fps)
            if encoding.codec == "h264":
                _write_h264(target, stream, _pictures(data, info, size, schedule, "MPEG"), encoding.gop)
            else:
                _write_jpegs(target, stream, _pictures(data, info, size, schedule, "JPEG"))
    except av.error.FFmpegError as error:
        raise DataError(f"cannot be encoded anew: {error.strerror}") from error
    return out.getvalue(), "mp4"


def _even(side: int, factor: float) -> int:
    """The nearest even number of pixels that enlarges nothing; 4:2:0 colour, in JPEG too, needs even sides."""
    return max(2, min(2 * round(side * factor / 2), side // 2 * 2))


def _schedule(info: VideoInfo, fps: float) -> list[Sequence[int]]:
    """For every frame of the input the times at which the output shows it, in the output's ticks."""
    if not fps and info.times is None:
        return [(i,) for i in range(info.frames)]
    if not fps:
        return [(round(time / TICK),) for time in info.times]
    times = np.arange(info.frames) / info.fps if info.times is None else info.times
    edges = np.append(times, times[-1] + 1 / info.fps)
    ticks = np.maximum(np.ceil((edges - ROUNDING) * fps), [0] * info.frames + [1]).astype(int).tolist()
    return [range(*pair) for pair in pairwise(ticks)]


def _pictures(
    data: bytes, info: VideoInfo, size: tuple[int, int], schedule: list[Sequence[int]], colours: str
) -> Pictures:
    """The frames of the output; `colours` is FFmpeg's name of the range of values."""
    width, height = reversed(size) if info.rotation % 180 else size
    frames = 0
    with open_video(data) as source:
        for frame in decode_packets(read_packets(source)):
            if frames < info.frames and schedule[frames]:
                small = frame.reformat(
                    width, height, "yuv420p", interpolation="AREA", dst_colorspace="ITU601", dst_color_range=colours
                )
                planes = [np.frombuffer(p, np.uint8).reshape(p.height, -1)[:, : p.width] for p in small.planes]
                planes = [np.ascontiguousarray(np.rot90(plane, -info.rotation // 90)) for plane in planes]
                yield from ((tick, planes) for tick in schedule[frames])
            frames += 1
    if frames != info.frames:
        raise DataError(f"{frames} of {info.frames} frames can be decoded")


def _write_h264(target: "OutputContainer", stream: "VideoStream", pictures: Pictures, gop: int) -> None:
    import av

    stream.pix_fmt = "yuv420p"
    # x264's bytes depend on the number of threads, and its mbtree differs from run to run
    options = {"threads": "1", "x264-params": "mbtree=0"}
    stream.options = {"g": str(gop), "crf": "20", "preset": "veryfast", **options}
    tick = stream.codec_context.time_base
    for time, planes in pictures:
        rows = np.concatenate([plane.ravel() for plane in planes]).reshape(-1, stream.width)
        frame = av.VideoFrame.from_ndarray(rows, format="yuv420p")
        frame.pts, frame.time_base = time, tick
        target.mux(stream.encode(frame))
    target.mux(stream.encode(None))


def _write_jpegs(target: "OutputContainer", stream: "VideoStream", pictures: Pictures) -> None:
    import av
    import simplejpeg

    target.metadata["comment"] = JPEG_FRAMES
    stream.pix_fmt = "yuvj420p"
    tick = stream.codec_context.time_base
    for time, planes in pictures:
        packet = av.Packet(simplejpeg.encode_jpeg_yuv_planes(*planes, quality=JPEG_QUALITY))
        packet.stream, packet.is_keyframe = stream, True
        packet.pts = packet.dts = time
        packet.time_base = tick
        target.mux(packet)


def _small_jpeg(data: bytes, factor: float) -> bytes:
    import simplejpeg
    from PIL import Image

    image = Image.fromarray(decode(data)[0])
    size = tuple(_even(side, factor) for side in image.size)
    small = np.asarray(image.resize(size, Image.Resampling.BOX))
    return simplejpeg.encode_jpeg(small, quality=JPEG_QUALITY, colorsubsampling="420")
