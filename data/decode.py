"""Bytes of a video or an image to upright RGB frames: the fastest way that gives the right ones of each file."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.errors import DataError
from jepa.data.h264 import can_skip, needed
from jepa.data.packets import (
    counts_plainly,
    decode_packets,
    frame_numbers,
    frame_rotation,
    last_start,
    open_video,
    read_packets,
)
from jepa.data.stills import image_pixels, image_rotation, is_image, open_image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

JPEG_FRAMES = "upright JPEG frames"  # the comment in videos of which every packet is a plain JPEG file


def decode(data: bytes, frame_ids: Sequence[int] | None = None, *, rotation: int = 0) -> np.ndarray:
    """The frames `frame_ids` (all of them if None) of a video's or an image's bytes: (T, h, w, 3) uint8 RGB.

    Frames are counted from 0 in the order in which they are shown. `rotation` is by how many degrees clockwise
    (0, 90, 180 or 270) the stored pictures are turned; with 0 it is what the file itself says.

    Raises:
        DataError: no decoder reads the file, it has no such frame, or its pictures are too large.
    """
    if is_image(data):
        image = open_image(data)
        ids = _checked(frame_ids, 1)
        return upright(image_pixels(image)[None], rotation or image_rotation(image))[ids]
    with _packets(data) as (container, packets):
        if packets and not rotation and container.metadata.get("comment") == JPEG_FRAMES:
            return _jpegs(packets, _checked(frame_ids, len(packets)))
        frames: np.ndarray | None = None
        if counts_plainly(container, packets):
            ids = _checked(frame_ids, len(packets))
            if can_skip(packets):
                frames = _skipping(packets, ids, rotation)
            elif not rotation:
                frames = _decord(data, ids, len(packets))
        return _from_last_start(container, packets, frame_ids, rotation) if frames is None else frames


def decode_pyav(data: bytes, frame_ids: Sequence[int] | None = None, *, rotation: int = 0) -> np.ndarray:
    """`decode` of a video by PyAV alone: all from the last key frame before the first frame that is asked for."""
    with _packets(data) as (container, packets):
        return _from_last_start(container, packets, frame_ids, rotation)


def upright(frames: np.ndarray, rotation: int) -> np.ndarray:
    """Frames (T, h, w, 3) turned by `rotation` degrees clockwise, a multiple of 90."""
    return np.ascontiguousarray(np.rot90(frames, -rotation // 90, axes=(1, 2)))


@contextmanager
def _packets(data: bytes) -> Iterator[tuple["InputContainer", list["Packet"]]]:
    """The open video and its packets; what FFmpeg says against it becomes a DataError."""
    import av

    try:
        with open_video(data) as container:
            yield container, read_packets(container)
    except av.error.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from error


def _from_last_start(
    container: "InputContainer", packets: list["Packet"], frame_ids: Sequence[int] | None, rotation: int
) -> np.ndarray:
    """The frames by PyAV, of any file."""
    numbers = frame_numbers(packets)
    ids = frame_ids if numbers is None else _checked(frame_ids, len(numbers))
    start = last_start(container, packets, numbers, min(ids)) if ids and numbers else 0
    found = _numbered(packets[start:], numbers, ids, rotation)
    ids = range(len(found)) if ids is None else ids
    if not ids or (missing := sorted(set(ids) - found.keys())):
        raise DataError(f"has no frame {missing[0]}" if ids else "has no frame")
    if len({found[i].shape for i in ids}) > 1:
        raise DataError("its pictures change size; encode it anew")
    return np.stack([found[i] for i in ids])


def _skipping(packets: list["Packet"], ids: list[int], rotation: int) -> np.ndarray | None:
    """The frames by PyAV from only the packets they need; None where FFmpeg does not give them all."""
    numbers = frame_numbers(packets)
    wanted = set(ids)
    found = _numbered(needed(packets, {time for time, i in numbers.items() if i in wanted}), numbers, ids, rotation)
    if not found or len(found) < len(wanted):
        packets[0].stream.codec_context.flush_buffers()
        return None
    return np.stack([found[i] for i in ids])


def _checked(ids: Sequence[int] | None, frames: int) -> list[int]:
    """The frame numbers as a list, all of them for None."""
    if ids is None:
        return list(range(frames))
    if wrong := [i for i in ids if not 0 <= i < frames]:
        raise DataError(f"has no frame {wrong[0]}")
    return list(ids)


def _numbered(
    packets: list["Packet"], numbers: dict[int, int] | None, ids: Sequence[int] | None, rotation: int
) -> dict[int, np.ndarray]:
    """{number: frame (h, w, 3)} of `ids` (None: all); without `numbers`, frames are counted as they come."""
    from av.video.reformatter import VideoReformatter

    found: dict[int, np.ndarray] = {}
    wanted = None if ids is None else set(ids)
    to_rgb = VideoReformatter()  # one for all frames: to set it up costs as much as to use it
    for count, frame in enumerate(decode_packets(packets)):
        number = count if numbers is None else numbers.get(frame.pts, -1)
        if number >= 0 and (wanted is None or number in wanted):
            pixels = to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
            found[number] = upright(pixels[None], rotation or frame_rotation(frame))[0]
            if wanted is not None and len(found) == len(wanted):
                break
    return found


def _decord(data: bytes, ids: list[int], frames: int) -> np.ndarray | None:
    """The frames by decord, upright; None where it cannot read them, for PyAV says what is wrong."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(io.BytesIO(data), num_threads=1)  # more threads cost more CPU for the same frames
        return reader.get_batch(ids).asnumpy() if len(reader) == frames else None
    except Exception:  # decord's errors have no narrow type
        return None


def _jpegs(packets: list["Packet"], ids: list[int]) -> np.ndarray:
    """Only the packets asked for, by libjpeg-turbo: in half the time of FFmpeg's own JPEG decoder."""
    import simplejpeg

    context = packets[0].stream.codec_context
    frames = np.empty((len(ids), context.height, context.width, 3), np.uint8)
    for i, frame in zip(ids, frames, strict=True):
        jpeg = bytes(packets[i])
        try:
            if simplejpeg.decode_jpeg_header(jpeg)[:2] != frame.shape[:2]:
                raise ValueError("it has another size")
            simplejpeg.decode_jpeg(jpeg, buffer=frame)
        except ValueError as error:
            raise DataError(f"frame {i} cannot be decoded: {error}") from error
    return frames
