"""Phases from joints: boundaries of a synthetic pick, whatever its levels, drift or end; no pick, no labels."""

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

FPS = 30


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).parents[2] / "benchmarks" / "g1_phases.py"
    spec = importlib.util.spec_from_file_location("g1_phases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def joints(*levels: float, seconds: float = 2.0) -> np.ndarray:
    """(T, 26): the right hand's fingers go from level to level, a ramp of 1 s and then `seconds` of rest each."""
    hand = [np.full(round(seconds * FPS), levels[0])]
    for before, after in pairwise(levels):
        hand += [np.linspace(before, after, FPS), np.full(round(seconds * FPS), after)]
    states = np.random.default_rng(0).normal(size=(sum(map(len, hand)), 26))  # what other joints do is no matter
    states[:, 20:25] = np.concatenate(hand)[:, None] + np.linspace(-0.1, 0.1, 5)
    return states.astype(np.float32)


def starts(labels: np.ndarray) -> list[float]:
    """Seconds at which phases 1, 2 and 3 begin; the labels must rise from 0 to 3."""
    assert set(labels) == {0, 1, 2, 3} and (np.diff(labels) >= 0).all() and labels.dtype == np.int64
    return [int(np.flatnonzero(labels == c)[0]) / FPS for c in (1, 2, 3)]


@pytest.mark.parametrize("low", [0.5, 0.7])
def test_phases_of_a_pick(bench, low):
    """Half closed, opens, closes from 5 s to 6 s, opens from 8 s to 9 s: marks at 15, 65 and 50 % of these ramps."""
    found = starts(bench.phases(joints(0.6, 0.9, low, 1.0), FPS))
    assert found == pytest.approx([5.15, 5.65, 8.5], abs=0.1)


def test_a_hand_that_closes_further_after_it_let_go_is_no_second_grasp(bench):
    assert starts(bench.phases(joints(0.6, 0.9, 0.6, 0.9, 0.3), FPS)) == pytest.approx([5.15, 5.65, 8.5], abs=0.1)


def test_a_grip_that_loosens_a_little_is_still_a_carry(bench):
    """The hold drifts from 0.6 to 0.7 on the way; the hand lets go from 11 s on."""
    assert starts(bench.phases(joints(0.6, 0.9, 0.6, 0.7, 1.0), FPS))[2] == pytest.approx(11.33, abs=0.1)


def test_a_recording_that_is_cut_off_as_the_hand_opens_has_all_phases(bench):
    states = joints(0.6, 0.9, 0.6, 1.0)
    assert starts(bench.phases(states[: round(8.8 * FPS)], FPS))[2] > 8.0


def test_the_rate_of_the_video_does_not_matter(bench):
    half = bench.phases(joints(0.6, 0.9, 0.6, 1.0)[::2], FPS / 2)
    assert [2 * s for s in starts(half)] == pytest.approx([5.15, 5.65, 8.5], abs=0.15)


@pytest.mark.parametrize("levels", [(0.6,), (0.6, 0.9), (0.9, 0.5), (0.6, 0.9, 0.86, 0.9)])
def test_no_pick_gives_no_labels(bench, levels):
    labels = bench.phases(joints(*levels), FPS)
    assert (labels == -1).all() and labels.dtype == np.int64


def test_labels_table_and_sheet_are_written(bench, moving_square, tmp_path, monkeypatch, capsys):
    """On shards of another robot, with joints put in their place."""
    states, read = joints(0.6, 0.9, 0.6, 1.0), bench.Manifest.read

    def with_joints(manifest, i):
        sample = read(manifest, i)
        wanted = np.linspace(0, len(states) - 1, manifest[i].frames).round().astype(int)
        sample.arrays["states"] = states[wanted]
        return sample

    monkeypatch.setattr(bench.Manifest, "read", with_joints)
    out, sheet = tmp_path / "phases.safetensors", tmp_path / "sheet.png"
    monkeypatch.setattr(
        sys, "argv", ["g1_phases.py", str(moving_square), str(out), "--sheet", str(sheet), "--rows", "2"]
    )
    bench.main()
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["classes"]) == ["reach", "grasp", "carry", "release"]
        assert json.loads(file.metadata()["rule"])["least"] == bench.LEAST
        labels = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    manifest = bench.Manifest.load(moving_square)
    assert {key: len(own) for key, own in labels.items()} == {f"phase/{e.key}": e.frames for e in manifest}
    assert sheet.stat().st_size > 5000 and "release" in capsys.readouterr().out
