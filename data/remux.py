"""Video files out of what is not one file per recording: a piece of a longer file, or an array of pictures."""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.errors import DataError

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"  # FFmpeg's reader of that name: a playlist would make it open other files
REORDERED = 16  # frames; no codec decodes a picture longer than this before it is shown


def cut_video(path: Path, start_s: float, end_s: float) -> bytes:
    """The frames that an MP4 file shows at `start_s` <= t < `end_s` (seconds, to the nearest frame), as MP4.

    Packets are copied where the piece begins with a key frame and needs none from outside; else its frames are
    encoded anew, almost without loss. Only the piece is read.

    Raises:
        DataError: the file cannot be read, or has no frame there.
    """
    import av

    if not 0 <= start_s < end_s < float("inf"):  # NaN too
        raise DataError(f"{path.name} has nothing between {start_s} and {end_s} s")
    options = {"format_whitelist": MP4}
    try:
        with open(path, "rb") as file, av.open(file, "r", options=options, metadata_errors="replace") as source:
            if not source.streams.video:
                raise DataError(f"{path.name} has no video stream")
            video = source.streams.video[0]
            if not video.average_rate:
                raise DataError(f"{path.name} has no frame rate")
            half = 1 / (2 * video.average_rate)  # a time in a table is rounded and may fall just beside its frame
            start, end = Fraction(start_s) - half, Fraction(end_s) - half
            packets = list(_packets(source, video, start, end))
            if piece := _whole_piece(packets, start, end):
                return _copy(video, piece)
            frames = (frame for packet in [*packets, None] for frame in video.decode(packet))
            wanted = (f for f in frames if f.pts is not None and start <= f.pts * video.time_base < end)
            if not (head := next(wanted, None)):
                raise DataError(f"{path.name} has no frame between {start_s} and {end_s} s")
            return encode(chain([head], wanted), video.average_rate, crf=12)
    except (OSError, av.error.FFmpegError) as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from error


def encode_images(images: np.ndarray, fps: float) -> bytes:
    """`images` (T, h, w, 3) uint8 RGB as a video of `fps` frames per second, almost without loss; see `encode`."""
    import av

    rate = Fraction(fps).limit_denominator(1001)
    return encode((av.VideoFrame.from_ndarray(image, format="rgb24") for image in images), rate, crf=10)


def encode(frames: Iterable["VideoFrame"], rate: Fraction, crf: int) -> bytes:
    """One frame or more as H.264 (yuv420p, even sides, a key frame every 16 frames) in MP4.

    The same input gives the same bytes. Raises av.error.FFmpegError.
    """
    import av
    from av.video.frame import PictureType

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"
        # x264's bytes depend on the number of threads, and its mbtree differs from run to run
        stream.options = {"g": "16", "crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        for i, frame in enumerate(frames):
            if i == 0:  # 4:2:0 colour needs even sides
                stream.width, stream.height = (side + side % 2 for side in (frame.width, frame.height))
            even = frame.reformat(stream.width, stream.height, "yuv420p")
            even.pts, even.time_base = i, 1 / rate
            even.pict_type = PictureType.NONE  # else the source dictates key frames
            target.mux(stream.encode(even))
        target.mux(stream.encode(None))
    return out.getvalue()


def _packets(source: "InputContainer", video: "VideoStream", start: Fraction, end: Fraction) -> Iterator["Packet"]:
    """What decoding the frames of `start` <= t < `end` takes, in the order of decoding."""
    # Seeking goes by the time of decoding, which may be that long before a frame is shown.
    early = start - REORDERED / video.average_rate
    source.seek(max(0, int(early / video.time_base)), stream=video)
    for packet in source.demux(video):
        if packet.size and packet.dts is not None:
            if packet.dts * packet.time_base >= end:  # and so is whatever follows, for it is shown later still
                return
            yield packet


def _whole_piece(packets: list["Packet"], start: Fraction, end: Fraction) -> list["Packet"]:
    """The packets shown at `start` <= t < `end` if they decode on their own, else none."""
    wanted = [p.pts is not None and start <= p.pts * p.time_base < end and not p.is_discard for p in packets]
    if not any(wanted):
        return []
    begin = wanted.index(True)
    piece = packets[begin : begin + sum(wanted)]
    unbroken = all(wanted[begin : begin + len(piece)])  # a frame from outside in between may be referred to
    return piece if unbroken and piece[0].is_keyframe and piece[0].pts == min(p.pts for p in piece) else []


def _copy(video: "VideoStream", piece: list["Packet"]) -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        stream = target.add_stream_from_template(video, opaque=True)  # no encoder of this name need be there
        begin = piece[0].pts
        for packet in piece:
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, stream
            target.mux(packet)
    return out.getvalue()
