"""Decoding: the right frames of every kind of file by every decoder, images, and nothing fetched from elsewhere."""

import io
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

import jepa.data.decode as module
from jepa.data.decode import decode, decode_pyav
from jepa.data.errors import DataError
from jepa.data.packets import open_video, read_packets

IDS = [0, 3, 31, 17, 39, 39, 24, 23, 25]
UNEVEN = np.cumsum(np.random.default_rng(0).integers(20, 300, 40)).tolist()
OPEN_GOP = "keyint=8:bframes=3:b-adapt=0:scenecut=0"
H264 = {"codec": "libx264", "g": "8"}
GOOD_FOR_DECORD = {
    "mp4": H264,
    "b-frames": H264 | {"bf": "3"},
    "one key frame": H264 | {"g": "250"},
    "fragments": H264 | {"movflags": "frag_keyframe+empty_moov"},
    "webm": {"codec": "libvpx-vp9", "g": "8", "container": "webm"},
    "varying rate": H264 | {"times": UNEVEN},
    "varying rate in matroska": H264 | {"times": UNEVEN, "container": "matroska"},
    "4:4:4 of odd size": H264 | {"pix_fmt": "yuv444p", "size": (49, 35)},
    "10 bit": H264 | {"pix_fmt": "yuv420p10le"},
    "too narrow for decord": H264 | {"size": (48, 48)},
}
BAD_FOR_DECORD = {
    "open gop": {"codec": "libx264", "x264-params": f"open-gop=1:{OPEN_GOP}"},
    "open gop in hevc": {"codec": "libx265", "x265-params": f"open-gop=1:log-level=none:{OPEN_GOP}"},
    "open gop in matroska": {"codec": "libx264", "x264-params": f"open-gop=1:{OPEN_GOP}", "container": "matroska"},
    "intra refresh": {"codec": "libx264", "x264-params": "intra-refresh=1:keyint=10:bframes=0"},
    "b-frames in avi": {"codec": "mpeg4", "g": "8", "bf": "2", "b": "4M", "container": "avi"},
    "mpeg-ts": H264 | {"container": "mpegts"},
    "mpeg": {"codec": "mpeg2video", "g": "8", "bf": "2", "b": "4M", "container": "mpeg", "fps": 25},
    "bare stream": H264 | {"container": "h264"},
}


def film(
    codec: str,
    container: str = "mp4",
    size: tuple[int, int] = (64, 56),
    pix_fmt: str = "yuv420p",
    fps: int = 10,
    times: list[int] | None = None,
    movflags: str = "",
    **options: str,
) -> bytes:
    """40 frames, frame i of mean 6 i + 12; `times` in milliseconds make the rate vary."""
    out = io.BytesIO()
    texture = np.random.default_rng(40).integers(2, 23, (size[1], size[0], 1))
    tick = Fraction(1, 1000 if times else fps)
    with av.open(out, "w", format=container, options={"movflags": movflags} if movflags else {}) as file:
        stream = file.add_stream(codec, rate=fps)
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        stream.codec_context.time_base = tick
        stream.options = {"crf": "18", "threads": "1"} | options
        for i in range(40):
            pixels = (texture + 6 * i).clip(0, 255).astype(np.uint8).repeat(3, 2)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times[i] if times else i, tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def numbers(frames: np.ndarray) -> list[int]:
    return np.round((frames.mean((1, 2, 3)) - 12) / 6).astype(int).tolist()


def turned(data: bytes, degrees: int, mirror: bool = False) -> bytes:
    """The MP4 file with a matrix that has players turn its pictures clockwise."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    side = -1 if mirror else 1
    matrix = np.array([cos, sin, 0, -sin * side, cos * side, 0, 0, 0, 2**14]) * 2**16
    at = data.find(b"tkhd") + 44
    return data[:at] + matrix.astype(">i4").tobytes() + data[at + 36 :]


@pytest.mark.fault("D8")
@pytest.mark.parametrize("kind", [*GOOD_FOR_DECORD, *BAD_FOR_DECORD])
def test_numbers_name_frames_as_they_are_shown(kind: str) -> None:
    data = film(**(GOOD_FOR_DECORD | BAD_FOR_DECORD)[kind])
    every = decode(data)
    assert every.dtype == np.uint8 and len(every) == 40 and every.flags.c_contiguous
    assert numbers(every) == list(range(40))
    assert np.array_equal(decode(data, IDS), every[IDS])
    assert np.array_equal(decode_pyav(data), every)
    for ids in (IDS, [39], [8], [7], [9, 30]):  # at, before and behind a key frame
        assert np.array_equal(decode_pyav(data, ids), every[ids])


@pytest.mark.parametrize("kind", [*GOOD_FOR_DECORD, *BAD_FOR_DECORD])
def test_the_fastest_way_is_only_taken_where_it_counts_as_we_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(module, "_decord", lambda *_: asked.append("decord"))
    monkeypatch.setattr(module, "_skipping", lambda *_: asked.append("skipping"))
    assert len(decode(film(**(GOOD_FOR_DECORD | BAD_FOR_DECORD)[kind]), IDS)) == len(IDS)
    expected = "decord" if kind in ("webm", "10 bit") else "skipping"
    assert asked == ([expected] if kind in GOOD_FOR_DECORD else [])


@pytest.mark.parametrize("kind", list(GOOD_FOR_DECORD)[:-1])
def test_decord_by_itself(kind: str) -> None:
    """So that the tests above do not pass by the fallback alone."""
    data = film(**GOOD_FOR_DECORD[kind])
    assert np.array_equal(module._decord(data, IDS, 40), decode_pyav(data, IDS))


@pytest.mark.fault("D8")
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_upright(degrees: int) -> None:
    data = film(**H264)
    expected = np.rot90(decode(data, [5, 30]), -degrees // 90, axes=(1, 2))
    assert np.array_equal(decode_pyav(turned(data, degrees), [5, 30]), expected)
    assert np.array_equal(module._decord(turned(data, degrees), [5, 30], 40), expected)
    assert np.array_equal(decode(turned(data, degrees), [5, 30]), expected)
    assert np.array_equal(decode(turned(data, degrees), [5, 30], rotation=degrees), expected)
    assert np.array_equal(decode(data, [5, 30], rotation=degrees), expected)


def test_mirrored_pictures_are_refused() -> None:
    for way in (decode, decode_pyav):
        with pytest.raises(DataError, match="mirrored"):
            way(turned(film(**H264), 90, mirror=True))


def test_frames_hidden_by_an_edit_list_have_no_number() -> None:
    data = film(**H264)
    at = data.find(b"elst") + 16
    start = int.from_bytes(data[at : at + 4], "big") + 15 * 1024  # decoding starts at the key frame before it, 8
    cut = data[:at] + start.to_bytes(4, "big") + data[at + 4 :]
    assert numbers(decode(cut)) == list(range(15, 40))
    assert numbers(decode(cut, [24, 0, 9])) == [39, 15, 24]


def test_late_frames_are_reached_from_their_key_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    whole = module._numbered
    monkeypatch.setattr(
        module, "_numbered", lambda packets, *rest: (lengths.append(len(packets)), whole(packets, *rest))[1]
    )
    for kind in ("mp4", "varying rate in matroska", "open gop in hevc", "open gop", "mpeg-ts"):
        decode_pyav(film(**(GOOD_FOR_DECORD | BAD_FOR_DECORD)[kind]), [35])
    assert lengths[:2] == [8, 8] and lengths[2] < 16  # an open GOP begins before its key frame
    assert lengths[3:] == [40, 40]  # nothing tells these key frames from places where pictures only heal


class OneFrameShort:
    """Stands for decord's reader where it misses a frame."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __len__(self) -> int:
        return 39

    def get_batch(self, ids: list[int]) -> SimpleNamespace:
        return SimpleNamespace(asnumpy=lambda: np.zeros((len(ids), 56, 64, 3), np.uint8))


