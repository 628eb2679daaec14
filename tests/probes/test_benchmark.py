"""The whole protocol on tiny videos: every video once, heads chosen without test, the same after a kill."""

import json
import os
import runpy
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from jepa import checkpoint
from jepa.config import ConfigError, load_config
from jepa.data.errors import DataError
from jepa.preemption import Preempted
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published import benchmark, benchmark_row, encode, views
from jepa.probes.published.benchmark import run
from jepa.probes.published.benchmark_config import BenchmarkConfig
from jepa.probes.published.benchmark_heads import RankHeads
from jepa.probes.published.benchmark_training import minibatches
from jepa.probes.published.labelled import label, read_annotations

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("benchmark_fixtures.py"))))


@pytest.fixture
def encoder_run(tiny, tmp_path, save_model):
    return made.write_run(tmp_path / "pretrain", tiny, save_model)


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    made.write_lists(folder, 8)
    return folder


def config_of(encoder_run, lists, out, *more: str) -> BenchmarkConfig:
    preset = out.parent / "preset.yaml"
    preset.write_text(f"annotations: {{type: csv, train: {lists}/train.csv, test: {lists}/test.csv}}\n")
    given = [f"encoder={encoder_run}", f"out={out}", *made.SMALL, *more]
    return load_config(BenchmarkConfig, "benchmark", str(preset), given)


def test_the_whole_protocol_finds_colours(encoder_run, lists, tmp_path, capsys):
    result = run(config_of(encoder_run, lists, tmp_path / "out", "epochs=8", "rows=[pretrained,random_init]"))
    assert result == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert result["data"]["videos"] == {"fit": 18, "validation": 6, "test": 12}
    assert [row["row"] for row in result["rows"]] == ["pretrained", "random_init"]
    row = result["rows"][0]
    assert row["test"]["top1"]["value"] > 0.9 and row["test"]["clips"] == 12 and row["chosen"]["validation"] > 0.8
    assert row["best_on_test"]["top1"] >= row["test"]["top1"]["value"] and row["best_on_test"]["of_heads"] == 2
    knn = {r["row"]: r["top1"] for r in result["knn"]}
    assert knn.keys() == {"pretrained", "random_init", "pixels", "commonest class"}
    assert knn["pixels"] > 0.9 and knn["commonest class"] == pytest.approx(1 / 3)
    page = (tmp_path / "out" / "report.html").read_text()
    listed = json.loads((tmp_path / "out" / "pretrained" / "hardest.json").read_text())
    assert len(listed) == 12 and listed[0]["video"].endswith(".mp4")
    assert (
        "most surely wrong" in page
        and "Classes: random_init" in page
        and "optimistic" in page
        and "data:image/png" in page
    )
    assert "optimistic" in capsys.readouterr().out

    again = run(config_of(encoder_run, lists, tmp_path / "out", "epochs=8", "rows=[pretrained,random_init]"))
    assert again["rows"] == result["rows"] and again["knn"] == result["knn"]
    with pytest.raises(checkpoint.CheckpointError, match=r"holds another run \(epochs: 8 there, 9 here\)"):
        run(config_of(encoder_run, lists, tmp_path / "out", "epochs=9"))


