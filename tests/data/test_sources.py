"""The contract of every source, and what is special about those of plain files."""

import importlib
import json
import pickle
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.keys import view_endings
from jepa.data.sources import base, collected, csv, folder, images
from jepa.data.sources.base import Recording, Rejected, safe_key

fixtures = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("source_fixtures.py"))))

EXAMPLES: dict[str, tuple[str, Callable[[Path, SimpleNamespace], Path], int]] = {
    "folder": ("folder", fixtures.write_folder, 2),
    "csv": ("csv", lambda path, make: fixtures.write_csv(path.with_name("list.csv"), make), 4),
    "images": ("images", fixtures.write_images, 3),
    "collected": ("collected", lambda path, make: make.collected(path, [8, 5]), 2),
    "lerobot_v2": ("lerobot", fixtures.write_lerobot_v2, 4),
    "lerobot_v3": ("lerobot", fixtures.write_lerobot_v3, 4),
    "droid": ("droid", fixtures.write_droid, 6),
    "robomimic": ("robomimic", fixtures.write_robomimic, 4),
}
"""Name -> source, maker of a data set, how many recordings it has."""

KINDS = sorted(p.stem for p in Path(base.__file__).parent.glob("*.py") if p.stem not in ("base", "__init__"))


def source_of(kind: str):
    return importlib.import_module(f"jepa.data.sources.{kind}")


def test_every_source_has_an_example() -> None:
    assert sorted({kind for kind, *_ in EXAMPLES.values()}) == KINDS


@pytest.mark.parametrize("name", EXAMPLES)
def test_contract(name: str, tmp_path: Path, make: SimpleNamespace) -> None:
    kind, write, count = EXAMPLES[name]
    path, source = write(tmp_path / "in", make), source_of(kind)
    spec = source.spec(path)
    assert isinstance(spec, Spec) and spec.samples == 0
    assert len(spec.action_units) == spec.action_dim and len(spec.state_units) == spec.state_dim
    found = list(source.recordings(path))
    assert len(found) == count and all(isinstance(r, Recording) for r in found)
    assert len({r.key for r in found}) == count and all(re.fullmatch(r"[A-Za-z0-9_-]+", r.key) for r in found)
    assert list(source.recordings(path)) == found
    for recording in found:
        assert all(isinstance(part, str | int | float) for part in recording.place)
        episode = source.load(path, pickle.loads(pickle.dumps(recording)))
        assert re.fullmatch(r"[a-z0-9]+", episode.suffix)
        assert json.loads(json.dumps(episode.meta)) == episode.meta
        assert isinstance(episode.language, str) and (episode.label is None or isinstance(episode.label, int))
        length = len(fixtures.frames(episode.video))
        for array, dim in (("actions", spec.action_dim), ("states", spec.state_dim)):
            if dim:
                assert episode.arrays[array].dtype == np.float32
                assert episode.arrays[array].shape == (length - (array == "actions"), dim)
        assert all(len(episode.arrays[extra]) == length for extra in spec.extra)
        assert source.load(path, recording).video == episode.video


@pytest.mark.parametrize("kind", KINDS)
def test_missing_path(kind: str, tmp_path: Path) -> None:
    for function in (source_of(kind).spec, lambda path: list(source_of(kind).recordings(path))):
        with pytest.raises(DataError, match=r"no such (folder|file): .*nowhere|nowhere' is not a file"):
            function(tmp_path / "nowhere")


def test_other_files_of_a_folder_are_listed(tmp_path: Path, make: SimpleNamespace) -> None:
    path = fixtures.write_folder(tmp_path / "in", make)
    (path / "notes.txt").write_text("no video")
    (path / "gone.mp4").symlink_to("nowhere")
    rejected = [r for r in folder.recordings(path) if isinstance(r, Rejected)]
    assert [(r.file, r.reason) for r in rejected] == [
        ("gone.mp4", "not a file"),
        ("notes.txt", "not a video file (suffix '.txt')"),
    ]
    recording = next(r for r in folder.recordings(path) if isinstance(r, Recording))
    (path / recording.file).unlink()
    with pytest.raises(DataError, match="No such file"):
        folder.load(path, recording)


