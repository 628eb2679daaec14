"""Checking videos and images: what is said of good ones, why bad ones are refused, and at what cost in memory."""

import io
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.video import inspect

UNEVEN = np.cumsum(np.random.default_rng(0).integers(20, 300, 20)).tolist()


def film(times: list[int], container: str = "mp4", size: tuple[int, int] = (64, 48), pix_fmt: str = "yuv420p") -> bytes:
    """A frame at each of the times, in milliseconds."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream("libx264", rate=10)
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time in enumerate(times):
            pixels = np.full((size[1], size[0], 3), min(6 * i + 12, 255), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def turned_clockwise(data: bytes) -> bytes:
    at = data.find(b"tkhd") + 44
    return data[:at] + struct.pack(">9i", 0, 2**16, 0, -(2**16), 0, 0, 0, 0, 2**30) + data[at + 36 :]


def exp_golomb(value: int) -> str:
    digits = bin(value + 1)[2:]
    return "0" * (len(digits) - 1) + digits


def huge_mp4(width: int, height: int) -> bytes:
    """An MP4 file of a few frames whose H.264 header claims width x height pixels, multiples of 16."""
    data = film([0, 100, 200])
    fields = [0, 0, 2, 1], [width // 16 - 1, height // 16 - 1]
    bits = "".join(map(exp_golomb, fields[0])) + "0" + "".join(map(exp_golomb, fields[1])) + "11001"
    bits += "0" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big")
    assert b"\0\0" not in body  # else it would have to be escaped
    at = data.find(b"avcC") + 10  # after the version, profile, level and the number of headers
    length = int.from_bytes(data[at : at + 2], "big")
    header = (b"\x67\x42\xc0\x33" + body).ljust(length, b"\0")
    assert len(header) == length
    return data[: at + 2] + header + data[at + 2 + length :]


def huge_png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\1IDAT"


def huge_jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "JPEG")
    data = out.getvalue()
    at = data.find(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">2H", height, width) + data[at + 4 :]


@pytest.mark.fault("D8")
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_varying_rate_is_told_by_times(container: str) -> None:
    info = inspect(film(UNEVEN, container))
    assert info.times.dtype == np.float64
    assert np.allclose(info.times, (np.array(UNEVEN) - UNEVEN[0]) / 1000, atol=1e-6)
    assert info.frames == 20 and info.fps == pytest.approx(19 / info.times[-1])


@pytest.mark.parametrize("late", [45, 55])
def test_frames_may_be_half_a_period_late(late: int) -> None:
    times = [100 * i + late * (i == 5) for i in range(20)]
    info = inspect(film(times))
    assert (info.times is None) == (late == 45)
    assert info.fps == pytest.approx(10, rel=0.01)


@pytest.mark.fault("D8")
def test_a_constant_rate_may_be_rounded_or_undeclared() -> None:
    times = [round(1001 * i / 30) for i in range(60)]  # NTSC in milliseconds
    data = film(times, "matroska")
    at = data.find(b"\x23\xe3\x83")  # DefaultDuration
    assert data[at + 3] == 0x84
    undeclared = data[:at] + b"\xec\x86" + bytes(6) + data[at + 8 :]
    info = inspect(undeclared)
    assert info.times is None and info.fps == pytest.approx(30 / 1.001, abs=0.05)


@pytest.mark.fault("D8")
def test_sizes_are_as_shown() -> None:
    info = inspect(turned_clockwise(film([0, 100, 200])))
    assert (info.width, info.height, info.rotation) == (48, 64, 90)
    odd = inspect(film([0, 100, 200], size=(49, 35), pix_fmt="yuv444p"))
    assert (odd.width, odd.height, odd.rotation, odd.fps) == (49, 35, 0, 10)
    deep = inspect(film([0], pix_fmt="yuv420p10le"))
    assert (deep.frames, deep.width, deep.height) == (1, 64, 48)


@pytest.mark.fault("D8")
@pytest.mark.parametrize("container", ["mp4", "matroska", "avi", "mpegts"])
@pytest.mark.parametrize("frames", [1, 2, 30])
def test_frames_are_counted_in_every_container(container: str, frames: int, make: SimpleNamespace) -> None:
    info = inspect(make.video(frames, container=container))
    assert (info.frames, info.width, info.height, info.times) == (frames, 48, 48, None)
    assert info.fps == pytest.approx(10, rel=0.01) or (frames, container) == (1, "mpegts")  # it says nothing of it


def test_reasons(make: SimpleNamespace) -> None:
    for container in ("mp4", "matroska"):
        data = make.video(40, container=container, faststart=container == "mp4", noise=True)
        with pytest.raises(DataError, match=r"truncated: .* of .* are there"):
            inspect(data[: len(data) * 2 // 3])
    for data, reason in (
        (b"", "empty file"),
        (b"these are words\n" * 99, "looks like text"),
        (make.video(40)[:-200], r"truncated|not a readable"),
        (make.audio(), "no video stream .audio only"),
        (make.video(20, container="h264"), "no frame rate.*put it into an MP4"),
        (bytes(5000), "not a readable video"),
    ):
        with pytest.raises(DataError, match=reason) as caught:
            inspect(data)
        assert "\n" not in str(caught.value)


def test_hidden_frames_are_only_for_transcoding(make: SimpleNamespace) -> None:
    data = make.video(40, gop=10)
    at = data.find(b"elst") + 16
    start = int.from_bytes(data[at : at + 4], "big") + 15 * 1024
    data = data[:at] + start.to_bytes(4, "big") + data[at + 4 :]
    with pytest.raises(DataError, match="5 frames are hidden by an edit list"):
        inspect(data)
    assert inspect(data, to_transcode=True).frames == len(decode(data)) == 25


@pytest.mark.parametrize(("orientation", "size", "rotation"), [(1, (30, 20), 0), (6, (20, 30), 90), (8, (20, 30), 270)])
def test_images(orientation: int, size: tuple[int, int], rotation: int) -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(out, "JPEG", exif=exif)
    info = inspect(out.getvalue())
    assert (info.frames, info.fps, (info.width, info.height), info.rotation) == (1, 1.0, size, rotation)


def test_images_that_are_refused() -> None:
    def saved(image: Image.Image, kind: str, **options: object) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 5
    for data, reason in (
        (saved(noise, "JPEG", exif=exif), "mirrored"),
        (saved(noise, "PNG")[:3000], "cannot be decoded"),
        (saved(noise, "JPEG")[:1000], "cannot be decoded"),
        (saved(Image.new("I;16", (9, 9)), "PNG"), "more than 8 bits"),
        (saved(noise, "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64))]), "animated"),
        (b"\xff\xd8\xff" + bytes(99), "not a readable image"),
    ):
        with pytest.raises(DataError, match=reason):
            inspect(data)


CHECK = """
import resource, sys
from pathlib import Path
from jepa.data.decode import decode, decode_pyav
from jepa.data.errors import DataError
from jepa.data.video import inspect

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
good, *bad = (Path(name).read_bytes() for name in sys.argv[1:])
inspect(good)
before = used()
for data in bad:
    for look in (inspect, decode) + (decode_pyav,) * (data[4:8] == b"ftyp"):
        try:
            look(data)
            print("read")
        except DataError as error:
            print("refused:", error)
print("more:", used() - before)
"""


def test_huge_pictures_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    files = [film([0, 100, 200])]
    files += [huge_mp4(100_000, 100_000), huge_mp4(16_000, 12_000), huge_mp4(16_400, 64)]
    files += [huge_png(100_000, 100_000), huge_png(16_385, 8), huge_jpeg(65_500, 65_500)]
    for i, data in enumerate(files):
        (tmp_path / str(i)).write_bytes(data)
    names = [str(tmp_path / str(i)) for i in range(len(files))]
    done = subprocess.run([sys.executable, "-c", CHECK, *names], capture_output=True, text=True, timeout=60, check=True)
    *answers, more = done.stdout.splitlines()
    assert len(answers) == 3 * 3 + 3 * 2 and all(line.startswith("refused: ") for line in answers)
    assert sum("too many" in line for line in answers) == 2 * 3 + 3 * 2  # FFmpeg refuses the first by itself
    assert int(more.removeprefix("more: ")) < 200  # MiB; a single picture would take 550
