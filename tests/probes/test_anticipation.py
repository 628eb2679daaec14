"""Anticipation: which frames are seen before an action, what the predictor is asked, the loss, and a whole run."""

import csv
import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from jepa.config import ConfigError, to_dict
from jepa.data.errors import DataError
from jepa.interop.model import Model, ModelConfig
from jepa.models.encoder import EncoderConfig
from jepa.models.predictor import PredictorConfig
from jepa.probes.annotations import epic_kitchens
from jepa.probes.annotations.base import UNSEEN
from jepa.probes.kinds import anticipation as kind
from jepa.probes.kinds.base import Features, ProbeError
from jepa.probes.published import anticipation, excerpt
from jepa.probes.published.anticipation import AnticipationConfig
from jepa.probes.published.anticipation_clips import ActionClips, Observed, clip_times, find_actions
from jepa.probes.published.anticipation_features import make_foresight
from jepa.probes.published.anticipation_scores import best_on_test
from jepa.probes.published.footage import Footage
from jepa.probes.published.labelled import read_annotations
from jepa.probes.published.scores import class_mean_recall

MODEL = ModelConfig(
    16,
    frames=4,
    encoder=EncoderConfig(size=16, patch=8, width=16, depth=1, heads=2),
    predictor=PredictorConfig(12, 1, 2),
    mask_tokens=3,
    mask_index=1,
)
FPS = 8


def film(path, numbers, fps=FPS, gop=10):
    """Frames whose grey level is 3 times their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        stream.options = {"crf": "8", "threads": "1", "g": str(gop)}
        for n in numbers:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((24, 32, 3), 3 * n, np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def shown(frames) -> list[int]:
    return [round(float(torch.as_tensor(frame).float().mean()) / 3) for frame in frames]


def test_excerpt_gives_the_frames_of_these_times(tmp_path):
    path = film(tmp_path / "a.mp4", range(60))
    wanted = [41, 40, 43, 43, 0, 59]
    assert shown(excerpt.excerpt(path, [n / FPS for n in wanted])) == wanted
    assert shown(excerpt.excerpt(path, [-3.0, 2.48, 2.5])) == [0, 19, 20]
    with pytest.raises(DataError, match=r"ends before 8\.00 s"):
        excerpt.excerpt(path, [1.0, 8.0])
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="cannot be decoded"):
        excerpt.excerpt(tmp_path / "text.mp4", [0.0])


def test_excerpt_reads_only_what_lies_around_the_frames(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", range(80))
    seen, original = [], excerpt._from

    def counted(container, second):
        for item in original(container, second):
            seen.append(item)
            yield item

    monkeypatch.setattr(excerpt, "_from", counted)
    assert shown(excerpt.excerpt(path, [55 / FPS, 57 / FPS])) == [55, 57]
    assert len(seen) < 15  # from key frame 50 on


def seen_before(anchor: str, start: int, stop: int, fps: float, **changed):
    """Frame numbers that a clip shows of an action that lies in these frames."""
    observed = Observed(anchor=anchor, **changed)
    return clip_times(Footage("", start, stop - start, fps, None, ""), observed, observed.ahead) * fps


def test_a_clip_ends_before_the_start_of_the_action():
    ids = seen_before("start", 600, 900, 40.0)
    assert np.allclose(ids, 600 - 40 - 5 * np.arange(32, 0, -1))  # so 8 steps of 1/8 s further on the action begins
    assert np.allclose(seen_before("start", 60, 900, 40.0), np.clip(20 - 5 * np.arange(32, 0, -1), 0, None))


def reference_ids(start, stop, fps, earlier, ahead):
    """The reference's arithmetic, as its description gives it."""
    step = int(fps / 8)
    anchor = int(start * earlier + stop * (1 - earlier) - ahead * fps)
    return [max(0, anchor - step * k) for k in range(32, 0, -1)]


@pytest.mark.parametrize("fps", [50.0, 59.94, 29.97])
def test_the_anchor_end_is_the_reference(fps):
    action, observed = Footage("", 400, 333, fps, None, ""), Observed(anchor="end")
    for ahead, earlier in ((1.0, 0.0), (0.61, 0.2), (1.75, 0.25)):
        ids = clip_times(action, observed, ahead, earlier) * fps
        assert np.allclose(ids, reference_ids(400, 733, fps, earlier, ahead))


