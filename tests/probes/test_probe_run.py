"""The whole verb on a few small videos: every row measured, results written, gone on with, the same twice."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from jepa import checkpoint, runs
from jepa.checkpoint_writer import Writer
from jepa.config import ConfigError, load_config, to_dict
from jepa.data.index import Manifest
from jepa.models.encoder import EncoderConfig, build_encoder
from jepa.pieces import whole
from jepa.probes import encoding, features, jobs, pinned, predictions, stages
from jepa.probes import run as probe_run
from jepa.probes.clips import ClipSet, ClipSpec, Episodes, make_clips
from jepa.probes.kinds.base import ProbeError
from jepa.probes.run import ProbeConfig, run
from jepa.probes.tasks import TASKS, applicable, skill

SMALL = ["frames=4", "clips_test=3", "seeds=2", "workers=1", "attentive.epochs=1", "attentive.heads=2"]
SMALL += ["attentive_regression.epochs=1", "attentive_regression.heads=2"]


class Pretrained(nn.Module):
    """What a pre-training run saves, as far as `load_encoder` is concerned."""

    def __init__(self, config) -> None:
        super().__init__()
        self.encoder, self.target_encoder = build_encoder(config, 0), build_encoder(config, 7)


@pytest.fixture
def encoder_run(tiny, tmp_path, save_model):
    model = Pretrained(tiny)
    checkpoint.claim_run(tmp_path / "pretrain", {"encoder": to_dict(tiny)})
    save_model(tmp_path / "pretrain", model)
    return tmp_path / "pretrain"


def config_of(encoder_run, shards, out, *more: str) -> ProbeConfig:
    given = [f"encoder={encoder_run}", f"shards_train={shards}", f"out={out}", *SMALL, *more]
    return load_config(ProbeConfig, "probe", "demo", given)


def test_every_row_is_measured_and_written(encoder_run, moving_square, tmp_path):
    result = run(config_of(encoder_run, moving_square, tmp_path / "out"))
    assert result == json.loads((tmp_path / "out" / "probe.json").read_text())
    rows = {(r["task"], r["probe"], r["view"], r["row"]): r for r in result["rows"]}
    asked = [n for n in TASKS if n in result["config"]["tasks"] and n not in result["not_run"]]
    expected = {
        (n, *probe, row) for n in asked for probe in TASKS[n].probes for row in ("pretrained", "random_init", "pixels")
    }
    assert set(rows) == expected | {(n, "chance", "", "chance") for n in asked}
    assert result["not_run"] == {"skill": "n/a: all clips have the same label"}  # one test episode, one skill
    assert all(
        len(r["values"]) == 2 and r["mean"] == pytest.approx(np.mean(r["values"]), abs=1e-6) for r in rows.values()
    )
    assert all((tmp_path / "out" / f"probe_{n}.png").stat().st_size > 5000 for n in asked)
    assert (tmp_path / "out" / "confusion_arrow.png").stat().st_size > 5000
    assert "arrow of time" in (tmp_path / "out" / "report.html").read_text()
    c = next(c for c in result["comparisons"] if (c["task"], c["view"]) == ("gripper", "flat"))
    ours, control = (rows["gripper", "regression", "flat", m]["values"] for m in ("pretrained", "random_init"))
    assert c["difference"] == pytest.approx(np.mean(ours) - np.mean(control), abs=1e-5)
    assert ours != control


def test_an_image_encoder_is_a_row_beside_the_others(encoder_run, moving_square, tmp_path, capsys):
    image = ["image_encoder=vit_tiny_patch16_224", "weights=random", "tasks=[gripper]", "seeds=1"]
    result = run(config_of(encoder_run, moving_square, tmp_path / "out", *image))
    rows = {(r["view"], r["row"]): r["mean"] for r in result["rows"]}
    assert len({rows["pooled", m] for m in ("image", "pretrained", "random_init", "pixels")}) == 4
    assert " image " in capsys.readouterr().out


def test_a_second_run_encodes_nothing_and_finds_the_same(encoder_run, moving_square, tmp_path, monkeypatch):
    first = run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[arrow]"))
    for module, name in ((features, "encode"), (features, "pixel_tokens"), (jobs, "build")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("done before"))
    monkeypatch.setattr("jepa.data.loader.decode", None)
    second = run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[arrow]"))
    assert first["rows"] == second["rows"] and first["comparisons"] == second["comparisons"]


def test_worker_processes_find_the_same(encoder_run, moving_square, tmp_path):
    alone = run(config_of(encoder_run, moving_square, tmp_path / "a", "tasks=[gripper]", "seeds=1"))
    spawned = run(config_of(encoder_run, moving_square, tmp_path / "b", "tasks=[gripper]", "seeds=1", "workers=2"))
    assert alone["rows"] == spawned["rows"]


def test_one_seed_has_no_interval(encoder_run, moving_square, tmp_path):
    result = run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[gripper]", "seeds=1"))
    assert all(r["t95"] == [None, None] for r in result["rows"])
    assert {c["verdict"] for c in result["comparisons"]} == {"not separated"}


def test_rows_have_intervals_classes_and_the_best_head_on_test(encoder_run, moving_square, tmp_path):
    out = tmp_path / "out"
    heads = ["attentive.lr=[1e-3,1e-1]", "attentive.epochs=3", "tasks=[arrow]", "clips_test=9"]
    rows = run(config_of(encoder_run, moving_square, out, *heads))["rows"]
    written = {m.key: m for m in predictions.read(out / predictions.FILE)[0]}
    assert len(written) == 2 * len(rows)
    for r in rows:
        low, high = r["clips95"]
        assert low < r["mean"] < high or r["mean"] in (0, 1)
        assert r["bootstrap95"] == [None, None]  # there is one test episode
        m = written[f"arrow/{r['probe']}/{r['view']}/{r['row']}/0"]
        assert r["values"][0] == pytest.approx(float((m.predicted == m.true).double().mean()), abs=1e-6)
        assert m.episodes.unique().tolist() and m.first.tolist() == list(range(9))
        if r["row"] == "chance":
            assert r["classes"] is None
            continue
        matrix = np.array(r["classes"]["confusion"])
        assert matrix.sum() == 18 and np.trace(matrix) == round(sum(r["values"]) * 9)
        assert [line["clips"] for line in r["classes"]["table"]] == matrix.sum(1).tolist()
        assert (r["best_on_test"] is not None) == (r["probe"] == "attentive")
        if r["best_on_test"]:
            assert all(b >= v for b, v in zip(r["best_on_test"]["values"], r["values"], strict=True))


def test_the_best_head_on_test_is_the_best_of_several():
    truth = torch.tensor([0, 1, 1, 0])
    heads = [1 - truth, truth, torch.zeros(4, dtype=torch.int64)]

    class Several:
        def predict_all(self, features):
            return heads

    assert torch.equal(jobs._best_on_test(Several(), None, truth, "accuracy"), truth)
    del heads[1:]
    assert jobs._best_on_test(Several(), None, truth, "accuracy") is None
    assert jobs._best_on_test(object(), None, truth, "accuracy") is None


def test_folds_test_every_episode_once_and_the_clips_are_made_once(encoder_run, moving_square, tmp_path):
    out = tmp_path / "out"
    more = ["tasks=[arrow,gripper]", "folds=3", "seeds=1", "clips_train=3", "clips_test=3"]
    result = run(config_of(encoder_run, moving_square, out, *more))
    assert not result["not_run"] and all(r["test_episodes"] == 6 and r["test_clips"] == [18] for r in result["rows"])
    assert all(r["train_clips"] == [12] for r in result["rows"]) and all(
        len(r["chosen"][0]) == 3 for r in result["rows"]
    )
    assert len(list((out / "cache").glob("clips-*"))) == 1  # both sides are the same clips
    assert len(list((out / "cache").glob("axes-*"))) == 3
    assert len(list((out / "cache" / "tokens").iterdir())) == 2 * (2 + 3)  # as drawn and for the arrow, of
    # two encoders and of pixels, which are narrowed anew in each fold
    one = next(m for m in predictions.read(out / predictions.FILE)[0] if m.key == "arrow/linear/pooled/pretrained/0")
    assert len(set(zip(one.episodes.tolist(), one.first.tolist(), strict=True))) == 18
    row = next(r for r in result["rows"] if (r["probe"], r["view"], r["row"]) == ("linear", "pooled", "pretrained"))
    assert row["values"] == [pytest.approx(float((one.predicted == one.true).double().mean()), abs=1e-6)]


def test_what_a_killed_run_had_found_is_not_found_again(encoder_run, moving_square, tmp_path, monkeypatch):
    config = config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[arrow]", "seeds=1")
    done, real = [], probe_run.work

    def dies_at_the_third(job):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job)
        return real(job)

    monkeypatch.setattr(probe_run, "work", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    built, build = [], jobs.build
    monkeypatch.setattr(probe_run, "work", real)
    monkeypatch.setattr(jobs, "build", lambda *args: built.append(args) or build(*args))
    gone_on = run(config)
    assert len(built) == 4  # of one row of three, four probes; the row of chance builds none
    assert (
        gone_on["rows"]
        == run(config_of(encoder_run, moving_square, tmp_path / "other", "tasks=[arrow]", "seeds=1"))["rows"]
    )


def test_results_of_another_config_are_not_written_over(encoder_run, moving_square, tmp_path):
    out = tmp_path / "out"
    run(config_of(encoder_run, moving_square, out, "tasks=[arrow]", "seeds=1"))
    with pytest.raises(
        ConfigError, match=r"out holds the results of another config \(seeds: 1 there, 2 here\); choose"
    ):
        run(config_of(encoder_run, moving_square, out, "tasks=[arrow]"))
    probe_run._check_unused(out, config_of(encoder_run, moving_square, out, "tasks=[arrow]", "seeds=1", "workers=2"))


def test_own_labels_need_no_packing(encoder_run, moving_square, tmp_path):
    keys = [entry.key for entry in Manifest.load(moving_square)]
    file = tmp_path / "labels.safetensors"

    def label(first):
        halves = torch.arange(12) >= first
        save_file({f"phase/{key}": halves.long() for key in keys}, file, {"classes": '["reach", "carry"]'})

    label(6)
    more = [f"labels={file}", "tasks=[phase]", "seeds=1", "folds=2", "clips_train=9", "clips_test=9"]
    result = run(config_of(encoder_run, moving_square, tmp_path / "out", *more))
    assert {line["class"] for r in result["rows"] if r["classes"] for line in r["classes"]["table"]} == {
        "reach",
        "carry",
    }
    tested, _ = predictions.read(tmp_path / "out" / predictions.FILE)
    assert all(torch.equal(m.true, (m.first + 3 >= 6).long()) for m in tested)
    label(8)  # the clips stay, and so do their features
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cache" / "tokens").rglob("*.bin")}
    run(config_of(encoder_run, moving_square, tmp_path / "out", *more))
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cache" / "tokens").rglob("*.bin")}
    tested, _ = predictions.read(tmp_path / "out" / predictions.FILE)
    assert all(torch.equal(m.true, (m.first + 3 >= 8).long()) for m in tested)


def test_one_test_clip_is_enough_to_end(encoder_run, moving_square, tmp_path, monkeypatch):
    """An undefined R² is null in the file; with one clip of train an episode the validation's is undefined too."""
    monkeypatch.setitem(TASKS, "gripper", replace(TASKS["gripper"], probes=(("regression", "pooled"),)))
    few = ["tasks=[gripper]", "seeds=1", "folds=6", "clips_train=1", "clips_test=1"]
    chosen = [r["chosen"][0] for r in run(config_of(encoder_run, moving_square, tmp_path / "out", *few))["rows"]]
    assert {"alpha", "validation"} <= chosen[0][0].keys()
    assert any(fit["validation"] is None for fits in chosen for fit in fits if "alpha" in fit)


