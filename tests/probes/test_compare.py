"""Paired differences of results: right where the answer is known, refused where clips differ."""

import json

import numpy as np
import pytest
import torch

from jepa.probes import predictions
from jepa.probes.compare import run
from jepa.probes.kinds.base import ProbeError
from jepa.probes.predictions import Predictions

EPISODES = torch.arange(20).repeat_interleave(10)  # 20 episodes of 10 clips


def classes(seed: int, share: float, spare: int = 0, episodes=EPISODES, **given) -> Predictions:
    """A probe that is right on a share of the clips; `spare` shifts which ones."""
    true = torch.arange(len(episodes)) % 2
    wrong = (torch.arange(len(episodes)) * 7 + 13 * seed + spare) % 100 >= 100 * share
    values = {
        "task": "arrow", "kind": "linear", "view": "pooled", "maker": "pretrained", "seed": seed,
        "predicted": torch.where(wrong, 1 - true, true), "true": true, "episodes": episodes,
        "first": torch.arange(len(episodes)), "best": None, "chosen": ({},), "train_clips": 5,
    }  # fmt: skip
    values |= given
    return Predictions(**{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in values.items()})


@pytest.fixture
def folder(tmp_path):
    def write(name: str, parts: list[Predictions], test: str | dict[int, str] = "clips") -> str:
        predictions.write(tmp_path / name / predictions.FILE, parts, test)
        return str(tmp_path / name)

    return write


def test_a_difference_is_the_mean_over_seeds_and_has_a_verdict(folder, capsys, tmp_path):
    a = folder("a", [classes(s, 0.6) for s in range(3)])
    b = folder("b", [classes(s, 0.8) for s in range(3)])
    found = run([a, b, a], out=str(tmp_path / "compare.json"))
    better, same = found["comparisons"]
    assert better["difference"] == pytest.approx(0.2, abs=0.01) and better["verdict"] == "better"
    assert better["reference"] == pytest.approx(0.6, abs=0.01) and better["mean"] == pytest.approx(0.8, abs=0.01)
    assert all(0 < better[k][0] <= better["difference"] <= better[k][1] for k in ("bootstrap95", "clips95"))
    assert same["difference"] == 0 and same["bootstrap95"] == [0, 0] and same["verdict"] == "not separated"
    assert run([b, a])["comparisons"][0]["verdict"] == "worse"
    assert json.loads((tmp_path / "compare.json").read_text()) == found
    assert "arrow of time" in capsys.readouterr().out


def test_intervals_are_paired(folder):
    """Two probes that err on nearly the same clips are told apart, which their own intervals would not do."""
    a = folder("a", [classes(s, 0.6) for s in range(3)])
    b = folder("b", [classes(s, 0.63) for s in range(3)])
    c = run([a, b])["comparisons"][0]
    assert c["verdict"] == "better" and c["clips95"][1] - c["clips95"][0] < 0.06
    alone = 2 * 1.96 * np.sqrt(0.6 * 0.4 / 200)
    assert c["clips95"][1] - c["clips95"][0] < alone / 2


def test_clips_of_an_episode_count_together(folder):
    """A gain on all clips of two episodes of four is certain by clip, not by episode."""
    episodes = torch.arange(4).repeat_interleave(50)
    a = classes(0, 0.5, episodes=episodes)
    right = torch.where(episodes < 1, a.true, a.predicted)
    b = classes(0, 0.5, episodes=episodes, predicted=right)
    c = run([folder("a", [a]), folder("b", [b])])["comparisons"][0]
    assert c["clips95"][0] > 0 and c["bootstrap95"][0] == 0


def test_values_are_compared_by_r2(folder):
    true = torch.linspace(0, 1, 200)[:, None].double()
    noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double()
    parts = [
        [classes(s, 1, task="gripper", kind="regression", true=true, predicted=true + scale * noise) for s in (0, 1)]
        for scale in (0.2, 0.1)
    ]
    c = run([folder("a", parts[0]), folder("b", parts[1])])["comparisons"][0]
    gain = float((0.04 - 0.01) * (noise**2).mean() / true.var(correction=0))
    assert c["metric"] == "r2" and c["difference"] == pytest.approx(gain, abs=1e-6)