def test_csv_labels_and_paths(tmp_path: Path, make: SimpleNamespace) -> None:
    path = fixtures.write_csv(tmp_path / "list.csv", make)
    found = [csv.load(path, recording) for recording in csv.recordings(path)]
    assert [episode.label for episode in found] == [3, 0, 12, 1]
    assert [len(fixtures.frames(episode.video)) for episode in found] == [8, 5, 6, 1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("b.mp4", "not 'path label'"),
        ("b.mp4 x", "not 'path label'"),
        ("b.mp4 1.5", "not 'path label'"),
        ("with space/c d.mp4 1", "put '::' between them if the path has spaces"),
        ("gone.mp4 1", "no such file: .*gone"),
        ("list.csv 1", "neither a video nor an image"),
        ("videos/a.mp4 4", r"'videos/a\.mp4' is listed in line 1 already"),
        ("\0.mp4 4", "no such file"),
    ],
)
def test_a_broken_line_is_listed_and_the_others_stay(
    line: str, reason: str, tmp_path: Path, make: SimpleNamespace
) -> None:
    path = fixtures.write_csv(tmp_path / "list.csv", make)
    path.write_text(f'\ufeffvideos/a.mp4 3\n\n{line}\n"with space/c d.mp4" 7\n', encoding="utf-8")
    first, broken, last = csv.recordings(path)
    assert isinstance(broken, Rejected) and broken.file == "list.csv, line 3" and re.search(reason, broken.reason)
    assert (first.file, first.place, last.file, last.place) == ("videos/a.mp4", (3,), "with space/c d.mp4", (7,))


def test_csv_wants_the_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; give the \.csv file"):
        csv.spec(tmp_path)


def test_images_have_labels_where_each_class_has_a_folder(tmp_path: Path, make: SimpleNamespace) -> None:
    path = fixtures.write_images(tmp_path / "in", make)
    (path / "n03").mkdir()  # no image, no class
    (path / "readme.txt").write_text("")
    assert images.spec(path).labels == {"label": ("n01", "n02")}
    found = list(images.recordings(path))
    assert [r.file for r in found] == ["n01/a.JPG", "n02/c.webp", "n02/deep/b.png", "readme.txt"]
    assert isinstance(found[3], Rejected) and found[3].reason == "not an image file (suffix '.txt')"
    episodes = [images.load(path, r) for r in found[:3]]
    assert [(e.label, e.suffix) for e in episodes] == [(0, "jpg"), (1, "webp"), (1, "png")]
    (path / "beside.bmp").write_bytes(fixtures.image("bmp"))
    assert images.spec(path).labels == {}
    assert images.load(path, next(images.recordings(path))).label is None


def test_collected_needs_its_description(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.collected(tmp_path / "in", [5])
    info = path / "dataset.json"
    text = info.read_text()
    for old, new, complaint in (
        ("episodes-1", "episodes-9", "is not jepa-episodes-1"),
        ('"fps"', '"rate"', "no 'fps'"),
        ('"action_dim": 7', '"action_dim": "x"', "damaged"),
        ("{", "", "damaged"),
    ):
        info.write_text(text.replace(old, new))
        with pytest.raises(DataError, match=complaint):
            collected.spec(path)
    info.unlink()
    with pytest.raises(DataError, match=r"no dataset\.json"):
        collected.spec(path)


def test_damaged_arrays_are_told(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.collected(tmp_path / "in", [5])
    (recording,) = collected.recordings(path)
    np.savez(path / "episode_000000.npz", states=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"episode_000000\.npz cannot be read"):
        collected.load(path, recording)


def test_keys_differ_where_only_unsafe_characters_differ() -> None:
    names = ["a b.mp4", "a_b.mp4", "a/b.mp4", "../a/b.mp4", "\u00e9.mp4", "\u00e8.mp4", "x" * 300, "y" + "x" * 299]
    keys = {safe_key(name) for name in names}
    assert len(keys) == len(names) and max(map(len, keys)) < 80


def test_cameras_add_different_endings_that_do_not_depend_on_the_choice() -> None:
    assert view_endings(["a.b"], None, Path()) == {"a.b": ""}
    assert view_endings(["a.b", "c"], None, Path()) == {"a.b": "__a_b", "c": "__c"}
    assert view_endings(["a.b", "c"], "c", Path()) == {"c": "__c"}
    alike = view_endings(["a.b", "a_b"], None, Path())
    assert len(set(alike.values())) == 2
    with pytest.raises(DataError, match=r"no camera 'd'; there are: a\.b, c"):
        view_endings(["a.b", "c"], "d", Path())