def test_skill_is_asked_of_clips_that_show_one_only():
    labels = torch.tensor([[1, 1, 1], [1, 1, 2], [2, 2, 2], [0, 2, 2]])
    values, rows = skill(ClipSet(torch.zeros(4, 3), torch.arange(4), torch.zeros(4), {"skill": labels}))
    assert values[rows].tolist() == [1, 2] and rows.tolist() == [True, False, True, False]


def test_backwards_clips_are_the_reversed_ones(encoder_run, moving_square, tmp_path):
    """The arrow of time reads reversed frames exactly where its label says so."""
    episodes = Episodes(Manifest.load(moving_square), tuple(range(6)))
    path = make_clips(tmp_path, episodes, ClipSpec(4, 0, 16, 3, 100), [0], lambda done: None)[0]
    files = {"train": path, "test": path}
    shape = runs.encoder_config(encoder_run)
    stores = encoding.encode(
        encoding.Encoding("pretrained", 0, str(encoder_run), shape, ("", ""), files, (), ("arrow",), tmp_path)
    )
    tokens = {name: parts["arrow"] for name, parts in stores.items()}
    side = jobs._side(jobs.Job("pretrained", 0, "arrow", 0, None, files, tokens, {}, tmp_path), "test")
    frames, encoder = jobs.load_clips(path).frames, features.make_encoder("pretrained", str(encoder_run), 0)
    straight, turned = (features.encode(encoder, x) for x in (frames, frames.flip(1)))
    assert 0 < side.targets.sum() < len(side.targets)
    seen = side.read("tokens").values[torch.arange(len(frames))].float()
    for k, backwards in enumerate(side.targets.bool()):
        torch.testing.assert_close(seen[k], turned[k] if backwards else straight[k], atol=2e-3, rtol=1e-3)
        assert not torch.allclose(straight[k], turned[k], atol=1e-2)


