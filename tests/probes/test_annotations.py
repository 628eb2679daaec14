"""Official annotations: small files true to each format, the same contract for every reader, and each mistake."""

import csv
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from jepa.config import plugin_names
from jepa.data.remux import encode_images
from jepa.probes.annotations.base import UNSEEN, Sample
from jepa.probes.kinds.base import ProbeError

READERS = plugin_names("jepa.probes.annotations")


def table(path, *rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return str(path)


def dump(path, value):
    path.write_text(json.dumps(value))
    return str(path)


def lines(path, *text):
    path.write_text("\n".join(text) + "\n")
    return str(path)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


KINETICS = ("label", "youtube_id", "time_start", "time_end", "split")


def kinetics(folder):
    """One split with folders of classes, one without; two clips are not there."""
    train = [("air drumming", "-a_b", 10, 20, "train"), ("zumba, slow", "kQ0", 0, 10, "train")]
    test = [("zumba, slow", "val1", 123, 133, "val"), ("air drumming", "gone", 5, 15, "val")]
    videos = ("train/air drumming/-a_b_000010_000020.mp4", "train/zumba/kQ0_000000_000010.webm")
    return {
        "train": table(folder / "train.csv", KINETICS, *train),
        "test": table(folder / "val.csv", KINETICS, *test),
        "videos": touch(folder / "videos", *videos, "val/val1_000123_000133.MP4", "val/gone_000005_000015.mp4.part"),
    }


def plain_list(folder):
    touch(folder, "a.mp4", "with space.mp4", "c.mp4", "sub/d.jpg")
    train = lines(folder / "train.csv", "a.mp4 0", '"with space.mp4" 1', "", "with two words.mp4::2")
    return {"train": train, "test": lines(folder / "test.csv", f"{folder / 'c.mp4'} 1", "sub/d.jpg 0", "gone.mp4 2")}


def ssv2(folder):
    def entries(*pairs):
        return [{"id": i, "label": "holding a pen", "template": t, "placeholders": ["a pen"]} for i, t in pairs]

    holding, tearing = "Holding [something]", "Pretending to tear [something that cannot be torn]"
    return {
        "labels": dump(
            folder / "labels.json", {"Pretending to tear something that cannot be torn": "1", "Holding something": "0"}
        ),
        "train": dump(folder / "train.json", entries(("78687", holding), ("42326", tearing))),
        "test": dump(folder / "validation.json", entries(("74225", tearing), ("1", holding), ("2", holding))),
        "videos": touch(folder / "20bn", "78687.webm", "42326.webm", "74225.webm", "1.mp4"),
    }


def coin_entry(number, task, subset):
    step = {"id": "1", "segment": [5.0, 9.0], "label": "unscrew the old bulb"}
    about = {"video_url": "https://www.youtube.com/embed/x", "duration": 60.5, "start": 4.0, "end": 50.0}
    return about | {"recipe_type": number, "class": task, "subset": subset, "annotation": [step]}


def coin(folder):
    database = {
        "-8NaVGEccgc": coin_entry(5, "ReplaceBulb", "training"),
        "bbb": coin_entry(0, "AssembleBed", "training"),
        "ccc": coin_entry(5, "ReplaceBulb", "testing"),
        "ddd": coin_entry(0, "AssembleBed", "testing"),
    }
    videos = touch(folder / "videos", "5/-8NaVGEccgc.mp4", "0/bbb.mp4", "5/ccc.mkv")
    return {"labels": dump(folder / "COIN.json", {"database": database}), "videos": videos}


def diving48(folder):
    def entries(*pairs):
        return [{"vid_name": name, "start_frame": 0, "end_frame": 133, "label": label} for name, label in pairs]

    return {
        "vocab": dump(
            folder / "Diving48_vocab.json", [["Back", "15som", "05Twis", "FREE"], ["Back", "25som", "NoTwis", "PIKE"]]
        ),
        "train": dump(folder / "train.json", entries(("_8Vy3dlHg2w_00000", 0), ("-mJsM_x_00001", 1))),
        "test": dump(folder / "test.json", entries(("_8Vy3dlHg2w_00007", 1), ("zz_00001", 0))),
        "videos": touch(folder / "rgb", "_8Vy3dlHg2w_00000.mp4", "-mJsM_x_00001.mp4", "_8Vy3dlHg2w_00007.mp4"),
    }


def jester(folder):
    gestures = ("Swiping Left", "No gesture")
    return {
        "labels": lines(folder / "jester-v1-labels.csv", *gestures),
        "train": lines(folder / "jester-v1-train.csv", "34870;No gesture", "56557;Swiping Left"),
        "test": lines(folder / "jester-v1-validation.csv", "9;Swiping Left", "10;No gesture"),
        "videos": touch(
            folder / "20bn-jester-v1", "34870/00001.jpg", "56557/00001.jpg", "9/00001.jpg", "10.txt", "11.mp4"
        ),
    }


def imagenet(folder):
    train = touch(
        folder / "train",
        "n02/n02_10.JPEG",
        "n02/n02_9.JPEG",
        "n01/n01_1.JPEG",
        "n01/.hidden",
    )
    return {"train": train, "test": touch(folder / "val", "n01/ILSVRC2012_val_2.JPEG", "n02/ILSVRC2012_val_1.JPEG")}


OFFICIAL = (
    *("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp"),
    *("start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns"),
    "all_noun_classes",
)


def epic_row(video, start, verb, noun):
    seconds = f"00:00:0{start:.2f}"
    times = (seconds, seconds, f"01:02:03.{10 * start:02.0f}", 60 * start, 60 * start + 90)
    words = ("open fridge, slowly", "open", verb, "fridge", noun, f"['fridge', {noun}]", f"[{noun}]")
    return (f"{video}_0", video.split("_")[0], video, *times, *words)


def epic_kitchens(folder):
    """Verbs 3 and 8, nouns 2 and 12, three of four pairs in train; test has two pairs that train lacks."""
    train = [epic_row("P01_01", 1, 8, 2), epic_row("P01_01", 2, 3, 12), epic_row("P02_101", 3, 3, 2)]
    test = [epic_row("P01_02", 1.5, 8, 2), epic_row("P01_02", 3, 8, 12), epic_row("P03_03", 4, 9, 2)]
    names = [(3, "close", "['close']", "essential"), (8, "open", "['open']", "essential")]
    return {
        "train": table(folder / "EPIC_100_train.csv", OFFICIAL, *train),
        "test": table(folder / "EPIC_100_validation.csv", OFFICIAL, *test, epic_row("P09_09", 5, 3, 2)),
        "videos": touch(
            folder / "EPIC", "P01/videos/P01_01.MP4", "P02/P02_101.MP4", "P01/P01_02.MP4", "P03/videos/P03_03.MP4"
        ),
        "verbs": table(
            folder / "EPIC_100_verb_classes.csv",
            ("id", "key", "instances", "category"),
            *names,
            (9, "wash", "['wash']", "clean"),
        ),
    }


WRITERS = {
    "kinetics": kinetics,
    "csv": plain_list,
    "ssv2": ssv2,
    "coin": coin,
    "diving48": diving48,
    "jester": jester,
    "imagenet": imagenet,
    "epic_kitchens": epic_kitchens,
}
"""Reader -> maker of a small data set, which returns the config."""

EXPECTED = {
    "kinetics": (("air drumming", "zumba, slow"), [(1, "val1")], ["gone_000005_000015"]),
    "csv": (("0", "1", "2"), [(1, "{}/c.mp4"), (0, "{}/sub/d.jpg")], ["{}/gone.mp4"]),
    "ssv2": (
        ("Holding something", "Pretending to tear something that cannot be torn"),
        [(1, "74225"), (0, "1")],
        ["2"],
    ),
    "coin": (("AssembleBed", "ReplaceBulb"), [(1, "ccc")], ["ddd"]),
    "diving48": (("Back 15som 05Twis FREE", "Back 25som NoTwis PIKE"), [(1, "_8Vy3dlHg2w")], ["zz_00001"]),
    "jester": (("Swiping Left", "No gesture"), [(0, "9")], ["10"]),
    "imagenet": (
        ("n01", "n02"),
        [(0, "{}/val/n01/ILSVRC2012_val_2.JPEG"), (1, "{}/val/n02/ILSVRC2012_val_1.JPEG")],
        [],
    ),
    "epic_kitchens": (
        {"verb": ("close", "open"), "noun": ("2", "12"), "action": ("close 2", "close 12", "open 2")},
        [((1, 0, 2), "P01_02"), ((1, 1, UNSEEN), "P01_02"), ((UNSEEN, 0, UNSEEN), "P03_03")],
        ["P09_09"],
    ),
}
"""Reader -> classes, (label, group) of the test samples, and what is missing; {} is the folder."""


def reader(name):
    return importlib.import_module(f"jepa.probes.annotations.{name}")


def read(name, values, split="train"):
    return reader(name).read(reader(name).Config(**values), split)


def complaint(name, values, split="train"):
    with pytest.raises(ProbeError) as caught:
        read(name, values, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_reader_has_an_example():
    assert sorted(WRITERS) == READERS == sorted(EXPECTED)


@pytest.mark.parametrize("name", READERS)
def test_contract(name, tmp_path):
    values = WRITERS[name](tmp_path)
    train, test = (read(name, values, split) for split in ("train", "test"))
    classes, samples, missing = EXPECTED[name]
    assert test.classes == train.classes == classes
    assert [(s.label, s.group) for s in test.samples] == [(y, group.format(tmp_path)) for y, group in samples]
    assert test.missing == tuple(m.format(tmp_path) for m in missing)
    assert train.samples and all(isinstance(s, Sample) and s.video.exists() for s in (*train.samples, *test.samples))
    assert not {s.video for s in train.samples} & {s.video for s in test.samples}
    assert read(name, values, "test") == test
    if not isinstance(classes, dict):
        assert {s.label for s in train.samples} <= set(range(len(classes)))
        assert all(s.start is None and s.stop is None for s in train.samples)


@pytest.mark.parametrize("name", READERS)
def test_a_path_that_is_not_there_is_named(name, tmp_path):
    values = WRITERS[name](tmp_path)
    for key in values:
        said = complaint(name, values | {key: str(tmp_path / "nowhere")})
        assert (
            f"no such annotation file: '{tmp_path}/nowhere'" in said or f"no such folder: '{tmp_path}/nowhere'" in said
        )


@pytest.mark.parametrize("name", [name for name in READERS if name != "imagenet"])  # whose files are its annotation
def test_videos_that_are_all_gone_are_one_mistake(name, tmp_path):
    values, empty = WRITERS[name](tmp_path), tmp_path / "empty"
    empty.mkdir()
    gone = {"videos": str(empty)} if "videos" in values else {"test": lines(empty / "test.csv", "a.mp4 0")}
    assert re.search(
        r"none of the \d videos of test is there .*annotations.videos", complaint(name, values | gone, "test")
    )


@pytest.mark.parametrize("name", ["kinetics", "epic_kitchens"])
def test_a_column_that_is_not_there_is_named(name, tmp_path):
    values = WRITERS[name](tmp_path)
    path = Path(values["test"])
    column = {"kinetics": "youtube_id", "epic_kitchens": "noun_class"}[name]
    path.write_text(path.read_text().replace(column, "other", 1))
    assert complaint(name, values).startswith(f"{path}: no column '{column}'")
    path.write_text("")
    assert "no column" in complaint(name, values)


@pytest.mark.parametrize("name", ["kinetics", "epic_kitchens"])
def test_a_row_of_another_length_is_named(name, tmp_path):
    values = WRITERS[name](tmp_path)
    path = Path(values["train"])
    whole = path.read_text()
    for extra in ("one,two\n", ",".join("x" * 30) + "\n"):
        path.write_text(whole + extra)
        assert complaint(name, values).startswith(f"{path}, line {len(whole.splitlines()) + 1}: not ")
    path.write_bytes(whole.encode() + b"\xff\xfe")
    assert complaint(name, values).startswith(f"{path}: not a CSV file")


BAD_ROWS = {
    "a time of Kinetics": ("kinetics", "train", ",10,20,", ",ten,20,", r"train.csv, line 2: time_start 'ten' is not a"),
    "an unknown class of Kinetics": (
        "kinetics",
        "test",
        '"zumba, slow"',
        "juggling",
        "line 2: class 'juggling' is not in",
    ),
    "a YouTube video on both sides": ("kinetics", "test", "val1,123", "kQ0,123", "'kQ0' is in train too"),
    "an empty split": ("csv", "test", None, "\n\n", "the test split lists no clip"),
    "a label that is no number": ("csv", "train", "a.mp4 0", "a.mp4 zero", r"train.csv, line 1: label 'zero'"),
    "a negative label": ("csv", "train", "a.mp4 0", "a.mp4 -1", r"train.csv, line 1: label '-1'"),
    "a line that is not two fields": ("csv", "train", "a.mp4 0", "a.mp4", r"line 1: not 'path label'"),
    "a class of a list without a clip": ("csv", "train", "::2", "::9", "7 of 10 classes .*2, 3, 4, 5, 6, …"),
    "an unknown class of a list": ("csv", "test", "c.mp4 1", "c.mp4 3", "line 1: class '3' is not in"),
    "the same video on both sides": ("csv", "test", "gone.mp4 2", "a.mp4 0", "line 3: video '.*a.mp4' is in train too"),
    "a template without a number": (
        "ssv2",
        "labels",
        "Holding something",
        "Holding",
        "entry 0: class 'Holding something'",
    ),
    "numbers with a gap": ("ssv2", "labels", '"1"', '"2"', "labels.json: its classes are not numbered"),
    "an entry without a template": (
        "ssv2",
        "train",
        '"template"',
        '"pattern"',
        "entry 0: 'template' is None, not text",
    ),
    "JSON that is cut off": ("ssv2", "test", "}]", "", "validation.json: not a JSON file"),
    "a list where an object should be": ("ssv2", "labels", None, "[]", "labels.json: not a JSON object"),
    "an entry that is no object": ("diving48", "test", None, "[3]", "test.json, entry 0: 'vid_name' is None"),
    "a video twice in test": ("csv", "test", None, "b.mp4 0\nb.mp4 0", "line 2: video '.*b.mp4' is listed before"),
    "a video with two classes": (
        "csv",
        "train",
        None,
        "a.mp4 0\nb.mp4 1\na.mp4 1",
        "line 3: video '.*a.mp4' is listed",
    ),
    "a video of COIN twice": ("coin", "labels", '"ccc"', '"bbb"', "'bbb' is there twice"),
    "an unknown subset of COIN": ("coin", "labels", '"testing"', '"validation"', "'ddd': subset 'validation'"),
    "a task with two names": (
        "coin",
        "labels",
        "AssembleBed",
        "AssembleSofa",
        "'ddd': recipe_type 0 is 'AssembleSofa'",
    ),
    "a file that is not COIN's": ("coin", "labels", '"database"', '"data"', "COIN.json: 'database' is None"),
    "a label beyond the vocabulary": ("diving48", "train", '"label": 1', '"label": 2', "entry 1: class '2' is not in"),
    "a vocabulary of something else": ("diving48", "vocab", None, '["Back"]', "vocab.json: 'Back' is not a list"),
    "a dive without a clip": ("diving48", "train", '"label": 1', '"label": 0', r"1 of 2 classes .*\(Back 25som"),
    "a gesture that is not listed": ("jester", "train", ";No gesture", ";None", "train.csv, line 1: class 'None'"),
    "a line without a semicolon": (
        "jester",
        "train",
        ";No gesture",
        ",No gesture",
        "line 1: '34870,No gesture' is not",
    ),
    "an action that ends before it starts": (
        "epic_kitchens",
        "train",
        "01:02:03.10",
        "00:00:00.10",
        "line 2: the action",
    ),
    "a time that is none": ("epic_kitchens", "train", "01:02:03.10", "63.1", "line 2: stop_timestamp '63.1' is not"),
    "a verb without a name": ("epic_kitchens", "train", ",open,8,", ",open,80,", "line 2: verb_class 80 is not"),
    "a video in both splits": ("epic_kitchens", "test", "P01_02,", "P01_01,", "'P01_01' is in train too"),
}
"""What is wrong -> reader, which of its files, the text in it (None: all) and what it becomes, the message."""


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_mistake_is_one_line_that_names_file_and_row(what, tmp_path):
    name, key, before, after, message = BAD_ROWS[what]
    values = WRITERS[name](tmp_path)
    path = Path(values[key])
    text = path.read_text()
    assert before is None or before in text
    parts = text.rsplit(before, 1) if name == "coin" else text.split(before, 1) if before else ()
    path.write_text(after.join(parts) if before else after)  # the last of COIN's entries contradicts the others
    said = complaint(name, values)
    assert re.search(message, said), said


def test_frames_are_numbers_of_the_videos_own_rate(tmp_path):
    """The list of five columns has no seconds; 25 frames a second here."""
    columns = ("video_id", "start_frame", "stop_frame", "verb_class", "noun_class")
    values = epic_kitchens(tmp_path)
    official = read("epic_kitchens", values)
    assert [(s.start, s.stop) for s in official.samples[:2]] == [(1.0, 3723.1), (2.0, 3723.2)]
    five = values | {
        "train": table(tmp_path / "five.csv", columns, ("P01_01", 50, 75, 8, 2), ("P02_101", 1, 2, 3, 2)),
        "test": table(tmp_path / "test.csv", columns, ("P01_02", 1, 2, 3, 2)),
    }
    (tmp_path / "EPIC/P01/videos/P01_01.MP4").write_bytes(encode_images(np.zeros((3, 16, 16, 3), np.uint8), 25))
    assert "P02_101.MP4: not a readable video" in complaint("epic_kitchens", five)
    (tmp_path / "EPIC/P02/P02_101.MP4").unlink()
    samples = read("epic_kitchens", five).samples
    assert [(s.start, s.stop, s.label) for s in samples] == [(2.0, 3.0, (1, 0, 1))]


def test_images_of_one_folder_are_labelled_by_either_official_list(tmp_path):
    values = imagenet(tmp_path)
    (tmp_path / "flat").mkdir()
    names = [f"ILSVRC2012_val_{i:08d}" for i in (1, 2, 3)]
    touch(tmp_path / "flat", *(f"{name}.JPEG" for name in names[:2]))
    boxes = [
        ("ILSVRC2012_val_00000002", "n02 1 2 3 4 n02 5 6 7 8"),
        (names[0], "n01 1 2 3 4"),
        (names[2], "n01 1 2 3 4"),
    ]
    solution = table(tmp_path / "LOC_val_solution.csv", ("ImageId", "PredictionString"), *boxes)
    truth = lines(tmp_path / "ILSVRC2012_validation_ground_truth.txt", "2", "1", "2")
    synsets = np.array([(1, "n02"), (2, "n01"), (3, "n09")], [("ILSVRC2012_ID", object), ("WNID", object)])
    savemat(tmp_path / "meta.mat", {"synsets": synsets[:, None]})
    for labels in (solution, truth):
        flat = values | {"test": str(tmp_path / "flat"), "labels": labels}
        found = read("imagenet", flat, "test")
        assert {s.video.name: s.label for s in found.samples} == {f"{names[0]}.JPEG": 0, f"{names[1]}.JPEG": 1}
        assert found.missing == (str(tmp_path / "flat" / f"{names[2]}.JPEG"),)
        assert len(read("imagenet", flat, "train").samples) == 3
    lines(Path(truth), "2", "7")
    assert "ground_truth.txt, line 2: class '7' is not in" in complaint("imagenet", flat)
    savemat(tmp_path / "meta.mat", {"other": [1]})
    assert "meta.mat: no table of synsets" in complaint("imagenet", flat)
    (tmp_path / "meta.mat").write_text("no MATLAB")
    assert "meta.mat: no table of synsets" in complaint("imagenet", flat)


def test_classes_of_folders_must_agree(tmp_path):
    values = imagenet(tmp_path)
    touch(tmp_path / "val", "n09/a.JPEG")
    assert "val/n09: class 'n09' is not in" in complaint("imagenet", values)
    (tmp_path / "train/n09").mkdir()
    assert "1 of 3 classes have no clip in train (n09)" in complaint("imagenet", values)
    touch(tmp_path / "train", "n01/notes.txt")
    assert "n01/notes.txt: not an image" in complaint("imagenet", values)


def test_groups_of_the_same_source_are_told(tmp_path):
    """Two clips of one competition, or of one kitchen video, are one group."""
    dives = read("diving48", diving48(tmp_path), "test").samples + read("diving48", diving48(tmp_path)).samples
    assert [s.group for s in dives] == ["_8Vy3dlHg2w", "_8Vy3dlHg2w", "-mJsM_x"]