def action_list(path, rows):
    head = ("narration_id", "video_id", "start_frame", "stop_frame", "start_timestamp", "stop_timestamp")
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow((*head, "verb_class", "noun_class"))
        for i, (video, start, stop, verb, noun) in enumerate(rows):
            times = (f"00:00:{second:05.2f}" for second in (start, stop))
            table.writerow((f"{video}_{i}", video, int(start * FPS), int(stop * FPS), *times, verb, noun))
    return str(path)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """Four videos of 8 s: a rising brightness before verb 0, a falling one before verb 5; and a tiny model."""
    folder = tmp_path_factory.mktemp("kitchen")
    rows = {"train": [], "test": []}
    for split, videos in (("train", ("P01_01", "P01_02", "P02_01")), ("test", ("P03_01",))):
        for video in videos:
            film(folder / "videos" / video.split("_")[0] / "videos" / f"{video}.MP4", range(64))
            for i, start in enumerate(np.linspace(2.5, 6.5, 6)):
                rows[split].append((video, start, start + 1, (0, 5)[i % 2], (2, 3, 7)[i % 3]))
    rows["test"].append(("P03_01", 6.0, 7.0, 9, 2))  # a verb that train does not show
    lists = {split: action_list(folder / f"{split}.csv", rows[split]) for split in rows}
    g = torch.Generator().manual_seed(0)
    model = Model(MODEL, g).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.add_(0.3 * torch.randn(weight.shape, generator=g))
    model.save_pretrained(folder / "model")
    return folder, lists


def configured(kitchen, out, **changed):
    folder, lists = kitchen
    values = {
        "encoder": str(folder / "model"),
        "annotations": epic_kitchens.Config(videos=str(folder / "videos"), **lists),
        **{"out": str(out), "size": 16, "frames": 4, "fps": 4.0, "depth": 1, "heads": 2, "epochs": 2, "batch": 4},
        **{"lr": (1e-2, 1e-3), "weight_decay": (0.01,), "validation": 0.34, "workers": 0, "ahead_train": (0.25, 0.75)},
    }
    return AnticipationConfig(**values | changed)


def actions_of(kitchen):
    config = configured(kitchen, "")
    return find_actions(read_annotations(config.annotations, 0, 0), 0.34, 0)


def test_videos_stay_on_one_side_and_labels_are_those_of_the_list(kitchen):
    actions = actions_of(kitchen)
    assert [len(side) for side in (actions.fit, actions.validation, actions.test)] == [12, 6, 7]
    videos = [{f.path for f in side.footage} for side in (actions.fit, actions.validation, actions.test)]
    assert not videos[0] & videos[1] and not (videos[0] | videos[1]) & videos[2]
    assert actions.test.labels[0].tolist() == [0, 0, 0] and actions.test.labels[-1].tolist() == [UNSEEN, 0, UNSEEN]
    assert {name: len(names) for name, names in actions.classes.items()} == {"verb": 2, "noun": 3, "action": 6}


def test_clips_show_what_lies_before_and_nothing_of_the_action(kitchen):
    side, observed = actions_of(kitchen).test, Observed(size=16, frames=4, fps=4.0)
    frames, ahead = ActionClips(side, observed, 0, training=False)(0, 2)
    first = side.footage[2].first
    assert float(ahead) == 1.0 and shown(frames) == [first - FPS - 2 * k for k in (4, 3, 2, 1)]
    drawn = ActionClips(side, replace(observed, augment="none"), 0, training=True)
    for epoch in range(20):
        frames, ahead = drawn(epoch, 2)
        assert 0.25 <= float(ahead) <= 1.75
        assert max(shown(frames)) < first - FPS * float(ahead) + 0.5
    augmented = ActionClips(side, observed, 0, training=True)
    assert torch.equal(augmented(3, 2)[0], augmented(3, 2)[0]) and augmented(3, 2)[0].shape == (4, 3, 16, 16)
    assert len({float(augmented(epoch, 2)[1]) for epoch in range(5)}) == 5