def test_tasks_that_the_shards_cannot_answer_are_named(moving_square):
    manifest = Manifest.load(moving_square)
    episodes = Episodes(manifest, (0, 1))
    assert applicable(("skill", "arrow"), episodes, episodes) == (["skill", "arrow"], {})
    with pytest.raises(ProbeError, match="no task 'colour'"):
        applicable(("colour",), episodes, episodes)


def test_wrong_input_is_one_line(encoder_run, moving_square, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no run at"):
        run(config_of(tmp_path / "nothing", moving_square, tmp_path / "out"))
    with pytest.raises(ValueError, match="heads 3 divide width 32"):
        run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[arrow]", "attentive.heads=3"))
    with pytest.raises(ConfigError, match="depht"):
        config_of(encoder_run, moving_square, tmp_path / "out", "attentive.depht=2")
    with pytest.raises(ConfigError, match="leave shards_test out"):
        config_of(encoder_run, moving_square, tmp_path / "out", "folds=2", "shards_test=x")


@pytest.mark.parametrize(
    "given",
    [
        *("folds=1", "folds=-1", "frames=-1", "fps=-1.0", "size=-16", "seed=-1", "seeds=0", "workers=0"),
        *("clips_train=0", "clips_test=0", "max_clips=0"),
    ],
)
def test_values_outside_of_their_range_are_named(given, tmp_path):
    with pytest.raises(ConfigError, match=f"^{given.removesuffix('.0')}(.0)?: must be .* or more"):
        config_of("a", "b", tmp_path, given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("frames=3", "frames=3 size=16: 3 frames cannot be cut into tubelets of 2"),
        ("frames=1", "frames=1 size=16: 1 frames cannot"),
        ("size=18", "frames=4 size=18: a clip of 4 frames of 18×18 px cannot be cut"),
        ("frames=2", r"frames=2 size=16 \(task 'order'\): clips of 2 frames have no halves"),
        ("frames=0", "frames=0: give the frames of a clip"),
    ],
)
def test_clips_that_the_encoder_cannot_cut_are_refused_before_decoding(
    given, message, encoder_run, moving_square, tmp_path, monkeypatch
):
    monkeypatch.setattr(stages, "make_clips", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ConfigError, match=message):
        run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[order]", given))


