"""A cut is exact to the frame, copies where it can, and does not read what it does not need."""

import io
import runpy
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from jepa.data.errors import DataError
from jepa.data.remux import cut_video, encode_images

fixtures = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("source_fixtures.py"))))


def packets(data: bytes) -> list[bytes]:
    with av.open(io.BytesIO(data)) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
        assert not any(packet.is_discard for packet in found)
        return [bytes(packet) for packet in found]


@pytest.fixture
def long(tmp_path: Path, make: SimpleNamespace) -> Path:
    """Four pieces of 8, 12, 30 and 5 frames at 10 per second; each begins with a key frame and has B-frames."""
    path = tmp_path / "long.mp4"
    path.write_bytes(fixtures.concatenate([make.video(n, 64, gop=20) for n in (8, 12, 30, 5)]))
    return path


@pytest.mark.parametrize(("start", "end"), [(0, 8), (8, 20), (20, 50), (50, 55), (8, 50), (20, 40), (40, 50), (0, 55)])
def test_whole_pieces_are_copied(start: int, end: int, long: Path) -> None:
    cut = cut_video(long, start / 10, end / 10)
    assert np.array_equal(fixtures.frames(cut), fixtures.frames(long.read_bytes())[start:end])
    assert packets(cut) == packets(long.read_bytes())[start:end]
    assert fixtures.rate(cut) == 10


@pytest.mark.parametrize(("start", "end"), [(1, 8), (9, 20), (7, 9), (25, 26), (25, 48), (54, 55)])
def test_other_pieces_are_encoded_anew_with_the_same_frames(start: int, end: int, long: Path) -> None:
    cut = cut_video(long, start / 10, end / 10)
    wanted = fixtures.frames(long.read_bytes())[start:end].astype(int)
    found = fixtures.frames(cut)
    assert found.shape == wanted.shape and fixtures.rate(cut) == 10
    assert np.abs(found - wanted).mean((1, 2, 3)).max() < 2  # neighbours differ by 6
    assert packets(cut) != packets(long.read_bytes())[start:end]
    assert cut_video(long, start / 10, end / 10) == cut


def test_every_end_within_a_group_of_pictures(long: Path) -> None:
    """B-frames refer to what comes after them: an end between may not leave them without it."""
    frames = fixtures.frames(long.read_bytes()).astype(int)
    for end in range(21, 40):
        found = fixtures.frames(cut_video(long, 2.0, end / 10))
        assert len(found) == end - 20 and np.abs(found - frames[20:end]).mean((1, 2, 3)).max() < 2


@pytest.mark.parametrize("length", [2, 4])
def test_open_groups_of_pictures(length: int, tmp_path: Path) -> None:
    """Frames shown before a key frame may follow it in the file; they decode only after what precedes it."""
    path = tmp_path / "open.mp4"
    rng = np.random.default_rng(0)
    images = np.clip(rng.integers(0, 60, (1, 48, 48, 3)) + 6 * np.arange(30)[:, None, None, None], 0, 255)
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        stream.options = {
            "x264-params": "open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3:b-adapt=0",
            "threads": "1",
        }
        for image in images.astype(np.uint8):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    frames = fixtures.frames(path.read_bytes()).astype(int)
    for start in range(27):
        found = fixtures.frames(cut_video(path, start / 10, (start + length) / 10)).astype(int)
        wanted = frames[start : start + length]
        assert len(found) == len(wanted) and np.abs(found - wanted).mean((1, 2, 3)).max() < 2


@pytest.mark.parametrize("codec", ["libsvtav1", "libx265", "mpeg4"])
def test_other_codecs_are_copied_too(codec: str, tmp_path: Path, make: SimpleNamespace) -> None:
    """AV1 is what LeRobot writes; its decoder and encoder have different names."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    path = tmp_path / "long.mp4"
    path.write_bytes(fixtures.concatenate([make.video(n, 96, 96, codec=codec, gop=2) for n in (8, 12, 5)]))
    cut = cut_video(path, 0.8, 2.0)
    assert packets(cut) == packets(path.read_bytes())[8:20]
    assert np.array_equal(fixtures.frames(cut), fixtures.frames(path.read_bytes())[8:20])


def test_times_are_rounded_to_the_nearest_frame(long: Path) -> None:
    exact = cut_video(long, 0.8, 2.0)
    assert cut_video(long, 0.8000012, 1.9999991) == cut_video(long, 0.77, 2.04) == exact


def test_only_the_piece_is_read(tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.mp4"
    path.write_bytes(fixtures.concatenate([make.video(40, 96, 96, gop=20, noise=True)] * 8))
    read = []

    class Counted(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr("jepa.data.remux.open", lambda file, mode: Counted(file, mode), raising=False)
    assert len(fixtures.frames(cut_video(path, 20, 22))) == 20
    assert 0 < sum(read) < path.stat().st_size / 4


def test_what_cannot_be_cut(long: Path, tmp_path: Path, make: SimpleNamespace) -> None:
    for start, end in ((6, 7), (2, 2), (2, 1), (-1, 1), (0, float("nan")), (0, float("inf"))):
        with pytest.raises(DataError, match=r"long\.mp4 has no"):
            cut_video(long, start, end)
    for name, data, complaint in (
        ("empty.mp4", b"", "cannot be read"),
        ("text.mp4", b"no video " * 100, "cannot be read"),
        ("cut.mp4", long.read_bytes()[:3000], "cannot be read"),
        ("sound.mp4", make.audio(), "has no video stream"),
        ("list.mp4", b"ffconcat version 1.0\nfile long.mp4\n", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name} {complaint}"):
            cut_video(tmp_path / name, 0, 1)
    with pytest.raises(DataError, match=r"gone\.mp4 cannot be read: No such file"):
        cut_video(tmp_path / "gone.mp4", 0, 1)


def test_images_become_a_video_of_the_same_bytes_every_time() -> None:
    shades = (20 * np.arange(11)[:, None, None, None] + np.arange(25)[:, None, None]).clip(0, 255).astype(np.uint8)
    images = np.broadcast_to(shades, (11, 25, 33, 3))
    data = encode_images(images, 12.5)
    assert encode_images(images, 12.5) == data and fixtures.rate(data) == 12.5
    frames = fixtures.frames(data)
    assert frames.shape == (11, 26, 34, 3)  # H.264 with 4:2:0 colour has even sides only
    assert np.abs(frames[:, :25, :33].astype(int) - images).mean() < 2
    with av.open(io.BytesIO(encode_images(images[:1].repeat(40, 0), 12.5))) as container:
        keys = [i for i, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert keys == [0, 16, 32]
