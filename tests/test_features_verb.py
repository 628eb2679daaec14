"""`jepa features`: windows are those of the film decoded at once, memory is bounded, bad videos are told, PCA films."""

import json
import runpy
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import jepa.interop.encoders
from jepa import cli, features
from jepa.config import ConfigError
from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.transforms import normalize, resize
from jepa.features import Sliding, encoded, extract, windows
from jepa.interop import notes as telling
from jepa.models.encoder import build_encoder
from jepa.models.image_encoder import build_image_encoder
from jepa.pca_film import colours, fit_components, write_pca_film

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("interop") / "interop_fixtures.py")))


@pytest.fixture
def encoder(tiny):
    return build_encoder(tiny, 0).eval().requires_grad_(False)


@pytest.fixture
def film(tmp_path):
    """A noisy square moves over a film of 23 frames of 32×24 px at 10 a second."""
    return write(tmp_path / "film.mp4", 23)


def write(path, frames, height=24, width=32):
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            picture = np.full((height, width, 3), 60, np.uint8)
            picture[8:16, i % (width - 8) :][:, :8] = rng.integers(0, 255, (8, 8, 3))
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def numbered(count):
    return ((i / 10, torch.full((3, 2, 2), i, dtype=torch.uint8)) for i in range(count))


@pytest.mark.parametrize(
    ("count", "window", "stride", "expected"),
    [
        (8, 4, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (9, 4, 4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 8, 8]]),
        (7, 4, 2, [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 6]]),
        (6, 4, 2, [[0, 1, 2, 3], [2, 3, 4, 5]]),
        (9, 2, 4, [[0, 1], [4, 5], [8, 8]]),
        (7, 2, 4, [[0, 1], [4, 5]]),
        (3, 4, 1, [[0, 1, 2, 2]]),
        (0, 4, 1, []),
    ],
)
def test_windows_reach_the_end_and_repeat_its_last_frame(count, window, stride, expected):
    found = list(windows(numbered(count), Sliding(window, stride)))
    assert [w.frames[:, 0, 0, 0].tolist() for w in found] == expected
    assert [list(w.times) for w in found] == [[i / 10 for i in dict.fromkeys(ids)] for ids in expected]


@pytest.mark.parametrize("sliding", [Sliding(4, 4), Sliding(6, 2), Sliding(4, 4, 5.0)])
def test_tokens_equal_those_of_the_film_decoded_at_once(encoder, film, sliding):
    whole = resize(torch.from_numpy(decode(film.read_bytes())).permute(0, 3, 1, 2), 16, 20)  # 16 : 21.3 in patches of 4
    whole = whole[::2] if sliding.fps else whole
    found = list(encoded(film, encoder, sliding))
    starts = range(0, len(whole), sliding.stride)[: len(found)]
    assert found[-1][0].times[-1] == pytest.approx((len(whole) - 1) / (sliding.fps or 10))
    for start, (window, tokens) in zip(starts, found, strict=True):
        ids = torch.arange(start, start + sliding.window).clamp(max=len(whole) - 1)
        assert (window.frames.int() - whole[ids].int()).abs().max() <= 1  # decord rounds colours in its own way
        torch.testing.assert_close(tokens, encoder(normalize(window.frames[None]))[0], atol=1e-5, rtol=1e-5)


def test_memory_does_not_grow_with_the_film(encoder, monkeypatch):
    alive, most = weakref.WeakSet(), 0

    def endless(path, fps):
        nonlocal most
        for i in range(600):
            yield i / 10, np.full((16, 16, 3), i % 250, np.uint8)
            most = max(most, sum(len(t) if t.ndim == 4 else 1 for t in alive))

    def watched(*arguments):
        frame = torch.empty(3, 16, 16, dtype=torch.uint8)
        alive.add(frame)
        return [frame]

    class Watched(features.Window):
        def __init__(self, frames, times):
            super().__init__(frames, times)
            alive.add(frames)

    monkeypatch.setattr(features, "stream", endless)
    monkeypatch.setattr(features, "resize", watched)
    monkeypatch.setattr(features, "Window", Watched)
    count = sum(1 for _ in encoded("film", encoder, Sliding(4, 2)))
    assert count == 299
    assert most <= 4 + 2 * features.BATCH * 4