def go_on_training(encoder_run, tiny, step: int) -> None:
    model = nn.ModuleDict({"target_encoder": build_encoder(tiny, step)})
    with Writer(encoder_run) as writer:
        writer.save(step, {f"model/{k}": whole(v) for k, v in model.state_dict().items()}, {})


def test_a_run_that_goes_on_training_is_probed_at_the_step_it_was_begun_on(
    encoder_run, tiny, moving_square, tmp_path, capsys
):
    config = config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[gripper]", "seeds=1")
    first = run(config)
    path = encoder_run / "checkpoints" / "step_00000001"
    sha256 = runs.encoder_sha256(runs.load_encoder(path))
    assert first["encoder"] == {"path": str(path), "step": 1, "sha256": sha256}
    go_on_training(encoder_run, tiny, 5)
    capsys.readouterr()
    again = run(config)
    said = " ".join(capsys.readouterr().err.split())
    assert again["encoder"] == first["encoder"] and again["rows"] == first["rows"]
    assert f"begun on step 1 of {encoder_run}, which is used again; for step 5 choose another out" in said
    other = run(replace(config, out=str(tmp_path / "other")))
    assert other["encoder"]["step"] == 5 and other["rows"] != first["rows"]


def test_a_checkpoint_that_is_gone_is_no_reason_to_write_over_its_results(encoder_run, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    pinned.pin(str(encoder_run), out, out / "probe.json")
    go_on_training(encoder_run, tiny, 5)
    shutil.rmtree(encoder_run / "checkpoints" / "step_00000001")
    (out / "probe.json").touch()
    with pytest.raises(ConfigError, match=r"probe.json is of .*step_00000001, which is gone or has other weights now"):
        pinned.pin(str(encoder_run), out, out / "probe.json")
    (out / "probe.json").unlink()
    pinned.pin(str(encoder_run), out, out / "probe.json")
    assert pinned.read_pinned(out).step == 5 and "begun anew on" in " ".join(capsys.readouterr().err.split())


def test_episodes_shorter_than_a_clip_are_counted_and_named(tmp_path):
    entries = [SimpleNamespace(key=f"e{i}", fps=4.0, frames=4 if i == 3 else 3) for i in range(8)]
    split = {"train": Episodes(entries, tuple(range(8))), "test": Episodes(entries, (3,))}
    skipped = probe_run._skipped(config_of("a", "b", tmp_path), EncoderConfig(size=16), split)
    assert skipped == {"train": {"episodes": 7, "keys": ["e0", "e1", "e2", "e4", "e5"]}}


def test_pixels_are_narrowed_to_the_directions_in_which_they_vary():
    tokens = torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9, 1, 1, 5, 1.0])
    axes = features.principal_axes([tokens], 2)
    torch.testing.assert_close(axes.T @ axes, torch.eye(2))
    assert axes[1, 0] > 0.99 and axes[4, 1] > 0.99  # not -0.99: signs are no matter of the machine
    assert features.principal_axes([tokens], 8).shape == (6, 6)
    torch.testing.assert_close(features.principal_axes((3 + tokens).split(7), 2), axes)  # in parts, and off the centre


@pytest.mark.parametrize(("preset", "heads"), [("demo", 1), ("paper", 20), ("arrow", 1), ("debug", 1)])
def test_presets_load(preset, heads):
    config = load_config(ProbeConfig, "probe", preset, ["encoder=a", "shards_train=b"])
    assert len(config.attentive.lr) * len(config.attentive.weight_decay) == heads
