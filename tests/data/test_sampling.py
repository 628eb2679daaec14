"""Frame sampling: the reference's published ids, short videos, every frame, several clips, variable frame rates."""

import itertools

import numpy as np
import pytest

from jepa.data.errors import DataError
from jepa.data.sampling import needed_frames, sample_clips, sample_frames, stride


def fixed(total: int, video_fps: float, frames: int, fps: float, short: str = "pad_last") -> tuple[list, list]:
    ids, valid = sample_frames(total, video_fps, frames=frames, fps=fps, short=short, rng=None)
    assert ids.dtype == np.int64 and valid.dtype == bool
    return ids.tolist(), valid.tolist()


def starts(total: int, video_fps: float, frames: int, fps: float) -> set[int]:
    rng = np.random.default_rng(0)
    return {int(sample_frames(total, video_fps, frames=frames, fps=fps, rng=rng)[0][0]) for _ in range(400)}


def test_fixtures_of_the_reference() -> None:
    ids, valid = fixed(300, 30, 16, 4)
    assert ids == [0, 7, 14, 22, 29, 37, 44, 52, 59, 67, 74, 82, 89, 97, 104, 111] and all(valid)
    ids, valid = fixed(45, 12, 16, 4)
    assert ids == [0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 32, 35, 38, 41, 44, 44]
    assert valid == [True] * 15 + [False]


@pytest.mark.parametrize(("total", "video_fps", "frozen"), [(300, 30, 22), (45, 12, 49)])
def test_frozen_tail_of_64_frames_at_4_fps(total: int, video_fps: float, frozen: int) -> None:
    """A 10 s Kinetics clip and a 4 s SSv2 clip, as counted in the reference."""
    ids, valid = fixed(total, video_fps, 64, 4)
    assert ids[64 - frozen :] == [total - 1] * frozen and sum(valid) == 64 - frozen


def test_windows_start_anywhere_but_at_the_last_place() -> None:
    assert starts(60, 29.97, 4, 4) == set(range(60 - 4 * 7))  # ends 28 … 59: the last frame is in no window
    ids, _ = sample_frames(60, 29.97, frames=4, fps=4, rng=np.random.default_rng(1))
    assert (ids - ids[0]).tolist() == [0, 9, 18, 27]


def test_a_random_clip_is_the_first_one_moved() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        total, video_fps, fps = int(rng.integers(40, 400)), float(rng.uniform(8, 60)), float(rng.uniform(3, 8))
        first, _ = fixed(total, video_fps, 5, fps)
        ids, valid = sample_frames(total, video_fps, frames=5, fps=fps, rng=rng)
        if total >= needed_frames(video_fps, frames=5, fps=fps):
            assert np.abs(np.diff(ids) - np.diff(first)).max() <= 1 and valid.all()  # places are rounded down
        assert ids.min() >= 0 and ids.max() < total and (np.diff(ids) >= 0).all()


def test_every_frame_is_consecutive_and_reaches_the_last() -> None:
    rng = np.random.default_rng(0)
    for frames in range(1, 70):
        for total in {frames, frames + 1, frames + 17, 1000 + frames}:
            ids, valid = sample_frames(total, 0.0, frames=frames, fps=0, rng=rng)
            assert (ids == ids[0] + np.arange(frames)).all() and valid.all() and 0 <= ids[0] <= total - frames
    assert starts(12, 5, 8, 0) == {0, 1, 2, 3, 4}
    assert fixed(3, 5, 6, -1) == ([0, 1, 2, 2, 2, 2], [True] * 3 + [False] * 3)


def test_a_faster_rate_than_the_videos_repeats_frames() -> None:
    assert fixed(100, 10, 12, 30) == ([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], [True] * 12)  # 0.4 s
    assert fixed(2, 10, 6, 20) == ([0, 0, 1, 1, 1, 1], [True] * 4 + [False] * 2)
    assert needed_frames(10, frames=1, fps=1000) == 1


def test_short_videos_pad_or_loop() -> None:
    assert fixed(8, 8, 8, 4) == ([0, 2, 5, 7, 7, 7, 7, 7], [True] * 4 + [False] * 4)
    assert fixed(8, 8, 8, 4, "loop") == ([0, 2, 5, 7, 0, 2, 5, 7], [True] * 4 + [False] * 4)
    assert fixed(3, 5, 7, 0, "loop") == ([0, 1, 2, 0, 1, 2, 0], [True] * 3 + [False] * 4)
    assert fixed(1, 30, 3, 0) == ([0, 0, 0], [True, False, False])
    # shorter than one step: the reference has no room for a single id before its padding
    assert fixed(5, 30, 3, 4) == ([4, 4, 4], [True, False, False])
    assert fixed(5, 30, 3, 4, "loop") == ([0, 0, 0], [True, False, False])


def test_a_video_fills_its_clip_exactly_if_it_has_the_needed_frames() -> None:
    rng = np.random.default_rng(0)
    video_fps = rng.uniform(1, 70, 300)
    for fps in (0, 0.7, 2.5, 4, 24, 100):
        needed = needed_frames(video_fps, frames=9, fps=fps)
        for rate, n in zip(video_fps, needed, strict=True):
            for short, total in itertools.product(("pad_last", "loop"), (max(1, n - 1), n, n + 1, n + 5)):
                _, valid = sample_frames(int(total), rate, frames=9, fps=fps, short=short, rng=rng)
                assert valid.all() == (total >= n)


def test_the_window_is_whole_steps_of_the_rate_rounded_up() -> None:
    rates = np.array([30.0, 29.97, 27.5, 31.0000001, 7, 3, 0.5])
    steps = [7, 7, 7, 7, 1, 3 / 4, 1 / 4]
    needed = needed_frames(rates, frames=16, fps=4)
    assert needed.dtype == np.int64 and needed.tolist() == [16 * step for step in steps]
    assert needed_frames(rates, frames=16, fps=0).tolist() == [16] * 7


