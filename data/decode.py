"""Video bytes to RGB frames: decord first, PyAV for what it cannot read."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

# Playlists and the like would make FFmpeg open other files or addresses; a video needs none of those.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,h264,hevc"


def decode(data: bytes, frame_ids: Sequence[int] | None = None) -> np.ndarray:
    """The frames `frame_ids` (all of them if None) of a video file's bytes: (T, h, w, 3) uint8 RGB.

    Raises:
        DataError: neither decoder reads the file, or it has no such frame.
    """
    try:
        return _decord(data, frame_ids)
    except Exception:  # decord's errors have no narrow type; PyAV says what is wrong
        return decode_pyav(data, frame_ids)


def _decord(data: bytes, frame_ids: Sequence[int] | None) -> np.ndarray:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)  # more threads cost more CPU for the same frames
    if len(reader) == 0:
        raise DataError("no frame")
    return reader.get_batch(range(len(reader)) if frame_ids is None else list(frame_ids)).asnumpy()


def decode_pyav(data: bytes, frame_ids: Sequence[int] | None = None) -> np.ndarray:
    """`decode` by PyAV: from the first frame on, slower when only late frames are wanted."""
    import av

    wanted = None if frame_ids is None else set(frame_ids)
    found: dict[int, np.ndarray] = {}
    try:
        with open_video(data) as container:
            if not container.streams.video:
                raise DataError("no video stream")
            for i, frame in enumerate(container.decode(video=0)):
                if wanted is None or i in wanted:
                    found[i] = frame.to_ndarray(format="rgb24")
                if wanted is not None and len(found) == len(wanted):
                    break
    except av.error.FFmpegError as error:
        raise DataError(f"cannot be decoded: {error.strerror}") from error
    ids = sorted(found) if frame_ids is None else frame_ids
    if not ids or (missing := sorted(set(ids) - set(found))):
        raise DataError(f"has no frame {missing[0]}" if ids else "has no frame")
    return np.stack([found[i] for i in ids])


def open_video(data: bytes, *, ignore_edits: bool = False) -> "InputContainer":
    """A PyAV container over bytes; raises av.error.FFmpegError.

    `ignore_edits` shows frames that an MP4 file carries but hides, as one cut without re-encoding does.
    """
    import av

    options = {"format_whitelist": CONTAINERS, "ignore_editlist": str(int(ignore_edits))}
    return av.open(io.BytesIO(data), "r", options=options)