def test_features_of_many_videos_and_the_one_that_is_damaged(encoder, film, tmp_path):
    short, bad, out = write(tmp_path / "b.mp4", 5), tmp_path / "bad.mp4", tmp_path / "new" / "f.safetensors"
    bad.write_bytes(film.read_bytes()[:700])
    told = []
    videos = [film, bad, tmp_path / "nosuch.mp4", short]
    rejected = extract(videos, encoder, out, "pooled", Sliding(4, 4), "run", lambda *p: told.append(p))
    assert list(rejected) == videos[1:3] and "No such file" in rejected[videos[2]]
    stored = load_file(out)
    assert set(stored) == {f"{v}{s}" for v in (film, short) for s in ("", ":seconds")}
    direct = list(encoded(film, encoder, Sliding(4, 4)))
    assert torch.equal(stored[str(film)], torch.stack([tokens.mean(0) for _, tokens in direct]))
    assert stored[f"{film}:seconds"].tolist()[-1] == pytest.approx([2.0, 2.2])
    assert stored[str(short)].shape == (2, 32)
    assert (film, 1.0, 6) in told and [p.name for p in out.parent.iterdir()] == ["f.safetensors"]
    with safe_open(out, "pt") as file:
        assert file.metadata()["encoder"] == "run" and json.loads(file.metadata()["sliding"])["window"] == 4


def test_a_video_whose_pictures_change_their_shape_is_one_that_cannot_be_used(encoder, film, tmp_path, monkeypatch):
    stream = features.stream

    def turning(path, fps):
        for i, (time, pixels) in enumerate(stream(path, fps)):
            yield time, pixels.transpose(1, 0, 2) if path.name == "turns.mp4" and i >= 6 else pixels

    monkeypatch.setattr(features, "stream", turning)
    (tmp_path / "turns.mp4").write_bytes(film.read_bytes())
    videos, out = [tmp_path / "turns.mp4", film], tmp_path / "f.safetensors"
    bad = extract(videos, encoder, out, "pooled", Sliding(4, 4), "run")
    assert bad == {videos[0]: "its pictures change from 32×24 to 24×32 px at 0.60 s: cut it or re-encode it"}
    assert str(film) in load_file(out)


def test_tokens_of_one_video_as_an_array(encoder, film, tmp_path):
    extract([film], encoder, tmp_path / "f.npy", "tokens", Sliding(4, 4), "run")
    stored = np.load(tmp_path / "f.npy")
    assert stored.shape == (6, 2 * 4 * 5, 32) and stored.dtype == np.float32
    direct = [tokens for _, tokens in encoded(film, encoder, Sliding(4, 4))]
    assert np.array_equal(stored, torch.stack(direct).numpy())


def test_an_image_encoder_serves_as_well(film, tmp_path):
    encoder = build_image_encoder("vit_tiny_patch16_224", "random", size=32)
    extract([film], encoder, tmp_path / "f.safetensors", "tokens", Sliding(3, 3), "timm")
    assert load_file(tmp_path / "f.safetensors")[str(film)].shape == (8, 3 * 2 * 3, 192)  # 32 × 43 px: 2 × 3 patches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding": Sliding(3, 3)}, "--window 3: .* groups of 2"),
        ({"sliding": Sliding(4, 0)}, "--stride 0"),
        ({"level": "cls"}, "--level cls"),
        ({"out": "f.pt"}, "--out .*f.pt"),
        ({"videos": ["a.mp4", "b.mp4"], "out": "f.npy"}, ".npy for one video"),
    ],
)
def test_options_that_do_not_go_together_are_refused(encoder, tmp_path, changes, message):
    given = {"videos": ["a.mp4"], "out": "f.safetensors", "level": "pooled", "sliding": Sliding(4, 4), **changes}
    given["videos"], given["out"] = [tmp_path / v for v in given["videos"]], tmp_path / given["out"]
    with pytest.raises(ConfigError, match=message):
        extract(encoder=encoder, source="run", **given)