def test_the_predictor_is_asked_for_the_time_of_the_action(kitchen):
    folder, _ = kitchen
    clips = torch.randint(0, 255, (3, 4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ahead = torch.tensor([1.0, 0.25, 1.75], dtype=torch.float64)
    model = make_foresight("pretrained", str(folder / "model"), 0, "both", 1, 4.0)
    tokens = model(clips, ahead)
    assert tokens.shape == (3, 1, model.tokens(4, 16), 16) == (3, 1, 2 * 4 + 4, 16)
    seen = make_foresight("pretrained", str(folder / "model"), 0, "encoder", 9, 4.0)(clips, ahead)
    expected = make_foresight("pretrained", str(folder / "model"), 0, "predictor", 1, 4.0)(clips, ahead)
    assert torch.equal(torch.cat((seen, expected), 2), tokens)
    context = torch.arange(8).expand(1, -1)
    for row, steps in enumerate((2, 0, 3)):  # int(ahead · 4 / 2) time steps behind the clip's two
        target = 8 + 4 * steps + torch.arange(4)[None]
        own = model.model.predictor(seen[row].float(), context, target, (2, 2, 2), 1)
        assert torch.allclose(own, expected[row].float(), atol=5e-3)
        other = model.model.predictor(seen[row].float(), context, target + 4, (2, 2, 2), 1)
        assert not torch.allclose(other, expected[row].float(), atol=5e-3)
    said = model.said()
    assert said["mask_index"] == 1 and said["mask_tokens"] == 3 and said["mask_token_norm"] > 0
    with pytest.raises(ConfigError, match=r"mask_index 3: .* has 3 mask tokens"):
        make_foresight("pretrained", str(folder / "model"), 0, "both", 3, 4.0)


def test_focal_loss_equals_its_formula_and_leaves_out_unseen_classes():
    g = torch.Generator().manual_seed(0)
    outputs = tuple(torch.randn(2, 5, classes, generator=g) for classes in (3, 4, 6))
    labels = torch.tensor([[0, 3, 5], [2, 0, UNSEEN], [1, 1, 1], [0, 2, 4], [2, 3, 0]])
    expected = torch.zeros(2)
    for output, label in zip(outputs, labels.T, strict=True):
        for head in range(2):
            for i, true in enumerate(label.tolist()):
                for c, logit in enumerate(output[head, i]):
                    p = logit.sigmoid()
                    right, weight = (p, 0.25) if c == true else (1 - p, 0.75)
                    expected[head] -= 0.0 if true == UNSEEN else weight * (1 - right) ** 2 * right.log()
    assert torch.allclose(kind.focal_loss(outputs, labels), expected, rtol=1e-4)
    parts = [kind.focal_loss(tuple(o[:, rows] for o in outputs), labels[rows]) for rows in (slice(2), slice(2, 5))]
    assert torch.allclose(sum(parts), expected, rtol=1e-4)  # rows add up, as a sweep needs


def test_recall_of_heads_equals_that_of_scores_and_a_diverged_head_has_none():
    g = torch.Generator().manual_seed(0)
    output, labels = torch.randn(3, 60, 12, generator=g), torch.randint(0, 11, (60,), generator=g)
    labels[:4] = UNSEEN
    output[2, 7] = torch.nan
    found = kind.class_means(kind.hits((output,), labels[:, None])[:, 0], labels)
    known = (labels != UNSEEN).numpy()
    for head in range(2):
        expected = class_mean_recall(output[head].numpy()[known], labels.numpy()[known], 5)
        assert found[head] == pytest.approx(expected["value"])
    output[2] = torch.nan
    assert kind.class_means(kind.hits((output,), labels[:, None])[:, 0], labels)[2] == 0


def test_the_best_on_test_is_another_head_for_each_figure():
    labels = torch.tensor([[0, 0, 0], [0, 0, UNSEEN], [0, 0, 1], [1, 1, 1]])
    hit = torch.tensor([[[1, 1, 1, 0]] * 3, [[1, 0, 0, 1]] * 3], dtype=torch.bool)
    best = best_on_test(lambda values: dict(enumerate(values)), hit, labels)
    assert best["verb"] == {"recall_at_5": pytest.approx(2 / 3), "top5": pytest.approx(3 / 4)}
    assert best["action"] == {"recall_at_5": pytest.approx(3 / 4), "top5": pytest.approx(2 / 3)}


def test_the_probe_finds_verb_noun_and_action():
    g = torch.Generator().manual_seed(0)
    verb, noun = torch.randint(0, 4, (160,), generator=g), torch.randint(0, 4, (160,), generator=g)
    targets = torch.stack((verb, noun, 4 * verb + noun), 1)
    values = torch.randn(160, 3, 16, generator=g)
    values[:, 0, :4] += 5 * torch.nn.functional.one_hot(verb, 4)
    values[:, 1, 4:8] += 5 * torch.nn.functional.one_hot(noun, 4)
    features = Features(values, torch.arange(160) // 4)
    state = torch.get_rng_state()
    config = kind.Config(depth=1, heads=2, epochs=60, batch=32, lr=(1e-2, 1e-7), weight_decay=(1e-3,))
    probe = kind.build(config, np.random.default_rng(0))
    first = features.episodes < 30
    probe.fit(features.rows(first), targets[first])
    found = probe.score(features.rows(~first), targets[~first])
    assert probe.chosen["lr"] == 1e-2
    assert found["verb_accuracy"] > 0.7 and found["noun_accuracy"] > 0.7 and found["action_recall_at_5"] > 0.7
    predictions = probe.predict_all(features.rows(~first))
    assert len(predictions) == 2 and torch.equal(predictions[probe.best], probe.predict(features.rows(~first)))
    assert torch.equal(state, torch.get_rng_state())


def test_a_run_end_to_end_and_what_is_done_stays_done(kitchen, tmp_path, capsys, monkeypatch):
    config = configured(kitchen, tmp_path, rows=("pretrained", "random_init"), cache="evaluation")
    result = anticipation.run(config)
    row = result["rows"][0]
    assert row["mask_token"]["mask_index"] == 1 and row["heads"] == 2
    assert row["test"]["verb"]["clips"] == 6 and row["test"]["noun"]["clips"] == 7
    assert row["not_in_train"] == {"verb": 1, "noun": 0, "action": 1}
    assert row["test"]["action"]["classes"] == 6 and row["unread"] == {}
    for name in kind.NAMES:
        assert row["best_on_test"][name]["recall_at_5"] >= row["test"][name]["recall_at_5"]["value"] - 1e-9
    assert {"result.json", "per_class.json", "hardest.png", "hardest.json", "predictions.safetensors"} <= {
        path.name for path in (tmp_path / "pretrained").iterdir()
    }
    assert json.loads((tmp_path / "anticipation.json").read_text())["rows"] == json.loads(json.dumps(result["rows"]))
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert all("optimistic" in text and "mask token 1 of 3" in text for text in (printed, page))
    assert all("1 clips for verb" in text.replace("\n", " ") for text in (printed, page))
    assert "Classes: random_init" in page and "data:image/png" in page and "0 2" in page  # an action, by its numbers
    assert result["data"]["not_in_fit"] == {"verb": 0, "noun": 0, "action": 0}
    OmegaConf.create(to_dict(config))  # as it is kept
    monkeypatch.setattr(ActionClips, "__call__", lambda *_: pytest.fail("nothing is to be read again"))
    assert json.loads(json.dumps(anticipation.run(config)["rows"])) == json.loads(json.dumps(result["rows"]))


def test_a_run_that_was_cut_off_goes_on_to_the_same_end(kitchen, tmp_path, monkeypatch):
    whole = anticipation.run(configured(kitchen, tmp_path / "whole", checkpoint_every=2))["rows"]
    original, calls = ActionClips.__call__, []

    def cut(self, epoch, row):
        calls.append(row)
        if len(calls) == 19:  # in the second epoch
            raise KeyboardInterrupt
        return original(self, epoch, row)

    config = configured(kitchen, tmp_path / "cut", checkpoint_every=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ActionClips, "__call__", cut)
        anticipation.run(config)
    assert anticipation.run(config)["rows"] == whole
    said = [load_file(tmp_path / name / "pretrained" / "predictions.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(said[0][key], said[1][key]) for key in said[0])


def test_a_video_that_cannot_be_read_is_said(kitchen, tmp_path):
    folder, lists = kitchen
    config = configured(kitchen, tmp_path)
    rows = [("P01_01", 3.0, 4.0, 0, 2), ("P01_02", 3.0, 4.0, 0, 2), ("P04_01", 3.0, 4.0, 0, 2)]
    broken = folder / "videos" / "P04" / "P04_01.MP4"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"no video")
    train = action_list(tmp_path / "train.csv", rows)
    annotated = read_annotations(replace(config.annotations, train=train, test=lists["test"]), 0, 0)
    actions = find_actions(annotated, 0.34, 0)
    assert list(actions.unread) == [str(broken)] and len(actions.fit) == len(actions.validation) == 1


def test_heads_that_do_not_divide_the_width_and_undecodable_clips_are_one_line(kitchen, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="heads 3 divide 16"):
        anticipation.run(configured(kitchen, tmp_path / "heads", heads=3))

    def torn(*_):
        raise DataError("cannot be decoded")

    monkeypatch.setattr(ActionClips, "__call__", torn)
    with pytest.raises(ProbeError, match="none of the clips to fit could be decoded"):
        anticipation.run(configured(kitchen, tmp_path / "torn"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"anchor": "middle"}, "anchor 'middle' is not one of start, end"),
        ({"features": "pixels"}, "features 'pixels' is not one of both"),
        ({"rows": ("pixels",)}, "rows: 'pixels' is not one of"),
        ({"ahead_train": (2.0, 1.0)}, "ahead_train"),
        ({"size": 0}, "size 0: must be at least 1"),
        ({"heads": 0}, "heads 0: must be at least 1"),
        ({"lr": ()}, "give at least one of each"),
        ({"workers": -1}, "workers -1: must be at least 0"),
    ],
)
def test_settings_out_of_range_are_one_line(changed, message):
    with pytest.raises(ConfigError, match=message):
        AnticipationConfig(encoder="", out="", **changed)
