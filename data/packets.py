"""Open a video's bytes without opening anything else, and find which of its packets show which frames."""

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jepa.data import h264
from jepa.data.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

# Playlists and the like would make FFmpeg open other files or addresses; a video needs none of those.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,h264,hevc"
WITH_SYNC_POINTS = ("mov", "matroska")  # what FFmpeg calls the containers that say where decoding can start
MAX_SIDE, MAX_PIXELS = 16384, 2**27


def open_video(data: bytes, *, ignore_edits: bool = False) -> "InputContainer":
    """A PyAV container over bytes; raises av.error.FFmpegError.

    `ignore_edits` shows frames that an MP4 file carries but hides, as one cut without re-encoding does.
    """
    import av

    options = {
        "format_whitelist": CONTAINERS,
        "ignore_editlist": str(int(ignore_edits)),
        "max_pixels": str(MAX_PIXELS),  # opening decodes a frame or two, before anyone can look at the size
    }
    return av.open(io.BytesIO(data), "r", options=options, metadata_errors="replace")


def read_packets(container: "InputContainer") -> list["Packet"]:
    """The whole packets of the first video stream in the order of decoding, the ones that hold a frame to show.

    Raises:
        DataError: there is no video stream, or its pictures are too large.
    """
    if not container.streams.video:
        raise DataError("no video stream" + " (audio only)" * bool(container.streams.audio))
    stream = container.streams.video[0]
    context = stream.codec_context
    check_size(context.width, context.height)
    context.options = {"max_pixels": str(MAX_PIXELS)}  # a later header may claim more than the first one
    context.thread_count = 1  # more threads cost more CPU for the same frames
    return [p for p in container.demux(stream) if p.size and not p.is_corrupt]


def decode_packets(packets: list["Packet"]) -> Iterator["VideoFrame"]:
    """The frames of packets that follow each other, in the order in which they are shown; av.error.FFmpegError."""
    if packets:
        context = packets[0].stream.codec_context
        for packet in [*packets, None]:
            yield from context.decode(packet)


def check_size(width: int, height: int) -> None:
    """Raises DataError for pictures that would take too much memory."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(f"{width} x {height} pixels are too many (at most {MAX_SIDE} on a side, 2^27 in all)")


def frame_numbers(packets: list["Packet"]) -> dict[int, int] | None:
    """{timestamp: number of the frame as shown, from 0}; None where not every packet has a time of its own."""
    times = sorted({p.pts for p in packets if p.pts is not None})
    if len(times) < len(packets):
        return None
    hidden = {p.pts for p in packets if p.is_discard}
    return {time: i for i, time in enumerate(t for t in times if t not in hidden)}


def starts_anew(packet: "Packet") -> bool:
    """Whether a key packet needs nothing before it; H.264 also marks places from which pictures heal only slowly."""
    return packet.stream.codec_context.name != "h264" or h264.holds_refresh(packet)


def counts_plainly(container: "InputContainer", packets: list["Packet"]) -> bool:
    """Whether no frame is hidden, and none after a key frame in the file is shown before it.

    Elsewhere (edit lists, open GOPs, intra refresh, AVI, MPEG streams) decord gives other frames than were asked for.
    """
    numbers = frame_numbers(packets)
    if not container.format.name.startswith(WITH_SYNC_POINTS) or not numbers or len(numbers) < len(packets):
        return False
    key_time = packets[0].pts
    for packet in packets:
        if packet.pts < key_time or (packet.is_keyframe and not starts_anew(packet)):
            return False
        if packet.is_keyframe:
            key_time = packet.pts
    return packets[0].is_keyframe


def last_start(container: "InputContainer", packets: list["Packet"], numbers: dict[int, int], first: int) -> int:
    """Place of the last packet from which frame `first` and all that are shown later can be decoded."""
    if container.format.name.startswith(WITH_SYNC_POINTS):
        for i in reversed(range(len(packets))):
            if packets[i].is_keyframe and numbers.get(packets[i].pts, first + 1) <= first and starts_anew(packets[i]):
                return i
    return 0


def frame_rotation(frame: "VideoFrame") -> int:
    """How many degrees clockwise a decoded frame must be turned to be upright: 0, 90, 180 or 270.

    Raises:
        DataError: the file mirrors its pictures, or turns them by something else than quarters.
    """
    for extra in frame.side_data:
        if extra.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(extra)[:36])
            if a * d - b * c < 0 or frame.rotation % 90:
                raise DataError("shown mirrored or askew by its display matrix; encode it upright")
    return -frame.rotation % 360  # FFmpeg counts the other way round
