"""Streaming a film: the frames of the decoder, at any rate, few of them alive, and faults told."""

import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.stream import film_of, stream


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4")])
def test_frames_are_those_of_the_decoder(make, tmp_path, container, codec):
    path = tmp_path / "film"
    path.write_bytes(make.video(23, 64, 48, container=container, codec=codec))
    times, frames = zip(*stream(path), strict=True)
    whole = decode(path.read_bytes())
    assert np.stack(frames).shape == whole.shape == (23, 48, 64, 3)
    assert np.abs(np.stack(frames).astype(int) - whole).max() <= 1  # decord rounds colours in its own way
    assert np.allclose(times, np.arange(23) / 10, atol=1e-3)
    film = film_of(path)
    assert film.fps == pytest.approx(10) and abs(film.frames - 23) <= 1


@pytest.mark.parametrize(("fps", "ids"), [(5, range(0, 20, 2)), (20, np.repeat(range(20), 2)), (4, [0, 2, 5, 7, 10])])
def test_another_rate_takes_the_frame_that_is_shown_then(make, tmp_path, fps, ids):
    path = tmp_path / "film.mp4"
    path.write_bytes(make.video(20, fps=10))
    times, frames = zip(*stream(path, fps), strict=True)
    seen = make.numbers(torch.from_numpy(np.stack(frames)).movedim(-1, 1)).tolist()
    assert seen[: len(ids)] == list(ids) and len(seen) == 2 * fps
    assert np.allclose(times, np.arange(len(times)) / fps)


def test_where_the_rate_varies_frames_are_taken_by_their_times(tmp_path):
    path, ticks = tmp_path / "film.mkv", [0, 100, 200, 1000, 1100, 2000]  # milliseconds
    with av.open(path, "w") as file:
        video = file.add_stream("libx264", rate=10)
        video.width = video.height = 32
        video.pix_fmt, video.time_base = "yuv420p", Fraction(1, 1000)
        video.codec_context.time_base = Fraction(1, 1000)
        for i, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 6 * i + 12, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
    grey = [round((frame.mean() - 12) / 6) for _, frame in stream(path, 2)]
    assert grey[:5] == [0, 2, 3, 4, 5]  # at 0, 0.5, 1, 1.5 and 2 seconds


def test_times_that_a_container_rounds_leave_no_frame_out(make, tmp_path):
    """Matroska keeps whole milliseconds: 33, 67, 100."""
    (tmp_path / "film.mkv").write_bytes(make.video(20, fps=30, container="matroska"))
    frames = np.stack([frame for _, frame in stream(tmp_path / "film.mkv", 30)])
    assert make.numbers(torch.from_numpy(frames).movedim(-1, 1)).tolist() == list(range(20))


def test_few_frames_are_alive(make, tmp_path):
    path, alive, most = tmp_path / "film.mp4", weakref.WeakSet(), 0
    path.write_bytes(make.video(300, 32, 32))
    for _, frame in stream(path):
        alive.add(_Held(frame))
        most = max(most, len(alive))
    assert most <= 2


class _Held:
    """Lives as long as the array does: arrays cannot be members of a set."""

    def __new__(cls, array):
        held = super().__new__(cls)
        weakref.finalize(array, lambda keep: None, held)
        return held

    def __init__(self, array):
        pass


def test_an_image_is_one_frame(tmp_path):
    from PIL import Image

    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / "still.png")
    ((time, frame),) = stream(tmp_path / "still.png", 4)
    assert time == 0 and frame.shape == (20, 30, 3) and film_of(tmp_path / "still.png").frames == 1


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_film_that_is_cut_off_is_told(make, tmp_path, container):
    whole = make.video(60, 64, 64, faststart=True, noise=True, container=container)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"truncated|cannot be decoded"):
        list(stream(tmp_path / "cut"))


@pytest.mark.parametrize(("content", "reason"), [(b"text" * 99, "cannot be decoded"), (b"", "cannot be decoded")])
def test_what_is_no_video_is_told(tmp_path, content, reason):
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        list(stream(tmp_path / "film.mp4"))


def test_sound_alone_is_told(make, tmp_path):
    (tmp_path / "film.mp4").write_bytes(make.audio())
    with pytest.raises(DataError, match="audio only"):
        film_of(tmp_path / "film.mp4")
