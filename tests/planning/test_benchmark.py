"""The benchmark as a whole: honest statistics, resumable jobs, the same figures in any process, films."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")

from PIL import Image

from jepa.checkpoint import CheckpointError
from jepa.config import load_config, preset_names
from jepa.models.encoder import build_encoder
from jepa.planning import benchmark, films, results, rows
from jepa.planning.benchmark import PlanConfig, plan_jobs, run, run_job, work
from jepa.planning.landscape import energy_landscape
from jepa.planning.manifest import ManifestError, load
from jepa.planning.mpc import Episode
from jepa.worlds.base import State, Step, WorldModel


class Shifted(WorldModel):
    """Tokens that move by the action, seen through a fixed offset: its lowest energy is at OFFSET."""

    OFFSET = (0.02, 0.01, -0.04)

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        return {"tokens": tokens[:, -1], "moved": torch.zeros(len(tokens), 3)}

    def step(self, state, action, generator=None) -> Step:
        return Step({**state, "moved": state["moved"] + action[:, :3] - torch.tensor(self.OFFSET)})

    def features(self, state) -> Tensor:
        moved = torch.nn.functional.pad(state["moved"], (0, state["tokens"].shape[-1] - 3))
        return state["tokens"] + moved[:, None]


@pytest.fixture
def config(tmp_path, tiny, monkeypatch) -> PlanConfig:
    """Two goals of each task, a toy world on an untrained encoder, everything in this process."""
    monkeypatch.setattr(rows, "load_world", lambda run: (build_encoder(tiny, seed=len(run)).eval(), Shifted()))
    monkeypatch.setattr(benchmark, "_weights", lambda run: run)
    small = ["goals=2", "oracle_goals=1", "workers=0", "films=1", f"out={tmp_path / 'plan'}", "world=toy"]
    return load_config(PlanConfig, "plan", "debug", small)


def read(config: PlanConfig, name: str = "results.json") -> dict:
    return json.loads((Path(config.out) / name).read_text())


def test_every_row_of_every_task_with_its_cost_and_interval(config, tmp_path):
    config = replace(config, control="other toy")
    assert run(config) == tmp_path / "plan" / "results.json"
    found = read(config)
    assert [(r["task"], r["row"]) for r in found["rows"]] == [(t, r) for t in ("reach", "push") for r in rows.LABELS]
    for r in found["rows"]:
        assert r["n"] == (1 if r["row"] == "oracle" else 2) and r["seed"] == 0
        assert 0 <= r["success"]["low"] <= r["success"]["rate"] <= r["success"]["high"] <= 1
        assert r["close"]["rate"] <= r["success"]["rate"]
        assert len(r["curve"]) == {"reach": 9, "push": 9}[r["task"]]
        assert (r["model_steps"] > 0) == (r["row"] in ("ours", "control", "oracle"))
        assert (r["versus_ours"] is None) == (r["row"] == "ours")
    still = [r for r in found["rows"] if r["row"] == "nothing"]
    assert all(r["curve"][0] == pytest.approx(r["curve"][-1], abs=1e-3) for r in still)
    gifs = [f for r in found["rows"] for f in r["films"]]
    assert len(gifs) == 2
    with Image.open(tmp_path / "plan" / gifs[0]) as film:
        assert film.size == ((3 * 16 + 2 * films.GAP) * films.SCALE, 16 * films.SCALE)
        assert 1 < film.n_frames <= 9  # Pillow joins pictures that are the same
    assert found["omitted"] == {}


def test_a_second_run_redoes_nothing_and_a_changed_setting_redoes_what_it_touches(config, monkeypatch):
    run(config)
    first, done = read(config), []
    monkeypatch.setattr(benchmark, "run_job", lambda job, tick=None: done.append((job.task, job.row)))
    run(config)
    assert not done and read(config) == first

    def redone(changed: PlanConfig) -> set:
        return {j.row for j in plan_jobs(changed, load()) if j.result() is None}

    assert redone(replace(config, world="retrained")) == {"ours"}
    assert redone(replace(config, oracle=replace(config.oracle, samples=7))) == {"oracle"}
    assert redone(replace(config, goals=3)) == {"ours", "random", "nothing"}  # the oracle has its own count
    assert redone(replace(config, seed=1)) == {"ours", "random", "nothing", "oracle"}
    assert redone(replace(config, batch=1, workers=2)) == set()


def test_without_a_control_the_result_says_so(config):
    run(replace(config, tasks=("reach",)))
    assert "control" in read(config)["omitted"] and len(read(config)["rows"]) == 4


def test_processes_give_the_figures_of_one(config, tmp_path):
    jobs = [j for j in plan_jobs(config, load()) if j.task == "reach" and j.row in ("random", "oracle")]
    work(jobs, load(), workers=0)
    here = [j.result()["episodes"] for j in jobs]
    moved = [replace(j, config=replace(j.config, out=str(tmp_path / "pool"))) for j in jobs]
    work(moved, load(), workers=1)
    assert [j.result()["episodes"] for j in moved] == here


def test_the_floors_are_floors_on_all_shipped_goals(config):
    """Random actions solve at most 15 %, doing nothing at most 5 %: the goals are not solved by accident."""
    for job in plan_jobs(replace(config, goals=60), load()):
        if job.row in ("random", "nothing"):
            run_job(job)
            share = np.mean([e["success"] for e in job.result()["episodes"]])
            assert share <= {"random": 0.15, "nothing": 0.05}[job.row], (job.task, job.row, share)


def test_the_ceiling_is_a_ceiling(config):
    """Planning on true dynamics solves what there is to solve, a push from any side included."""
    budget = replace(config.oracle, samples=24, iterations=2, elites=4)
    for job in plan_jobs(replace(config, goals=2, oracle_goals=2, oracle=budget), load()):
        if job.row == "oracle":
            run_job(job)
            assert all(e["success"] for e in job.result()["episodes"]), job.task


def test_bad_runs_and_too_many_goals_are_one_line(config, monkeypatch, tmp_path):
    with pytest.raises(ManifestError, match="61 goals"):
        run(replace(config, goals=61))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="nowhere"):
        run(replace(config, world=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("name", preset_names("plan"))
def test_presets_are_valid(name):
    config = load_config(PlanConfig, "plan", name, ["world=w", "out=o"])
    assert config.tasks == ("reach", "push")


def test_wilson_interval_and_exact_mcnemar():
    r = results.rate([True] * 13 + [False] * 2)
    assert (r["rate"], r["low"], r["high"]) == pytest.approx((13 / 15, 0.6212, 0.9626), abs=1e-4)
    ours = {f"g{i}": i < 8 for i in range(12)}
    other = {f"g{i}": i in (0, 11) for i in range(11)} | {"g11": True, "elsewhere": True}
    # Only ours: g1..g7; only the other: g11. Two-sided: 2·(C(8,0)+C(8,1))/2⁸.
    assert results.paired(ours, other) == {"goals": 12, "only_ours": 7, "only_other": 1, "p": pytest.approx(18 / 256)}
    assert results.paired(ours, ours)["p"] == 1.0


def test_films_show_success_and_failure_where_there_are_both():
    assert films.choose([True, True, False, True], 3) == [0, 2, 1]
    assert films.choose([False, False], 1) == [0] and films.choose([True], 3) == [0]
    with pytest.raises(ValueError, match="without frames"):
        films.write(Path("x.gif"), Episode([0.0], np.zeros((0, 7)), 0.0, 0, None), np.zeros((4, 4, 3)))


def test_energy_landscape_is_lowest_at_the_action_the_world_believes_in(tiny):
    frame = torch.randint(0, 255, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    action = torch.tensor([0.02, 0.0, -0.04, 0.0, 0.0, 0.0, 0.0])
    found = energy_landscape(
        build_encoder(tiny, seed=0), Shifted(), frame, frame, torch.zeros(7), action, extent=0.06, points=7
    )
    assert found.energy.shape == (7, 7) and found.axis.tolist() == pytest.approx(np.linspace(-0.06, 0.06, 7).tolist())
    assert found.lowest == pytest.approx((0.02, -0.04)) and found.action == pytest.approx((0.02, -0.04))