@pytest.mark.parametrize("rate", [0.0, float("nan"), float("inf")])
def test_an_unknown_rate_is_one_line(rate: float) -> None:
    with pytest.raises(DataError, match=r"^fps 4: .* rate is not known; [^\n]*$"):
        needed_frames(np.array([30, rate]), frames=16, fps=4)
    assert needed_frames(rate, frames=16, fps=0) == 16


def test_clips_come_from_equal_parts() -> None:
    rng = np.random.default_rng(0)
    ids, valid = sample_clips(310, 30, clips=2, frames=16, fps=4, overlap=False, rng=None)
    assert ids[0].tolist() == fixed(300, 30, 16, 4)[0] and (ids[1] == ids[0] + 155).all() and valid.all()
    for _ in range(50):
        ids, _ = sample_clips(310, 30, clips=2, frames=16, fps=4, overlap=True, rng=rng)
        assert ids[0].max() < 155 <= ids[1].min() and ids[1].max() < 310
    ids, valid = sample_clips(90, 12, clips=2, frames=16, fps=4, overlap=False, rng=rng)  # parts of 45: short
    assert ids.tolist() == [(np.array(fixed(45, 12, 16, 4)[0]) + first).tolist() for first in (0, 45)]
    assert (~valid).sum(1).tolist() == [1, 1]
    for clips in (4, 5):  # more clips than frames
        ids, valid = sample_clips(3, 10, clips=clips, frames=2, fps=0, overlap=False, rng=rng)
        assert ids.tolist() == [[i, i] for i in (0, 1, 2, 2, 2)[:clips]] and valid.tolist() == [[True, False]] * clips


def test_overlapping_clips_reach_from_end_to_end() -> None:
    ids, valid = sample_clips(60, 12, clips=3, frames=16, fps=4, overlap=True, rng=None)
    once = np.linspace(0, 47, 15).astype(int).clip(max=46).tolist()  # the evals' window: 48 - 1 frames
    assert ids.tolist() == [[*(i + shift for i in once), 46 + shift] for shift in (0, 6, 12)]
    assert valid.tolist() == [[True] * 15 + [False]] * 3
    ids, valid = sample_clips(60, 12, clips=3, frames=16, fps=4, overlap=True, short="loop", rng=None)
    assert (ids - ids[:, :1]).tolist() == [fixed(48, 12, 16, 4)[0]] * 3 and valid.all()
    ids, _ = sample_clips(30, 12, clips=2, frames=16, fps=4, overlap=True, rng=None)  # shorter than one clip
    assert ids[0].tolist() == ids[1].tolist() and ids.max() == 28
    ids, _ = sample_clips(1, 12, clips=2, frames=2, fps=4, overlap=True, rng=None)
    assert ids.tolist() == [[0, 0], [0, 0]]
    ids, valid = sample_clips(10, 5, clips=3, frames=6, fps=0, overlap=True, rng=None)
    assert ids.tolist() == [list(range(first, first + 6)) for first in (0, 2, 4)] and valid.all()


@pytest.mark.parametrize("rounding", [9, 3])  # containers with milliseconds, such as Matroska
def test_times_of_a_constant_rate_change_nothing(rounding: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        total, rate = int(rng.choice([1, 2, 50, 299])), float(rng.choice([10, 23.976, 29.97, 30, 59.94]))
        times = np.round(np.arange(total) / rate, rounding)
        given = {"clips": 2, "frames": 8, "fps": float(rng.uniform(2, 12)), "overlap": bool(rng.integers(2))}
        seed = int(rng.integers(2**32))
        ids, valid = sample_clips(total, rate, **given, rng=np.random.default_rng(seed))
        same = sample_clips(total, rate, **given, rng=np.random.default_rng(seed), times=times)
        np.testing.assert_array_equal(same, (ids, valid))


def test_a_variable_rate_shows_what_is_on_the_screen() -> None:
    """Ten frames in the first second, then one a second for nine seconds: 19 frames, 2 a second on average."""
    times = np.concatenate([np.arange(10) / 10, np.arange(1, 10)])
    ids, valid = sample_frames(19, 2, frames=9, fps=1, rng=None, times=times)
    shown = [np.flatnonzero(times <= t + 1e-9)[-1] for t in np.linspace(0, 18, 9).astype(int).clip(max=17) / 2]
    assert ids.tolist() == shown and valid.all() and shown[:3] == [0, 10, 11]
    every, _ = sample_frames(19, 2, frames=19, fps=0, rng=None, times=times)
    assert every.tolist() == list(range(19))


def test_one_draw_for_each_clip_with_a_choice_and_none_without() -> None:
    for total, draws in ((100, 3), (24, 0)):  # parts of 33, and of 8: just the window
        rng, other = np.random.default_rng(5), np.random.default_rng(5)
        ids, _ = sample_clips(total, 8, clips=3, frames=4, fps=4, overlap=False, rng=rng)
        ends = [int(other.integers(8, 33)) for _ in range(draws)]
        assert [end - 8 + 33 * i for i, end in enumerate(ends)] == ids[:, 0].tolist()[:draws]
        assert rng.bit_generator.state == other.bit_generator.state


def test_strides_of_robot_videos_are_those_of_the_reference():
    rates = np.array([15, 60, 4, 3.9, 5, 29.97, 30.0000001])
    assert stride(rates, 4).tolist() == [4, 15, 1, 1, 2, 8, 8]  # ceil(rate / fps)
    assert stride(30.0000001, 15) == 2 and stride(rates, 0).tolist() == [1] * 7
