"""Encoding anew: sizes, times, turns, rates and colours are kept or changed as asked, and bytes are the same again."""

import io
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

import jepa.data.transcode as module
from jepa.data.decode import decode, decode_pyav
from jepa.data.errors import DataError
from jepa.data.packets import decode_packets, open_video, read_packets
from jepa.data.transcode import Encoding, transcode
from jepa.data.video import inspect

CODECS = ["h264", "jpeg"]
UNEVEN = [0, 40, 300, 333, 367, 400, 900, 1000, 1100, 1950]  # ms; 367 is 11 / 30 s, rounded up


def film(times: list[int], pix_fmt: str = "yuv420p", hd_colours: bool = False) -> bytes:
    """A grey frame of 64 x 48 of mean 6 i + 12 at each time (ms); a coloured one with the matrix of HD video."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        if hd_colours:
            stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        for i, time in enumerate(times):
            pixels = np.full((48, 64, 3), (220, 30, 40) if hd_colours else min(6 * i + 12, 250), np.uint8)
            pixels[:8, :8] = 255  # which corner is which
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if hd_colours:
                frame = frame.reformat(format=pix_fmt, dst_colorspace=1, dst_color_range=1)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def numbers(frames: np.ndarray) -> list[int]:
    """Without the bright corner."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 3 : height * 2 // 3, width // 3 : width * 2 // 3]
    return np.round((middle.mean((1, 2, 3)) - 12) / 6).astype(int).tolist()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("size", "short_side", "expected"), [((96, 64), 32, (48, 32)), ((30, 20), 32, (30, 20))])
def test_size(codec: str, size: tuple, short_side: int, expected: tuple, make: SimpleNamespace) -> None:
    source = make.video(33, *size, fps=12.5, container="matroska")
    data, suffix = transcode(source, Encoding(codec, short_side))
    info = inspect(data)
    assert (info.width, info.height, info.frames, info.fps, info.times) == (*expected, 33, 12.5, None)
    assert np.round((decode(data).mean((1, 2, 3)) - 12) / 6).astype(int).tolist() == list(range(33))
    assert suffix == "mp4"
    assert transcode(source, Encoding(codec, short_side)) == (data, suffix)


@pytest.mark.parametrize("codec", CODECS)
def test_odd_sizes_lose_a_row(codec: str, make: SimpleNamespace) -> None:
    data = make.video(3, 49, 35, container="webm", codec="libvpx-vp9")
    encoded = transcode(data, Encoding(codec, short_side=0))[0]
    assert (inspect(encoded).width, inspect(encoded).height) == (48, 34)
    assert np.round((decode(encoded).mean((1, 2, 3)) - 12) / 6).astype(int).tolist() == [0, 1, 2]
    assert transcode(data, Encoding(codec, short_side=0))[0] == encoded


def test_gop(make: SimpleNamespace) -> None:
    for codec, gop in (("h264", 7), ("jpeg", 1)):
        with open_video(transcode(make.video(40), Encoding(codec, gop=gop))[0]) as container:
            keys = [i for i, p in enumerate(read_packets(container)) if p.is_keyframe]
        assert keys[0] == 0 and max(b - a for a, b in pairwise([*keys, 40])) == gop


@pytest.mark.parametrize("codec", CODECS)
def test_frames_keep_their_times(codec: str) -> None:
    source = film(UNEVEN)
    data, _ = transcode(source, Encoding(codec))
    assert np.allclose(inspect(data).times, np.array(UNEVEN) / 1000, atol=1e-4)
    assert inspect(data).fps == pytest.approx(inspect(source).fps, rel=1e-4)
    assert numbers(decode(data)) == numbers(decode_pyav(data)) == list(range(10))
    even = inspect(transcode(film([round(1001 * i / 30) for i in range(40)]), Encoding(codec))[0])
    assert even.times is None and even.fps == pytest.approx(30 / 1.001, abs=0.05)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("fps", [4, 10, 12.5, 30])