def test_only_what_both_have_is_compared(folder):
    a = folder("a", [classes(0, 0.6), classes(1, 0.6), classes(0, 0.6, kind="knn")])
    b = folder("b", [classes(1, 0.8), classes(2, 0.8), classes(1, 0.1, maker="random_init")])
    (c,) = run([a, b])["comparisons"]
    assert c["seeds"] == [1] and c["probe"] == "linear" and c["t95"] == [None, None]


def test_seeds_are_compared_that_were_tested_on_the_same_clips(folder):
    """More seeds in one folder are no reason to refuse; another data set under one of them is."""
    a = folder("a", [classes(s, 0.6) for s in range(3)], {s: f"clips {s}" for s in range(3)})
    b = folder("b", [classes(s, 0.8) for s in range(2)], {s: f"clips {s}" for s in range(2)})
    (c,) = run([a, b])["comparisons"]
    assert c["seeds"] == [0, 1] and c["difference"] == pytest.approx(0.2, abs=0.01)
    other = folder("c", [classes(s, 0.8) for s in range(2)], {0: "clips 0", 1: "others"})
    with pytest.raises(ProbeError, match="other clips"):
        run([a, other])


def test_what_only_one_folder_has_is_said(folder, capsys):
    both = [classes(0, 0.6), classes(0, 0.6, maker="random_init")]
    speed = [classes(0, 0.6, task="speed", kind=kind) for kind in ("linear", "knn")]
    a = folder("a", [*both, *speed, classes(1, 0.6)])
    b = folder("b", [*both, classes(0, 0.6, maker="image"), classes(0, 0.6, kind="knn")])
    found = run([a, b])
    assert found["only"] == [
        {"folder": a, "against": b, "has": ["seed 1", "task speed"]},
        {"folder": b, "against": a, "has": ["row image", "arrow knn pooled"]},
    ]
    said = " ".join(capsys.readouterr().out.split())
    assert "seed 1, task speed" in said and "row image, arrow knn pooled" in said
    assert run([a, a])["only"] == []


def test_one_episode_gives_no_verdict(folder, capsys):
    episodes = torch.zeros(200, dtype=torch.int64)
    a, b = (folder(n, [classes(s, x, episodes=episodes) for s in range(3)]) for n, x in (("a", 0.6), ("b", 0.8)))
    (c,) = run([a, b])["comparisons"]
    assert c["bootstrap95"] == [None, None] and c["t95"][0] > 0 and c["verdict"] == "not separated"
    assert "better" not in capsys.readouterr().out


def test_results_of_other_verbs_are_named(folder, tmp_path):
    a = folder("a", [classes(0, 0.6)])
    for verb, words in (
        ("suite", "of `jepa probe suite`: give the folder of one of its checkpoints"),
        ("benchmark", "of `jepa probe benchmark`, whose page"),
    ):
        (tmp_path / verb).mkdir()
        (tmp_path / verb / f"{verb}.json").write_text("{}")
        with pytest.raises(ProbeError, match=words):
            run([a, str(tmp_path / verb)])


def test_what_cannot_be_compared_is_one_line(folder):
    a = folder("a", [classes(0, 0.6)])
    with pytest.raises(ProbeError, match=r"b was tested on other clips than .*a"):
        run([a, folder("b", [classes(0, 0.6)], test="others")])
    with pytest.raises(ProbeError, match="arrow, linear pooled was asked of other clips"):
        run([a, folder("c", [classes(0, 0.6, first=torch.arange(200) + 1)])])
    with pytest.raises(ProbeError, match=r"probe seeds 4, .*a 0: none in common"):
        run([a, folder("d", [classes(4, 0.6)])])
    with pytest.raises(ProbeError, match="no row 'image'; there are: pretrained"):
        run([a, a], row="image")
    with pytest.raises(ProbeError, match="no task and probe in common"):
        run([a, folder("e", [classes(0, 0.6, task="speed")])])
    with pytest.raises(ProbeError, match="two folders or more"):
        run([a])
    with pytest.raises(ProbeError, match="nothing"):
        run([a, a + "/nothing"])