def test_pyav_takes_over_where_decord_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import decord

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("cannot read this")

    data = film(**GOOD_FOR_DECORD["webm"])
    expected = decode(data, [1, 4])
    monkeypatch.setattr(decord, "VideoReader", broken)
    assert np.array_equal(decode(data, [1, 4]), expected)
    monkeypatch.setattr(decord, "VideoReader", OneFrameShort)
    assert np.array_equal(decode(data, [1, 4]), expected)


def test_pyav_decodes_all_where_skipping_gives_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    data = film(**H264)
    expected = decode(data, [1, 4, 39])
    for lost in (1, 9):
        monkeypatch.setattr(module, "needed", lambda packets, _, lost=lost: packets[:-lost])
        assert np.array_equal(decode(data, [1, 4, 39]), expected)


def test_jpeg_frames_are_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    from jepa.data.transcode import Encoding, transcode

    data, _ = transcode(film(**H264), Encoding("jpeg", short_side=0))
    every = decode(data)
    assert numbers(every) == numbers(decode_pyav(data)) == list(range(40))
    with open_video(data) as container:
        packets = [bytes(p) for p in read_packets(container)]
    assert np.array_equal(every[7], np.asarray(Image.open(io.BytesIO(packets[7]))))
    broken = data.replace(packets[8], packets[8][:100] + b"\0" * (len(packets[8]) - 100))
    decoded, one = [], simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: (decoded.append(a), one(*a, **k)))
    assert np.array_equal(decode(broken, [7, 39, 7]), every[[7, 39, 7]]) and len(decoded) == 3
    with pytest.raises(DataError, match="no frame 40"):
        decode(data, [40])
    smaller = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)).ljust(len(packets[3]), b"\0")
    with pytest.raises(DataError, match="frame 3 cannot be decoded: it has another size"):
        decode(data.replace(packets[3], smaller), [3])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_images_are_one_frame(kind: str) -> None:
    out = io.BytesIO()
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:10, :15] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turn = 0 if kind == "BMP" else 1
    Image.fromarray(picture).save(out, kind, **({"exif": exif} if turn else {}))
    frames = decode(out.getvalue(), [0, 0])
    expected = np.rot90(picture, -turn)
    assert frames.shape == (2, *expected.shape) and np.abs(frames.astype(int) - expected).mean() < 4
    with pytest.raises(DataError, match="no frame 1"):
        decode(out.getvalue(), [1])


def test_errors(make: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(b"\0" * 100)
    for size in (48, 64):
        with pytest.raises(DataError, match="no frame 9"):
            decode(make.video(9, size, size), [0, 9])
        with pytest.raises(DataError, match="no frame -1"):
            decode(make.video(9, size, size), [-1])
    with pytest.raises(DataError, match="no frame 40"):
        decode(film(**BAD_FOR_DECORD["bare stream"]), [40])
    with pytest.raises(DataError, match="no video stream"):
        decode(make.audio())
    with pytest.raises(DataError, match="has no frame"):
        decode(make.video(9), [])


def test_pictures_that_change_size_are_refused() -> None:
    joined = film(**BAD_FOR_DECORD["mpeg-ts"]) + film(**BAD_FOR_DECORD["mpeg-ts"] | {"size": (96, 80)})
    with pytest.raises(DataError, match="change size"):
        decode(joined)


def test_a_playlist_opens_nothing(make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg would follow the entries of a playlist to other files and addresses."""
    (tmp_path / "secret.mp4").write_bytes(make.video(5))
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile secret.mp4\n"
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_pyav(playlist)