def test_every_video_is_seen_once_an_epoch_and_tested_once(encoder_run, lists, tmp_path, monkeypatch):
    seen = {"fit": [], "validation": [], "test": []}

    def read(self, item):
        name = Path(self.load.side.footage[item[1]].path).name
        side = "test" if name.startswith("test") else "fit" if self.load.training else "validation"
        if self.load.shown.segments == 2:  # kNN has one clip a video
            seen[side].append((item[0], name))
        return before(self, item)

    before = encode._Items.__getitem__
    monkeypatch.setattr(encode._Items, "__getitem__", read)
    run(config_of(encoder_run, lists, tmp_path / "out"))
    names = [{name for epoch, name in seen["fit"] if epoch == e} for e in (0, 1)]
    assert len(seen["fit"]) == 2 * 18 and names[0] == names[1] and len(names[0]) == 18
    assert [n for e, n in seen["fit"] if e == 0] != [n for e, n in seen["fit"] if e == 1]  # shuffled anew
    held_out = {name for _, name in seen["validation"]}
    assert len(seen["validation"]) == len(held_out) == 6 and not held_out & names[0]
    assert len(seen["test"]) == len(set(seen["test"])) == 12


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_bits(encoder_run, lists, tmp_path, monkeypatch):
    """Augmented clips, and heads dropped on the way: killed after the halving, between two checkpoints."""
    more = ("epochs=3", "halving=1", "checkpoint_every=3", "lr=[3e-3,1e-3,1e-4]")
    whole = run(config_of(encoder_run, lists, tmp_path / "whole", *more))
    taken = []
    step = RankHeads.step

    def killing(self, *args):
        taken.append(args[2])
        if len(taken) == 8:
            raise Killed
        return step(self, *args)

    monkeypatch.setattr(RankHeads, "step", killing)
    with pytest.raises(Killed):
        run(config_of(encoder_run, lists, tmp_path / "cut", *more))
    run(config_of(encoder_run, lists, tmp_path / "cut", *more))
    assert len(taken) == 8 + 12 - 6  # from the checkpoint of step 6 on
    result = json.loads((tmp_path / "cut" / "benchmark.json").read_text())
    assert result["rows"] == whole["rows"] and result["rows"][0]["best_on_test"]["of_heads"] == 2
    a, b = (load_file(tmp_path / name / "pretrained" / "predictions.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_asked_to_stop_it_saves_and_goes_on(encoder_run, lists, tmp_path, monkeypatch):
    whole = run(config_of(encoder_run, lists, tmp_path / "whole"))
    step, taken = RankHeads.step, []

    def asking(self, *args):
        taken.append(1)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(RankHeads, "step", asking)
    with pytest.raises(Preempted, match="stopped at step 3"):
        run(config_of(encoder_run, lists, tmp_path / "cut"))
    assert run(config_of(encoder_run, lists, tmp_path / "cut"))["rows"] == whole["rows"]
    assert len(taken) == 8


def test_features_on_disk_change_nothing_and_are_encoded_once(encoder_run, lists, tmp_path, monkeypatch):
    plain = run(config_of(encoder_run, lists, tmp_path / "plain", "augment=none"))
    kept = run(config_of(encoder_run, lists, tmp_path / "kept", "augment=none", "cache=all"))
    assert kept["rows"] == plain["rows"]
    for name in ("pretrained", "knn.json"):
        path = tmp_path / "kept" / name
        shutil.rmtree(path) if path.is_dir() else None
    monkeypatch.setattr(benchmark_row, "encode_views", None)
    assert run(config_of(encoder_run, lists, tmp_path / "kept", "augment=none", "cache=all"))["rows"] == plain["rows"]


def test_a_cache_of_augmented_clips_is_refused(encoder_run, lists, tmp_path):
    with pytest.raises(ConfigError, match="augmented clips differ in every epoch"):
        config_of(encoder_run, lists, tmp_path / "out", "cache=all")
    config_of(encoder_run, lists, tmp_path / "out", "cache=evaluation")


def test_videos_that_cannot_be_read_are_counted_and_listed(encoder_run, lists, tmp_path, monkeypatch):
    """One is found by the survey, one only when its frames are decoded; the others are tested."""
    lines = (lists / "test.csv").read_text().splitlines()
    (tmp_path / "torn.mp4").write_bytes(Path(lines[0].split()[0]).read_bytes()[:-3000])
    (tmp_path / "test.csv").write_text("\n".join([f"{tmp_path}/torn.mp4 0", *lines[1:]]))
    late = lines[3].split()[0]
    decoded = views.decode

    def decode(data, ids=None):
        if data == Path(late).read_bytes():
            raise DataError("frame 5 cannot be decoded")
        return decoded(data, ids)

    monkeypatch.setattr(views, "decode", decode)
    for cache in ("none", "evaluation"):
        given = (f"annotations.test={tmp_path}/test.csv", f"cache={cache}")
        result = run(config_of(encoder_run, lists, tmp_path / cache, *given))
        assert "truncated" in result["data"]["unread"][f"{tmp_path}/torn.mp4"]
        assert result["rows"][0]["unread"]["test"] == {late: "frame 5 cannot be decoded"}
        assert result["knn_unread"] == {"test": {late: "frame 5 cannot be decoded"}}
        assert result["rows"][0]["test"]["clips"] == 10
        assert late in (tmp_path / cache / "report.html").read_text()


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_side_without_a_video_that_can_be_decoded_is_one_line(encoder_run, lists, tmp_path, monkeypatch, side):
    """And no table of heads that have learned nothing, or that nothing has chosen."""
    readable = {path.read_bytes() for path in lists.glob("*.mp4") if not path.name.startswith(side)}
    decoded = views.decode

    def decode(data, ids=None):
        if data not in readable:
            raise DataError("no frame can be decoded")
        return decoded(data, ids)

    monkeypatch.setattr(views, "decode", decode)
    with pytest.raises(ProbeError, match=f"no {side} video could be decoded: .*unread-{side}-"):
        run(config_of(encoder_run, lists, tmp_path / "out"))
    monkeypatch.setattr(benchmark, "_floor", lambda *_: [])
    name = {"train": "validation|none of the clips to fit", "test": "no test video"}[side]
    with pytest.raises(ProbeError, match=name):
        run(config_of(encoder_run, lists, tmp_path / "out"))


def test_classes_without_a_clip_to_fit_and_test_videos_of_train_are_said(encoder_run, lists, tmp_path, capsys):
    (tmp_path / "copy.mp4").write_bytes((lists / "train_0_0.mp4").read_bytes())
    train = (lists / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*train, f"{lists}/test_0_0.mp4 3"]))
    test = [line for line in (lists / "test.csv").read_text().splitlines() if "test_0_0" not in line]
    (tmp_path / "test.csv").write_text("\n".join([*test, f"{tmp_path}/copy.mp4 0"]))
    for seed in range(9):  # one that holds out the only video of class 3
        given = (f"annotations.train={tmp_path}/train.csv", f"annotations.test={tmp_path}/test.csv", f"seed={seed}")
        config = config_of(encoder_run, lists, tmp_path / "out", *given)
        data = label(read_annotations(config.annotations, 0, seed), tmp_path / "videos.jsonl", 0.25, seed, workers=0)
        if not (data.fit.labels == 3).any():
            break
    found = run(config)["data"]
    assert found["not_in_fit"] == ["3"] and found["test_in_train"] == [f"{tmp_path}/copy.mp4"]
    printed = capsys.readouterr().out
    assert "1 classes have no video to fit on" in printed and "1 test videos are byte for byte in train too" in printed