def test_at_a_constant_rate_a_frame_is_the_last_one_shown(codec: str, fps: float) -> None:
    data, _ = transcode(film(UNEVEN), Encoding(codec, fps=fps))
    info = inspect(data)
    assert (info.times, info.fps) == (None, fps)
    shown = [max(i for i, time in enumerate(UNEVEN) if time <= 1000 * k / fps + 1) for k in range(info.frames)]
    assert numbers(decode(data)) == shown
    end = UNEVEN[-1] / 1000 + UNEVEN[-1] / 1000 / 9  # the last frame lasts as long as the others do on average
    assert (info.frames - 1) / fps < end <= info.frames / fps + 0.001


def test_a_third_of_the_rate_is_every_third_frame(make: SimpleNamespace) -> None:
    for container in ("mp4", "matroska"):  # the latter rounds times to milliseconds
        data, _ = transcode(make.video(40, 64, 64, fps=30, container=container), Encoding(fps=10))
        frames = decode(data).mean((1, 2, 3))
        assert np.round((frames - 12) / 6).astype(int).tolist() == list(range(0, 40, 3))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_are_stored_upright(codec: str, degrees: int) -> None:
    source = film([0, 100, 200])
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    at = source.find(b"tkhd") + 44
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 2**14]) * 2**16
    source = source[:at] + matrix.astype(">i4").tobytes() + source[at + 36 :]
    data, _ = transcode(source, Encoding(codec))
    info = inspect(data)
    assert (info.rotation, info.width, info.height) == (0, *((48, 64) if degrees % 180 else (64, 48)))
    assert np.abs(decode(data).astype(int) - decode(source)).mean() < 3


@pytest.mark.parametrize("codec", CODECS)
def test_colours_stay(codec: str) -> None:
    source = film([0, 100, 200], hd_colours=True)
    expected = decode(source)[1, 30, 40].astype(int)
    assert np.abs(expected - (220, 30, 40)).max() < 4
    data, _ = transcode(source, Encoding(codec))
    for frames in (decode(data), decode_pyav(data)):
        assert np.abs(frames[1, 30, 40] - expected).max() < 4


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p10le"])
def test_output_is_plain_h264(pix_fmt: str) -> None:
    with open_video(transcode(film([0, 100, 200], pix_fmt), Encoding())[0]) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_frames_hidden_by_an_edit_list_are_left_out(make: SimpleNamespace) -> None:
    data = make.video(40, gop=10)
    at = data.find(b"elst") + 16
    start = int.from_bytes(data[at : at + 4], "big") + 15 * 1024
    frames = decode(transcode(data[:at] + start.to_bytes(4, "big") + data[at + 4 :], Encoding())[0])
    assert np.round((frames.mean((1, 2, 3)) - 12) / 6).astype(int).tolist() == list(range(15, 40))


def test_a_video_is_not_shortened_silently(make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make.video(40, gop=10, noise=True)
    with open_video(data) as container:
        packet = bytes(read_packets(container)[15])
    with pytest.raises(DataError, match=r"cannot be encoded anew|cannot be decoded|frames can be decoded"):
        transcode(data.replace(packet, bytes(len(packet))), Encoding())
    monkeypatch.setattr(module, "decode_packets", lambda packets: list(decode_packets(packets))[:-1])
    with pytest.raises(DataError, match="39 of 40 frames can be decoded"):
        transcode(data, Encoding())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images(kind: str) -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((64, 128, 3), 99, np.uint8)).save(out, kind, exif=exif)
    source = out.getvalue()
    assert transcode(source, Encoding(short_side=64)) == (source, {"JPEG": "jpg", "PNG": "png"}[kind])
    assert transcode(source, Encoding(short_side=0))[0] == source
    data, suffix = transcode(source, Encoding("jpeg", short_side=32))
    assert suffix == "jpg" and decode(data).shape == (1, 64, 32, 3) and inspect(data).rotation == 0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"codec": "vp9"}, "codec: 'vp9'"),
        ({"short_side": -1}, "short_side: -1"),
        ({"gop": 0}, "gop: 0"),
        ({"fps": -1.0}, "fps: -1"),
        ({"fps": float("nan")}, "fps: nan"),
    ],
)
def test_values_that_cannot_be(values: dict, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Encoding(**values)


def test_bad_input() -> None:
    with pytest.raises(DataError, match="not a readable video"):
        transcode(bytes(5000), Encoding())
