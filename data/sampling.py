"""Which frames of a video make a clip, as V-JEPA 2 chooses them, and what happens where a video is too short."""

import numpy as np

from jepa.data.errors import DataError


def needed_frames(video_fps: float | np.ndarray, *, frames: int, fps: float) -> np.ndarray:
    """How many frames of a video the window of one clip spans: an int64 array of `video_fps`'s shape.

    A video with at least that many fills its clip without repeating its end; `skip` leaves out those with fewer.
    The window is `frames` whole steps of `ceil(video_fps) // fps` frames; every frame where `fps <= 0`. Where `fps`
    is above the video's rate, the reference stops; here the window keeps its duration, so frames repeat.

    Raises:
        DataError: `fps > 0`, and a video's rate is not a positive number.
    """
    if fps <= 0:
        return np.full(np.shape(video_fps), frames, np.int64)
    known = np.asarray(video_fps)
    if not np.all((known > 0) & np.isfinite(known)):
        raise DataError(f"fps {fps}: a video's frame rate is not known; take every frame (fps 0) or pack it again")
    rate = np.ceil(np.round(known, 3))  # rounded first: a rate of 30.0000001 means 30
    step = rate // fps
    return np.where(step >= 1, frames * step, np.maximum(1, frames * rate // fps)).astype(np.int64)


def stride(video_fps: float | np.ndarray, fps: float) -> np.ndarray:
    """Every how many frames of a robot's video one is taken, int64 of `video_fps`'s shape; 1 where `fps <= 0`.

    As in V-JEPA 2-AC the rate is `fps` or less: 15 frames a second at `fps` 4 are taken by fours.
    """
    if fps <= 0:
        return np.ones(np.shape(video_fps), np.int64)
    return np.maximum(1, np.ceil(np.round(np.asarray(video_fps) / fps, 3))).astype(np.int64)  # 30.0000001 means 30


def sample_frames(
    total: int,
    video_fps: float,
    *,
    frames: int,
    fps: float,
    short: str = "pad_last",
    rng: np.random.Generator | None,
    times: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One clip of a video: `sample_clips` with one clip, without its first axis: ids (T) int64, valid (T) bool."""
    ids, valid = sample_clips(
        total, video_fps, clips=1, frames=frames, fps=fps, overlap=False, short=short, rng=rng, times=times
    )
    return ids[0], valid[0]


def sample_clips(
    total: int,
    video_fps: float,
    *,
    clips: int,
    frames: int,
    fps: float,
    overlap: bool,
    short: str = "pad_last",
    rng: np.random.Generator | None,
    times: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Frame ids (clips, T) int64 in a video of `total` frames; and valid (clips, T), False for a short video's repeats.

    The video is cut into `clips` equal parts, one clip from each. Where a part is longer than the window of
    `needed_frames`, ids are spread over a window at a random place, or at the part's start if `rng` is None.
    The reference's windows end before the last frame; with `fps <= 0` (every frame) ours reach it, for recordings
    of robots are short. Where a part is not longer, ids at the same spacing are spread over all of it; what is
    missing then is the last frame again (`pad_last`) or the same ids again (`loop`). `skip` pads too: it is for
    whole videos, which are left out before anyone asks for their frames.

    With `overlap`, clips of parts that are too short start at equal distances in the whole video instead, as in
    the reference's evaluations. Like there, their last id is a repeat, for the window lacks its last frame; not
    so with `fps <= 0` or `loop`, which the reference does not have.

    `times` (total), seconds from the first frame, increasing, is for a variable frame rate: ids are chosen on
    a timeline of `total` frames at the average rate, and each stands for the frame that is shown then.

    Draws from `rng`: one integer for each clip whose part is longer than the window, in order, and nothing else.

    Raises:
        DataError: `fps > 0`, and `video_fps`, the average rate, is not a positive number.
    """
    window = int(needed_frames(video_fps, frames=frames, fps=fps))
    part = max(1, total // clips)
    rows = []
    for i in range(clips):
        if part > window:
            end = window if rng is None else int(rng.integers(window, part + (fps <= 0)))
            spread = np.linspace(end - window, end, frames).clip(max=end - 1).astype(np.int64)
            rows.append((spread + i * part, np.ones(frames, bool)))
        elif overlap:
            length = max(1, min(window, total) - (fps > 0 and short != "loop"))
            shift = max(0, total - window) // max(1, clips - 1)
            rows.append(_short(length, window, frames, short, first=i * shift))
        else:
            rows.append(_short(part, window, frames, short, first=min(i * part, total - part)))
    ids, valid = (np.stack(column) for column in zip(*rows, strict=True))
    return (ids if times is None or fps <= 0 else _shown(ids, times)), valid


def _short(length: int, window: int, frames: int, short: str, *, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (T) spread over `length <= window` frames at the window's rate, then repeats; and which are no repeats."""
    count = length * frames // window
    once = np.linspace(0, length, count)
    last = np.full(frames - count, length)
    # resize repeats from the start; it gives zeros, the first frame, where the video is shorter than one step
    ids = np.resize(once, frames) if short == "loop" else np.concatenate([once, last])
    return ids.clip(max=length - 1).astype(np.int64) + first, np.arange(frames) < max(1, count)


def _shown(ids: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The last frame at or before each place of a timeline of equal distances.

    A tenth of a frame early counts as in time: containers round their times to milliseconds.
    """
    distance = times[-1] / max(1, len(times) - 1)
    return np.searchsorted(times, (ids + 0.1) * distance, side="right").astype(np.int64) - 1
