"""Decoding: the right frames in every container, PyAV where decord fails, and nothing fetched from elsewhere."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import jepa.data.decode as module
from jepa.data.decode import decode, decode_pyav
from jepa.data.errors import DataError


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9")])
def test_both_decoders_give_the_same_frames(container: str, codec: str, make: SimpleNamespace) -> None:
    data = make.video(40, container=container, codec=codec, noise=True)
    ids = [0, 3, 31, 17, 39, 39]
    every = decode(data)
    assert every.shape == (40, 48, 48, 3) and every.dtype == np.uint8
    assert np.array_equal(decode(data, ids), every[ids])
    assert np.array_equal(decode_pyav(data), every)
    assert np.array_equal(decode_pyav(data, ids), every[ids])


def test_frame_ids_name_the_right_frames(make: SimpleNamespace) -> None:
    frames = torch.from_numpy(decode(make.video(30), [29, 0, 12])).permute(0, 3, 1, 2)
    assert make.numbers(frames).tolist() == [29, 0, 12]


def test_pyav_takes_over_where_decord_fails(make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> np.ndarray:
        raise RuntimeError("cannot read this")

    data = make.video(5)
    expected = decode(data, [1, 4])
    monkeypatch.setattr(module, "_decord", broken)
    assert np.array_equal(decode(data, [1, 4]), expected)


def test_errors(make: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(b"\0" * 100)
    with pytest.raises(DataError, match="no frame 9"):
        decode(make.video(9), [0, 9])
    with pytest.raises(DataError, match="no video stream"):
        decode(make.audio())


def test_a_playlist_opens_nothing(make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg would follow the entries of a playlist to other files and addresses."""
    (tmp_path / "secret.mp4").write_bytes(make.video(5))
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile secret.mp4\n"
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_pyav(playlist)