def test_the_loss_of_rows_adds_up():
    g = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(2, 5, 3, generator=g), torch.tensor([0, 1, 2, 2, 0])
    found = sum(benchmark_row._cross_entropy(outputs[:, p], labels[p]) for p in (slice(2), slice(2, 5))) / 5
    assert torch.allclose(found, torch.stack([torch.nn.functional.cross_entropy(o, labels) for o in outputs]))


def test_minibatches_are_the_same_from_any_of_them_on():
    every = list(minibatches(7, 3, 2, seed=0))
    assert [len(rows) for _, rows in every] == [3, 3, 1] * 2
    assert all(torch.cat([r for e, r in every if e == epoch]).sort().values.tolist() == [*range(7)] for epoch in (0, 1))
    for start in range(7):
        left = list(minibatches(7, 3, 2, 0, start))
        assert [e for e, _ in left] == [e for e, _ in every[start:]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(left, every[start:], strict=True))


WRONG = [
    "frame_step=0",
    "fps=4",
    "augment=some",
    "cache=true",
    "rows=[pixels]",
    "batch=0",
    "heads=0",
    "depth=0",
    "lr=[]",
]
WRONG += ["lr=[0]", "weight_decay=[]", "workers=-1", "limit=-1", "knn_clips=0", "frame_step=-2", "warmup=-1"]


@pytest.mark.parametrize("values", WRONG)
def test_wrong_values_are_one_line(encoder_run, lists, tmp_path, values):
    with pytest.raises(ConfigError, match=values.split("=")[0]):
        config_of(encoder_run, lists, tmp_path / "out", values)


def test_what_does_not_fit_the_encoder_is_one_line(encoder_run, lists, tmp_path):
    for values, words in (("size=18", "multiples"), ("levels=[0,2]", "numbered 0 to 1"), ("heads=3", "heads 3 divide")):
        with pytest.raises(ValueError, match=words):
            run(config_of(encoder_run, lists, tmp_path / values[:3], values))
