"""Skipping in H.264: the pixels of a full decode from few packets, and no skipping where that is not certain."""

import io
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

import jepa.data.decode as module
from jepa.data import h264
from jepa.data.decode import decode, decode_pyav
from jepa.data.packets import frame_numbers, open_video, read_packets

EVEN = "keyint=8:scenecut=0:bframes=3:b-adapt=0"
SKIPPED = {
    "b-frames": {"x264": "bframes=3:b-adapt=0:b-pyramid=none:keyint=20"},
    "b-pyramid": {"x264": "bframes=5:b-adapt=0:b-pyramid=normal:keyint=20"},
    "strict b-pyramid": {"x264": "bframes=5:b-adapt=0:b-pyramid=strict:keyint=20"},
    "no b-frames": {"x264": "bframes=0:keyint=12"},
    "16 b-frames": {"x264": "bframes=16:b-adapt=2:keyint=250"},
    "slices": {"x264": "slices=3:bframes=3:keyint=16"},
    "weighted prediction": {"x264": "weightp=2:weightb=1:ref=4:bframes=3:b-adapt=0:keyint=30", "fade": True},
    "temporal direct": {"x264": "direct=temporal:bframes=5:b-adapt=0:b-pyramid=normal:ref=4:keyint=30"},
    "baseline": {"x264": "keyint=16", "profile": "baseline"},
    "all key frames": {"x264": "keyint=1"},
    "GOP of 16": {"x264": "keyint=16"},
    "GOP of 250": {"x264": "keyint=250"},
    "4:4:4": {"x264": "bframes=3:keyint=16", "pix_fmt": "yuv444p"},
    "4:4:4 of odd size": {"x264": "bframes=3:keyint=16", "pix_fmt": "yuv444p", "size": (67, 51)},
    "4:2:2 of width 70": {"x264": "bframes=3:keyint=16", "pix_fmt": "yuv422p", "size": (70, 50)},
    "one frame": {"frames": 1},
    "matroska": {"x264": "bframes=3:keyint=16", "container": "matroska"},
    "headers within": {"x264": "bframes=3:keyint=16:repeat-headers=1:aud=1"},
    "BT.709": {"x264": "colormatrix=bt709:colorprim=bt709:transfer=bt709:keyint=16"},
    "BT.2020": {"x264": "colormatrix=bt2020nc:keyint=16"},
    "full range": {"x264": "fullrange=on:keyint=16"},
    "RGB": {"x264": "colormatrix=GBR:keyint=16", "pix_fmt": "yuv444p"},
}
NOT_SKIPPED = {
    "10 bit": {"x264": "keyint=16", "pix_fmt": "yuv420p10le"},
    "10 bit of BT.709": {"x264": "keyint=16:colormatrix=bt709", "pix_fmt": "yuv420p10le"},
    "10 bit in 4:4:4": {"x264": "keyint=16", "pix_fmt": "yuv444p10le"},
    "interlaced": {"x264": "tff=1:keyint=16"},
    "interlaced by name only": {"x264": "fake-interlaced=1:keyint=16"},
}


def film(
    x264: str = "",
    size: tuple[int, int] = (64, 48),
    pix_fmt: str = "yuv420p",
    container: str = "mp4",
    frames: int = 48,
    fade: bool = False,
    **options: str,
) -> bytes:
    """Coloured blocks that move, under noise: each frame differs from all others by much."""
    rng, out = np.random.default_rng(0), io.BytesIO()
    scene = rng.integers(0, 256, (20, 40, 3)).astype(float).repeat(4, 0).repeat(4, 1)
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream("libx264", rate=10)
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        stream.options = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": x264} | options
        for i in range(frames):
            picture = scene[i % 8 : size[1] + i % 8, 2 * i % 90 : size[0] + 2 * i % 90]
            picture = picture * (1 - i / frames * fade) + rng.normal(0, 6, (size[1], size[0], 1))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def kept(data: bytes, ids: list[int]) -> list[int]:
    """Which frames have to be decoded for `ids`."""
    with open_video(data) as container:
        packets = read_packets(container)
        numbers = frame_numbers(packets)
        times = {time for time, i in numbers.items() if i in ids}
        return [numbers[packet.pts] for packet in h264.needed(packets, times)]


