"""Contact sheets and films: exact pixels in their places, hidden pixels darker and no others, repeats marked."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jepa import cli
from jepa.config import build, load_config
from jepa.data.clip import Clip
from jepa.data.index import Manifest
from jepa.data.loader import clips
from jepa.data.show import CAPTION, COLUMNS, DARK, EDGE, GAP, REPEATED, contact_sheet, film, write_mp4, write_png
from jepa.pretrain import PretrainConfig

SIDE = 128  # pixels, shown as they are
TILE = SIDE + 2 * EDGE


def noise(clips: int, frames: int, side: int = SIDE) -> Clip:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (clips, frames, 3, side, side), generator=generator, dtype=torch.uint8)
    ids = torch.arange(clips)
    return Clip(pixels, ids, torch.zeros_like(ids), 0, torch.ones(clips, frames, dtype=torch.bool))


def labels(clip: Clip) -> list[str]:
    return [f"clip {i}" for i in clip.sample_id.tolist()]


def tile(picture: np.ndarray, row: int, column: int, block: int = 0) -> np.ndarray:
    """A frame of the sheet, `row` counted in captioned rows, without its edge; blocks of clips are below each other."""
    top = row * (TILE + CAPTION) + CAPTION + EDGE + block * GAP
    left = column * TILE + EDGE
    return picture[top : top + SIDE, left : left + SIDE]


def frame(clip: Clip, b: int, t: int) -> np.ndarray:
    return clip.frames[b, t].permute(1, 2, 0).numpy()


def test_the_sheet_has_the_frames_in_their_places() -> None:
    clip = noise(3, 12)
    sheet = contact_sheet(clip, labels(clip))
    assert sheet.dtype == np.uint8 and sheet.shape == (3 * (TILE + CAPTION + GAP), 12 * TILE + GAP, 3)
    for b in range(3):
        for t in range(12):
            np.testing.assert_array_equal(tile(sheet, b, t, b), frame(clip, b, t))


def test_of_long_clips_frames_at_even_distances_are_shown() -> None:
    clip = noise(1, 46)
    sheet = contact_sheet(clip, labels(clip))
    for column, t in enumerate(range(0, 46, 3)):
        np.testing.assert_array_equal(tile(sheet, 0, column), frame(clip, 0, t))
    assert sheet.shape[1] == COLUMNS * TILE + GAP


def test_short_clips_stand_side_by_side() -> None:
    clip = noise(5, 4)
    sheet = contact_sheet(clip, labels(clip))
    assert sheet.shape == (2 * (TILE + CAPTION + GAP), 4 * (4 * TILE + GAP), 3)
    right = sheet[:, 3 * (4 * TILE + GAP) :]
    np.testing.assert_array_equal(tile(right, 0, 2), frame(clip, 3, 2))
    np.testing.assert_array_equal(tile(sheet, 1, 2, 1), frame(clip, 4, 2))
    assert (sheet[TILE + CAPTION + GAP :, 4 * TILE :] == 255).all()  # there is no sixth clip


def test_small_frames_are_enlarged_pixel_by_pixel() -> None:
    clip = noise(1, 9, side=40)
    sheet = contact_sheet(clip, labels(clip))
    assert sheet.shape[1] == 9 * (120 + 2 * EDGE) + GAP
    shown = sheet[CAPTION + EDGE :, EDGE:][:120, :120]
    for i in range(3):
        for j in range(3):
            np.testing.assert_array_equal(shown[i::3, j::3], frame(clip, 0, 0))


def test_hidden_pixels_are_darker_and_no_others() -> None:
    clip = noise(2, 9)
    hidden = torch.rand(2, 9, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) < 0.5
    plain = contact_sheet(clip, labels(clip))
    sheet = contact_sheet(clip, labels(clip), {"short masks": hidden, "long masks": ~hidden})
    for b in range(2):
        for t in range(9):
            whole, mask = frame(clip, b, t), hidden[b, t].numpy()
            np.testing.assert_array_equal(tile(sheet, 3 * b, t, b), tile(plain, b, t, b))
            for row, dark in ((1, mask), (2, ~mask)):
                shown = tile(sheet, 3 * b + row, t, b)
                np.testing.assert_array_equal(shown[~dark], whole[~dark])
                np.testing.assert_array_equal(shown[dark], (DARK * whole[dark]).astype(np.uint8))


def test_repeats_have_a_marked_edge_and_are_counted_in_the_caption() -> None:
    clip = noise(2, 9)
    sound = contact_sheet(clip, labels(clip))
    clip.valid[1, 7:] = False
    sheet = contact_sheet(clip, labels(clip))
    changed = (sheet != sound).any(-1)
    assert not changed[: TILE + CAPTION + GAP].any()  # nothing at the first clip
    second = changed[TILE + CAPTION + GAP :]
    assert second[:CAPTION].any()
    edges = np.zeros_like(second)
    edges[CAPTION : CAPTION + TILE, 7 * TILE : 9 * TILE] = True
    for t in (7, 8):
        edges[CAPTION + EDGE : CAPTION + TILE - EDGE, t * TILE + EDGE : (t + 1) * TILE - EDGE] = False
    np.testing.assert_array_equal(second[CAPTION:], edges[CAPTION:])
    assert (sheet[TILE + CAPTION + GAP :][edges] == REPEATED).all()


def test_captions_name_their_own_row() -> None:
    clip = noise(2, 9)
    sheet = contact_sheet(clip, ["one", "two"], {"mask": torch.zeros(2, 9, SIDE, SIDE, dtype=torch.bool)})

    def caption(row: int, block: int) -> bytes:
        top = row * (TILE + CAPTION) + block * GAP
        return sheet[top : top + CAPTION].tobytes()

    one, mask, two, again = (caption(row, block) for row, block in ((0, 0), (1, 0), (2, 1), (3, 1)))
    assert mask == again and len({one, two, mask}) == 3


def test_a_film_has_every_frame_of_every_clip_and_even_sides() -> None:
    clip = noise(3, 5, side=129)  # tiles of odd sides
    hidden = torch.ones(3, 5, 129, 129, dtype=torch.bool)
    shown = film(clip, labels(clip), {"all": hidden})
    assert shown.shape[0] == 5 and shown.shape[1] % 2 == shown.shape[2] % 2 == 0
    side = 129 + 2 * EDGE
    for b, (row, column) in enumerate([(0, 0), (0, 1), (1, 0)]):
        top, left = row * (side + CAPTION + GAP) + CAPTION + EDGE, column * (2 * side + GAP) + EDGE
        for t in range(5):
            whole = frame(clip, b, t)
            np.testing.assert_array_equal(shown[t, top : top + 129, left : left + 129], whole)
            dark = shown[t, top : top + 129, left + side : left + side + 129]
            np.testing.assert_array_equal(dark, (DARK * whole).astype(np.uint8))
    alone = noise(1, 2, side=129)
    assert film(alone, labels(alone)).shape == (2, side + CAPTION + GAP + 1, side + GAP + 1, 3)


def test_files_hold_what_was_drawn(tmp_path: Path) -> None:
    clip = noise(1, 3)
    sheet = contact_sheet(clip, labels(clip))
    write_png(tmp_path / "new" / "sheet.png", sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "sheet.png")), sheet)
    smooth = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (6, 32, 64, 3))
    write_mp4(tmp_path / "film.mp4", smooth // np.arange(1, 7, dtype=np.uint8)[:, None, None, None], 2.5)
    with av.open(str(tmp_path / "film.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264" and float(stream.average_rate) == 2.5
        frames = [f.to_ndarray(format="rgb24").astype(int) for f in file.decode(video=0)]
    assert len(frames) == 6
    assert all(np.abs(f - smooth[0] // (1 + i)).mean() < 6 for i, f in enumerate(frames))


TINY = ["data.frames=4", "data.size=32", "encoder.size=32"]


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli.app, ["data", "show", *map(str, arguments)])
    return done.output if done.exit_code == 0 else str(done.exception)


def test_the_verb_shows_the_first_clips_of_a_training_run_with_its_masks(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips.png"
    said = run(shards, *TINY, "data.hflip=true", "--clips", 3, "--seed", 5, "--masks", "--out", out)
    assert said.startswith("3 clips of 4 frames in ")
    given = ["seed=5", *TINY, "data.hflip=true", f"data.shards={shards}", "data.cache_gb=0"]
    config = load_config(PretrainConfig, "pretrain", "demo", given)
    manifest = Manifest.load(shards)
    clip = next(clips([manifest], config.data, batch_size=3, seed=5, steps=1))
    grid = (2, 4, 4)
    hidden = {}
    for name, mask in zip(
        ("short masks", "long masks"),
        build(config.masks, 5).sample(grid, clip.sample_id, clip.epoch, 0),
        strict=True,
    ):
        hidden[name] = torch.ones(3, 4, 32, 32, dtype=torch.bool)
        for b in range(3):
            for token in mask.context[b].tolist():  # an independent reading of the raster order
                t, row, column = token // 16, token // 4 % 4, token % 4
                hidden[name][b, 2 * t : 2 * t + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = False
    names = [f"{manifest[i].key} · 10 fps" for i in clip.sample_id.tolist()]
    np.testing.assert_array_equal(np.asarray(Image.open(out)), contact_sheet(clip, names, hidden))


def test_the_verb_writes_a_film_at_the_clips_rate(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips.mp4"
    assert "2 clips of 4 frames" in run(shards, *TINY, "data.fps=5", "--clips", 2, "--out", out)
    with av.open(str(out)) as file:
        assert float(file.streams.video[0].average_rate) == 5 and len(list(file.decode(video=0))) == 4


def test_the_verb_says_which_sample_could_not_be_read(shards: Path, tmp_path: Path) -> None:
    import shutil

    copied = Path(shutil.copytree(shards, tmp_path / "copy"))
    entry = Manifest.load(copied)[0]
    data = bytearray((copied / entry.shard).read_bytes())
    data[entry.members["mp4"][0]] ^= 1
    (copied / entry.shard).write_bytes(data)
    said = " ".join(run(copied, *TINY, "--clips", 12, "--out", tmp_path / "a.png").split())
    assert f"unreadable, replaced {entry.shard}: {entry.key}" in said and "sha256" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "clips.gif"], "must end with .png or .mp4"),
        (["--preset", "nosuch"], "no pretrain preset 'nosuch'"),
        (["data.nosuch=1"], "nosuch"),
        ([*TINY, "encoder.patch=7", "--masks"], "do not divide into tokens"),
    ],
)
def test_a_mistake_is_one_line(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(shards, *arguments)
    assert message in said and "\n" not in said
    assert not list(tmp_path.iterdir())