def test_no_usable_video_is_an_error_and_leaves_nothing(encoder, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"text")
    with pytest.raises(DataError, match=r"a.mp4: .* 1 more"):
        extract([tmp_path / "a.mp4", tmp_path / "b.mp4"], encoder, tmp_path / "f.safetensors", "pooled", Sliding(4), "")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_colours_are_the_first_components_of_all_tokens(encoder, film):
    sliding = Sliding(4, 4)
    tokens = torch.cat([tokens for _, tokens in encoded(film, encoder, sliding)]).double()
    rgb = colours(tokens, fit_components(film, encoder, sliding))
    centred = tokens - tokens.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    along = centred @ axes.T
    for channel in range(3):
        inside = along[:, channel].abs() < 2 * along[:, channel].std()
        value = torch.from_numpy(rgb[:, channel].astype(float))
        assert abs(np.corrcoef(value[inside], along[inside, channel])[0, 1]) > 0.97


def test_the_film_has_every_frame_beside_its_colours_at_the_videos_aspect(encoder, film, tmp_path):
    count = write_pca_film(tmp_path / "pca.mp4", film, encoder, Sliding(4, 2))
    frames = decode((tmp_path / "pca.mp4").read_bytes())
    assert count == len(frames) == 23
    assert frames.shape[1:3] == (256, 2 * 320)  # 16 × 20 px, times 16
    seen, drawn = frames[:, :, :320].astype(int), frames[:, :, 320:].astype(int)
    whole = resize(torch.from_numpy(decode(film.read_bytes())).permute(0, 3, 1, 2), 16, 20).permute(0, 2, 3, 1)
    assert np.abs(seen[:, 8::16, 8::16] - whole.numpy()).mean() < 12
    cells = drawn.reshape(23, 4, 64, 5, 64, 3)[:, :, 8:56, :, 8:56]
    assert cells.std((2, 4)).mean() < 4 < drawn.std((1, 2)).mean()  # one colour a token, and tokens differ
    pca = fit_components(film, encoder, Sliding(4, 4))
    rgb = np.concatenate(
        [colours(tokens, pca).reshape(2, 4, 5, 3) for _, tokens in encoded(film, encoder, Sliding(4, 4))]
    )
    grey = cells.mean((2, 4, 5))  # H.264 keeps brightness better than colours
    wanted = rgb.repeat(2, 0)[:23].mean(-1)  # two frames share their tokens
    assert np.corrcoef(grey.ravel(), wanted.ravel())[0, 1] > 0.95


def test_the_command_writes_features_and_a_film(encoder, film, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jepa.interop.encoders, "load", lambda *_: SimpleNamespace(encoder=encoder, ac_predictor=None))
    given = [
        "features",
        film,
        "--encoder",
        "run",
        "--out",
        tmp_path / "f.safetensors",
        "--window",
        4,
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(
        sys, "argv", ["jepa", *map(str, given), "--stride", "2", "--device", "cpu", "--pca", str(tmp_path / "pca.mp4")]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code, capsys.readouterr().err
    assert load_file(tmp_path / "f.safetensors")[str(film)].shape == (11, 32)
    assert len(decode((tmp_path / "pca.mp4").read_bytes())) == 23
    assert "pooled features of 1 videos" in capsys.readouterr().err


def test_the_command_takes_the_encoder_that_is_asked_for_and_tells_of_it(film, tmp_path, monkeypatch, capsys):
    given = ["--encoder", str(tmp_path / "vit.pt"), "--out", str(tmp_path / "f.safetensors"), "--window", "4"]
    file = made.meta_checkpoint()
    torch.save(file, tmp_path / "vit.pt")
    monkeypatch.setattr(telling, "_TOLD", set())
    choice = ["--which", "encoder", "--heads", "encoder=2,predictor=2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["jepa", "features", str(film), *given, *choice])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert not ended.value.code and "taken: encoder" in told and "mask token norms: 0: " in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--heads", "two"], "heads 'two': give a number"),
        (["--pca", "a.gif"], "--pca a.gif: must end with .mp4"),
        (["--device", "nosuch"], "--device nosuch: "),
        (["--encoder", "timm/nosuch"], "timm has no model 'nosuch'"),
    ],
)
def test_a_mistake_is_one_line(given, message, tmp_path, monkeypatch, capsys):
    model = ["--encoder", "timm/vit_tiny_patch16_224", "--weights", "random", "--out", str(tmp_path / "f.npy")]
    monkeypatch.setattr(sys, "argv", ["jepa", "features", "a.mp4", *model, *given])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1
