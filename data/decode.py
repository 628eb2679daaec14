"""Bytes of a video or an image to upright RGB frames: decord where it counts frames rightly, PyAV elsewhere."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.errors import DataError
from jepa.data.packets import (
    WITH_SYNC_POINTS,
    decode_packets,
    frame_numbers,
    frame_rotation,
    open_video,
    read_packets,
    starts_anew,
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
    if rotation == 0 and (frames := _fast(data, frame_ids)) is not None:
        return frames
    return decode_pyav(data, frame_ids, rotation=rotation)


def upright(frames: np.ndarray, rotation: int) -> np.ndarray:
    """Frames (T, h, w, 3) turned by `rotation` degrees clockwise, a multiple of 90."""
    return np.ascontiguousarray(np.rot90(frames, -rotation // 90, axes=(1, 2)))


def decode_pyav(data: bytes, frame_ids: Sequence[int] | None = None, *, rotation: int = 0) -> np.ndarray:
    """`decode` of a video by PyAV alone: from the last key frame before the first frame that is asked for."""
    import av

    try:
        with open_video(data) as container:
            packets = read_packets(container)
            numbers = frame_numbers(packets)
            ids = frame_ids if numbers is None else _checked(frame_ids, len(numbers))
            start = _last_start(container, packets, numbers, min(ids)) if ids and numbers else 0
            found = _numbered(packets[start:], numbers, ids, rotation)
    except av.error.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from error
    ids = range(len(found)) if ids is None else ids
    if not ids or (missing := sorted(set(ids) - found.keys())):
        raise DataError(f"has no frame {missing[0]}" if ids else "has no frame")
    return np.stack([found[i] for i in ids])


def _checked(ids: Sequence[int] | None, frames: int) -> list[int]:
    """The frame numbers as a list, all of them for None."""
    if ids is None:
        return list(range(frames))
    if wrong := [i for i in ids if not 0 <= i < frames]:
        raise DataError(f"has no frame {wrong[0]}")
    return list(ids)


def _last_start(container: "InputContainer", packets: list["Packet"], numbers: dict[int, int], first: int) -> int:
    """Place of the last packet from which frame `first` and all that are shown later can be decoded."""
    if container.format.name.startswith(WITH_SYNC_POINTS):
        for i in reversed(range(len(packets))):
            if packets[i].is_keyframe and numbers.get(packets[i].pts, first + 1) <= first and starts_anew(packets[i]):
                return i
    return 0


def _numbered(
    packets: list["Packet"], numbers: dict[int, int] | None, ids: Sequence[int] | None, rotation: int
) -> dict[int, np.ndarray]:
    """{number: frame (h, w, 3)} of `ids` (None: all); without `numbers`, frames are counted as they come."""
    found: dict[int, np.ndarray] = {}
    wanted = None if ids is None else set(ids)
    for count, frame in enumerate(decode_packets(packets)):
        number = count if numbers is None else numbers.get(frame.pts, -1)
        if number >= 0 and (wanted is None or number in wanted):
            pixels = frame.to_ndarray(format="rgb24")
            found[number] = upright(pixels[None], rotation or frame_rotation(frame))[0]
            if wanted is not None and len(found) == len(wanted):
                break
    return found


def _fast(data: bytes, frame_ids: Sequence[int] | None) -> np.ndarray | None:
    """The frames by the fastest way that is known to give the right ones; None where only PyAV does."""
    import av

    try:
        with open_video(data) as container:
            packets = read_packets(container)
            if packets and container.metadata.get("comment") == JPEG_FRAMES:
                return _jpegs(packets, _checked(frame_ids, len(packets)))
            trusted = _decord_counts_rightly(container, packets)
    except av.error.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from error
    if not trusted:
        return None
    ids = _checked(frame_ids, len(packets))
    try:
        return _decord(data, ids, len(packets))
    except Exception:  # decord's errors have no narrow type; PyAV says what is wrong
        return None


def _decord_counts_rightly(container: "InputContainer", packets: list["Packet"]) -> bool:
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


def _decord(data: bytes, ids: list[int], frames: int) -> np.ndarray:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)  # more threads cost more CPU for the same frames
    if len(reader) != frames:
        raise ValueError(f"decord counts {len(reader)} frames, the file has {frames}")
    return reader.get_batch(ids).asnumpy()  # it turns them upright by itself


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