@pytest.mark.parametrize("kind", [*SKIPPED, *NOT_SKIPPED])
def test_any_frames_are_those_of_a_full_decode(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = film(**(SKIPPED | NOT_SKIPPED)[kind])
    if kind in NOT_SKIPPED:  # these two ways turn their colours, or the halves of their pictures, into RGB differently
        every = module._decord(data, list(range(48)), 48)
    else:
        every = decode_pyav(data)
        monkeypatch.setattr(module, "_decord", None)  # nor is anything left to PyAV without skipping
        monkeypatch.setattr(module, "_from_last_start", None)
    assert len(np.unique(every.reshape(len(every), -1), axis=0)) == len(every)
    assert np.array_equal(decode(data), every)
    rng = np.random.default_rng(1)
    for _ in range(8):
        ids = rng.integers(0, len(every), rng.integers(1, 12)).tolist()  # in any order, with repeats
        assert np.array_equal(decode(data, ids), every[ids])


@pytest.mark.parametrize("kind", SKIPPED)
def test_colours_are_those_of_decord(kind: str) -> None:
    data = film(**SKIPPED[kind])
    every = decode(data)
    assert np.array_equal(every, module._decord(data, list(range(len(every))), len(every)))


@pytest.mark.parametrize("kind", [*SKIPPED, *NOT_SKIPPED])
def test_only_whole_8_bit_pictures_are_skipped(kind: str) -> None:
    with open_video(film(**(SKIPPED | NOT_SKIPPED)[kind])) as container:
        assert h264.can_skip(read_packets(container)) == (kind in SKIPPED)


def test_only_what_wanted_frames_refer_to_is_decoded() -> None:
    data = film(f"{EVEN}:b-pyramid=none:ref=1")  # shown as I b b b P b b P, again and again
    assert kept(data, [0]) == [0]
    assert kept(data, [2]) == [0, 4, 2]
    assert kept(data, [7]) == [0, 4, 7]
    assert kept(data, [9, 41]) == [8, 12, 9, 40, 44, 41]  # nothing of the groups between
    assert kept(data, [3, 8, 17]) == [0, 4, 3, 8, 16, 20, 17]
    assert kept(film(f"{EVEN}:b-pyramid=strict"), [1]) == [0, 4, 2, 1]  # others refer to the b-frame in the middle
    assert kept(film("bframes=0:keyint=250"), [5]) == [0, 1, 2, 3, 4, 5]


def test_a_reference_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above do not pass because dropped packets change nothing."""
    data = film(**SKIPPED["b-pyramid"])
    expected = decode(data, [7, 19])
    monkeypatch.setattr(h264, "_is_referred_to", lambda packet: packet.is_keyframe)
    assert not np.array_equal(decode(data, [7, 19]), expected)


def test_nothing_is_skipped_where_headers_are_unclear() -> None:
    with open_video(film(**SKIPPED["headers within"])) as container:
        packets = read_packets(container)
        (header,) = h264._parameter_sets(packets[0].stream.codec_context.extradata)
        assert h264._whole_8_bit_pictures(bytes(header))
        assert not h264._whole_8_bit_pictures(bytes(header[:6]))
        other = bytes(header).replace(bytes(header[3:4]), bytes([header[3] + 1]), 1)  # of another level
        where = next(i for i, packet in enumerate(packets) if i and packet.is_keyframe)
        changed = av.Packet(bytes(packets[where]).replace(bytes(header), other))
        changed.stream, changed.is_keyframe = packets[where].stream, True
        assert h264.can_skip(packets)
        assert not h264.can_skip([*packets[:where], changed, *packets[where + 1 :]])
        new = SimpleNamespace(has_sidedata=lambda kind: kind == "new_extradata", is_keyframe=False)
        assert not h264.can_skip([*packets, new])
    assert h264._parameter_sets(None) == h264._parameter_sets(b"\0\0\0\1\x67") == []
