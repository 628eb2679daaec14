"""The benchmark as a whole: resumable chunks, the same figures in any process, rows, films and the page."""

import contextlib
import importlib.resources
import json
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium")

from PIL import Image
from typer.testing import CliRunner

from jepa import runs
from jepa.checkpoint import CheckpointError
from jepa.cli import app
from jepa.config import ConfigError, load_config, preset_names
from jepa.models.encoder import build_encoder
from jepa.planning import inverse
from jepa.planning.agent import eyes
from jepa.planning.bench import films, rows
from jepa.planning.bench import jobs as bench_jobs
from jepa.planning.bench import run as benchmark
from jepa.planning.bench import worlds as bench_worlds
from jepa.planning.bench.config import PlanConfig, frozen_goals
from jepa.planning.bench.jobs import Cell, Job, missing, run_job, work
from jepa.planning.bench.run import cells_of, run
from jepa.planning.bench.simulator import SimulatorWorld, pictured
from jepa.planning.constraints import Ball, BoundsConfig
from jepa.planning.envs.base import make
from jepa.planning.landscape import energy_landscape
from jepa.planning.manifest import ManifestError
from jepa.planning.mpc import Episode, look
from jepa.planning.offscreen import SimulatorError
from jepa.worlds.base import State, Step, WorldModel


class Shifted(WorldModel):
    """Tokens that move by the action, seen through a fixed offset: its lowest energy is at OFFSET."""

    OFFSET = (0.02, 0.01, -0.04)

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        pose = torch.zeros(len(tokens), 1, 7) if proprio is None else proprio[:, -1:]
        return {"tokens": tokens[:, -1].float(), "moved": torch.zeros(len(tokens), 3), "pose": pose}

    def step(self, state, action, generator=None) -> Step:
        return Step({**state, "moved": state["moved"] + action[:, :3] - torch.tensor(self.OFFSET)})

    def features(self, state) -> Tensor:
        moved = torch.nn.functional.pad(state["moved"], (0, state["tokens"].shape[-1] - 3))
        return state["tokens"] + moved[:, None]


@pytest.fixture
def config(tmp_path, tiny, monkeypatch) -> PlanConfig:
    """Two goals of each task, a toy world on an untrained encoder, everything in this process."""

    def load_world(run):
        return build_encoder(tiny, seed=len(str(run))).eval(), Shifted()

    for module in (rows, bench_worlds, runs):
        monkeypatch.setattr(module, "load_world", load_world)

    def check_weights(run, *said):  # toy runs are names, and have no config
        if Path(run).is_dir():
            runs.check_weights(run, *said)

    monkeypatch.setattr(rows, "check_weights", check_weights)
    monkeypatch.setattr(benchmark, "weights", lambda run: run)
    monkeypatch.setattr(benchmark, "check_camera", lambda run: None)
    small = ["goals=2", "oracle_goals=1", "workers=0", "films=1", f"out={tmp_path / 'plan'}", "world=toy"]
    return load_config(PlanConfig, "plan", "debug", small)


def read(config: PlanConfig, name: str = "results.json") -> dict:
    return json.loads((Path(config.out) / name).read_text())


def cells(config: PlanConfig) -> list[Cell]:
    table, _ = rows.chosen(config)
    return cells_of(table, config, frozen_goals(config), {row.run: row.run for row in table})


def jobs(config: PlanConfig) -> list[Job]:
    return missing(cells(config), frozen_goals(config))


def figures(episodes: list[dict]) -> list[dict]:
    return [{k: v for k, v in e.items() if k != "seconds"} for e in episodes]


def test_every_row_of_every_task_with_its_cost_and_interval(config, tmp_path):
    config = replace(config, control="other toy")
    assert run(config) == tmp_path / "plan" / "results.json"
    found = read(config)
    names = ("ours", "control", "random", "nothing", "oracle")
    assert [(r["task"], r["row"]) for r in found["rows"]] == [(t, r) for t in ("reach", "push") for r in names]
    for r in found["rows"]:
        assert r["n"] == (1 if r["row"] == "oracle" else 2) and r["seed"] == 0
        assert 0 <= r["success"]["low"] <= r["success"]["rate"] <= r["success"]["high"] <= 1
        assert r["close"]["rate"] <= r["success"]["rate"]
        assert len(r["curve"]) == {"reach": 9, "push": 13}[r["task"]]
        assert (r["model_steps"] > 0) == (r["row"] in ("ours", "control", "oracle"))
        assert (r["versus_ours"] is None) == (r["row"] == "ours")
    still = [r for r in found["rows"] if r["row"] == "nothing"]
    assert all(r["curve"][0] == pytest.approx(r["curve"][-1], abs=1e-3) for r in still)
    gifs = [f for r in found["rows"] for f in r["films"]]
    assert len(gifs) == 2
    with Image.open(tmp_path / "plan" / gifs[0]) as film:
        assert film.size == ((3 * films.SIDE + 2 * films.GAP) * films.SCALE, films.SIDE * films.SCALE)
        assert 1 < film.n_frames <= 9  # Pillow joins pictures that are the same
    assert found["omitted"] == {} and "fingertips" in found["tasks"]["reach"]["success"]


def test_constraints_and_pace_reach_the_plans(config):
    config = replace(config, tasks=("push",), goals=1, rows=("oracle",))

    def told(**changed) -> dict[str, tuple[np.ndarray, int]]:
        found = {job.cell.row.name: run_job(job)[0] for job in jobs(replace(config, **changed))}
        return {name: (np.array(e["actions"]), e["model_steps"]) for name, e in found.items()}

    plain, ball = told(), told(bounds=BoundsConfig(balls=[Ball((0, 1, 2), 0.02)]))
    turned = told(bounds=BoundsConfig(frozen=()))
    for name in ("ours", "oracle"):
        assert np.linalg.norm(ball[name][0][:, :3], axis=1).max() <= 0.02 + 1e-6, name
        assert np.linalg.norm(plain[name][0][:, :3], axis=1).max() > 0.03, name
        assert (plain[name][0][:, 3:6] == 0).all() and (turned[name][0][:, 3:6] != 0).any(), name
    twice, hurried = told(execute=2), told(seconds=1e-9)
    assert all(twice[name][1] == plain[name][1] / 2 for name in twice), "a plan for every other decision"
    assert hurried["ours"][1] == config.planner.horizon, "the first mean alone"
    assert hurried["oracle"][1] == plain["oracle"][1] and np.array_equal(hurried["oracle"][0], plain["oracle"][0])


def test_true_dynamics_are_the_simulator_seen_by_our_encoder(config, tiny):
    """What is imagined looks as the environment does after the same action, and the row plans with our energy."""
    (row,) = [row for row in rows.chosen(replace(config, rows=("true_dynamics",)))[0] if row.kind == "true_dynamics"]
    assert row.run == config.world and row.planner == config.planner
    (goal,) = frozen_goals(config).of("reach", 1)
    encoder, world = build_encoder(tiny, seed=3).eval(), Shifted()
    with contextlib.closing(make("tabletop", size=32)) as env:
        simulated = SimulatorWorld(env, pictured(encoder, world))
        state = simulated.observe(None, torch.from_numpy(goal.start)[None, None, None])
        action = torch.tensor([[0.05, -0.03, 0.02, 0, 0, 0, 0]])
        imagined = simulated.features(simulated.step(state, action).state)
        env.set_state(goal.start)
        env.advance(action[0].numpy())
        seen = eyes(encoder)(look(env, [env.get_state()], encoder.config.size))
        torch.testing.assert_close(imagined.float(), world.features(world.observe(None, seen)))
        assert not torch.equal(imagined, simulated.features(state))
    config = replace(config, rows=("true_dynamics",), tasks=("push",), subgoals=("push",), goals=1, oracle_goals=1)
    run(config)
    ours, theirs = read(config)["rows"]
    assert theirs["label"] == "ours, true dynamics" and theirs["model_steps"] == ours["model_steps"]
    actions = [read(config, f"push_{row}.json")["episodes"][0]["actions"] for row in ("ours", "true_dynamics")]
    assert actions[0] != actions[1]


def test_a_second_run_redoes_nothing_and_a_changed_setting_redoes_what_it_touches(config, monkeypatch):
    run(config)
    first, done = read(config), []
    monkeypatch.setattr(bench_jobs, "run_job", lambda job, tick=None: done.append(job))
    run(config)
    assert not done and read(config) == first

    def redone(changed: PlanConfig) -> set:
        return {job.cell.row.name for job in jobs(changed)}

    assert redone(replace(config, world="retrained")) == {"ours"}
    assert redone(replace(config, oracle=replace(config.oracle, samples=7))) == {"oracle"}
    assert redone(replace(config, goal=replace(config.goal, distance="l2"))) == {"ours"}
    assert redone(replace(config, seed=1)) == {"ours", "random", "nothing", "oracle"}
    assert redone(replace(config, seeds={"reach": 2})) == {"ours", "random"}  # the others do not draw, or have one
    assert redone(replace(config, batch=1, chunk=1, workers=2)) == set()
    assert redone(replace(config, bounds=BoundsConfig(frozen=()))) == {"ours", "random", "oracle"}
    assert redone(replace(config, bounds=BoundsConfig(frozen=None, low=[], balls=[]))) == set()
    assert redone(replace(config, execute=2)) == {"ours", "oracle"}
    assert redone(replace(config, seconds=9.0)) == {"ours"}
    assert redone(replace(config, precision="bf16")) == {"ours"}
    assert redone(replace(config, precision="fp32", device="cpu")) == set()
    more = jobs(replace(config, goals=3))  # the oracle has its own count
    assert {job.cell.row.name for job in more} == {"ours", "random", "nothing"}
    assert all(job.goals == (2,) for job in more), "what is there is not run again"


def test_a_run_that_is_killed_goes_on_after_its_last_whole_chunk(config, monkeypatch):
    config, real, done = replace(config, tasks=("reach",), batch=1, chunk=1), run_job, []

    def killed(job, tick):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((job.cell.row.name, job.seed, job.goals))
        return real(job, tick)

    whole = jobs(config)
    assert len(whole) == 2 + 2 + 2 + 1
    monkeypatch.setattr(bench_jobs, "run_job", killed)
    with pytest.raises(KeyboardInterrupt):
        work(whole, frozen_goals(config), 0)
    rest = [(job.cell.row.name, job.seed, job.goals) for job in jobs(config)]
    assert len(done) == 3 and sorted(done + rest) == sorted((j.cell.row.name, j.seed, j.goals) for j in whole)


def test_chunks_and_processes_give_the_figures_of_one(config, tmp_path):
    config = replace(config, goals=3, tasks=("reach",), rows=("random", "oracle"), seeds={"reach": 2}, oracle_goals=2)
    ways = {"one": (8, 16, 0), "chunks": (1, 2, 0), "pool": (8, 1, 1)}
    found = {}
    for name, (batch, chunk, workers) in ways.items():
        own = replace(config, out=str(tmp_path / name), batch=batch, chunk=chunk, workers=workers)
        told = cells(own) if name != "pool" else [c for c in cells(own) if c.row.name != "ours"]  # a toy stays here
        work(missing(told, frozen_goals(own)), frozen_goals(own), workers)
        found[name] = {c.row.name: c.record(frozen_goals(own))["episodes"] for c in told}
    assert [(e["seed"], e["goal"]) for e in found["one"]["random"]][2:4] == [(0, "reach-002"), (1, "reach-000")]
    for name, episodes in found["pool"].items():
        assert figures(episodes) == figures(found["one"][name]), name
    for name, episodes in found["chunks"].items():
        close = [np.allclose(a["actions"], b["actions"]) for a, b in zip(episodes, found["one"][name], strict=True)]
        assert all(close), name
    assert found["one"]["random"][0]["actions"] != found["one"]["random"][3]["actions"], "seeds differ"
    assert found["one"]["random"][0]["actions"] != found["one"]["random"][1]["actions"], "goals differ"


def test_success_is_what_the_last_state_says(config, monkeypatch):
    """Not the distance alone: a task may ask for more."""
    config = replace(config, tasks=("reach",), rows=("nothing",), goals=1)
    (still,) = [job for job in jobs(config) if job.cell.row.name == "nothing"]
    assert not run_job(still)[0]["success"]
    asked = []
    monkeypatch.setattr(bench_jobs, "outcome", lambda env, goal, state, near: (asked.append((state, near)), True))
    assert run_job(still)[0]["success"] and [near for _, near in asked] == [0.05, 0.03]
    start = frozen_goals(config).of("reach", 1)[0].start
    assert np.allclose(asked[0][0][1:8], start[1:8], atol=1e-2)  # it stood still


def test_rows_without_their_run_are_left_out_with_the_reason(config):
    run(replace(config, tasks=("reach",), rows=(*config.rows, "pixels", "expert", "inverse")))
    found = read(config)
    assert set(found["omitted"]) == {"control", "pixels", "inverse"}
    assert [r["row"] for r in found["rows"]] == ["ours", "random", "nothing", "expert", "oracle"]
    assert "toy/features/train is missing" in found["omitted"]["inverse"]
    (told,) = found["open_loop"]
    assert "jepa posttrain" in told["absent"]


def test_nets_are_trained_once_on_the_features_of_the_world(config, tmp_path, tiny, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    cached = {"tokens": torch.randn(30, 16, 32, generator=generator), "lengths": torch.tensor([10] * 3)}
    cached |= {name: torch.randn(n, 7, generator=generator) / 20 for name, n in (("actions", 27), ("states", 30))}
    for split in ("train", "heldout"):
        runs.write_cache(tmp_path / "toy" / "features" / split / "00000-of-00001.safetensors", "key", cached)
    (tmp_path / "toy" / "config.json").write_text('{"weights": "pretrained"}')
    few = inverse.InverseConfig(steps=3, width=8, token_width=2)
    config = replace(config, world=str(tmp_path / "toy"), inverse=few, cloning=replace(few, max_gap=4))
    config = replace(config, tasks=("reach",), rows=("cloning", "inverse", "nothing"))
    run(config)
    found = read(config)
    assert [r["row"] for r in found["rows"]] == ["ours", "cloning", "inverse", "nothing"] and not found["omitted"]
    ends = [read(config, f"reach_{row}.json")["episodes"][0]["actions"] for row in ("cloning", "inverse")]
    assert ends[0] != ends[1]
    (told,) = found["open_loop"]
    assert told["episodes"] == 3 and {"skill@1", "skill@2", "skill@4", "skill@8"} < set(told)
    assert sorted(p.name[:7] for p in (Path(config.out) / "nets").iterdir()) == ["cloning", "inverse"]
    monkeypatch.setattr(bench_worlds, "train_on_run", lambda *args: pytest.fail("trained again"))
    monkeypatch.setattr(bench_worlds, "open_loop", lambda *args: pytest.fail("measured again"))
    run(config)
    assert read(config) == found


def test_planners_are_rows_and_budgets_are_curves(config):
    planners = {"icem": {"samples": 8, "iterations": 1, "elites": 4, "horizon": 2}, "short": {"type": "cem"}}
    planners["short"] |= {"samples": 4, "iterations": 1, "elites": 2, "horizon": 1}
    config = replace(config, tasks=("reach",), rows=(), planners=planners, budgets=(0.5, 2.0))
    run(config)
    found = read(config)
    assert [r["label"] for r in found["rows"]] == ["ours", "ours, icem", "ours, short"]
    assert [r["row"] for r in found["rows"]] == ["ours", "ours_icem", "ours_short"]
    steps = {(p["planner"], p["budget"]): p["model_steps"] for p in found["curves"]}
    assert steps["ours", 0.5] < steps["ours", 1.0] < steps["ours", 2.0] and len(steps) == 9
    assert steps["ours_short", 2.0] == 8 + 1 and steps["ours_short", 1.0] == 4 + 1
    assert all(set(p["success"]) >= {"rate", "low", "high"} for p in found["curves"])


def test_budgets_are_labelled_by_the_candidates_that_there_are(config):
    """Two of three restarts are not the half of them."""
    planners = {"gradient": {"restarts": 3}, "cem": {"samples": 4, "elites": 2}, "mppi": {"samples": 2}}
    found = rows.chosen(replace(config, rows=(), planners=planners, budgets=(0.5, 0.45, 2.0)))[0]
    told = {row.label: (row.budget, row.name) for row in found if row.budget}
    assert told == {
        "ours × 0.5": (0.5, "ours_x0.5"),
        "ours × 2": (2.0, "ours_x2"),
        "ours, gradient × 0.667": (2 / 3, "ours_gradient_x0.5"),
        "ours, gradient × 2": (2.0, "ours_gradient_x2"),
        "ours, cem × 0.5": (0.5, "ours_cem_x0.5"),
        "ours, cem × 2": (2.0, "ours_cem_x2"),
        "ours, mppi × 2": (2.0, "ours_mppi_x2"),  # no fewer than two: half of them is no row of its own
    }


def test_mistakes_are_one_line(config, monkeypatch, tmp_path):
    with pytest.raises(ManifestError, match="101 goals"):
        run(replace(config, goals=101))
    with pytest.raises(ConfigError, match="no row 'contrl'; there are: ours"):
        run(replace(config, rows=("contrl",)))
    with pytest.raises(ConfigError, match=r"'\.\./x' names a file"):
        run(replace(config, planners={"../x": {}}))
    with pytest.raises(ConfigError, match=r"planners\.icem.*sample\b"):
        run(replace(config, planners={"icem": {"sample": 3}}))
    with pytest.raises(
        ConfigError, match=r"tasks: no goals of 'push_t' in tabletop_tasks\.json; there are: reach, push"
    ):
        run(replace(config, tasks=("reach", "push_t")))
    for key, value in {"seeds": {"raech": 3}, "subgoals": ("raech",), "patience": {"raech": [3]}}.items():
        with pytest.raises(ConfigError, match=f"{key}: no task 'raech'; there are: reach, push"):
            run(replace(config, **{key: value}))
    with pytest.raises(ConfigError, match="-1 times the effort of row 'ours'"):
        run(replace(config, budgets=(-1.0,)))
    with pytest.raises(ManifestError, match="objects of other sizes"):
        run(replace(config, variation={"size": 1.0}))
    toy = tmp_path / "toy"
    toy.mkdir()
    (toy / "config.json").write_text('{"weights": "random"}')
    with pytest.raises(ConfigError, match=f"'ours' wants a run with weights=pretrained; {toy} has random"):
        run(replace(config, world=str(toy)))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="nowhere"):
        run(replace(config, world=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("name", preset_names("plan"))
def test_presets_are_valid_and_their_goals_are_there(name):
    config = load_config(PlanConfig, "plan", name, ["world=w", "out=o"])
    assert rows.chosen(config)[0][0].name == "ours"
    if config.tasks == ("push_t",):  # two axes and no gripper: no axis is another's
        assert config.planner.gripper_init_std is None and config.switch_of("push_t") is not None
    file = importlib.resources.files("jepa.configs") / "plan" / config.manifest
    held = Counter(goal["task"] for goal in json.loads(file.read_text())["goals"])
    assert all(held[task] >= max(1, config.goals) for task in config.tasks)
    if name == "planners":  # search is worth what it adds to the nets, below what the simulator allows
        assert set(config.rows) == {"random", "cloning", "inverse", "oracle"} and len(config.planners) == 5
    if name == "default":
        found = {task: (held[task], config.seeds.get(task, 1)) for task in config.tasks}
        assert found == {"reach": (100, 3), "push": (100, 3), "grasp": (30, 1), "pick_and_place": (30, 1)}


@pytest.mark.parametrize("name", ["fetch", "metaworld", "ogbench"])
def test_presets_of_other_arms_run(config, tmp_path, name):
    """A push of the file, at the effort of a dry run; their hands cannot turn, or about one axis alone."""
    arm, path = load_config(PlanConfig, "plan", name, ["world=toy", "out=o"]), tmp_path / "few.json"
    contents = json.loads((importlib.resources.files("jepa.configs") / "plan" / arm.manifest).read_text())
    contents["goals"] = [goal for goal in contents["goals"] if goal["id"] == "push-000"]
    path.write_text(json.dumps(contents))
    config = replace(arm, manifest=str(path), tasks=("push",), out=config.out, workers=0, films=1, seeds={})
    effort = {"horizon": 1, "samples": 2, "iterations": 1, "elites": 2}
    config = replace(config, planner=replace(arm.planner, **effort), oracle=replace(arm.oracle, **effort))
    try:
        run(config)
    except SimulatorError as error:
        pytest.skip(str(error))
    found = {r["row"]: r["success"]["rate"] for r in read(config)["rows"]}
    assert set(found) == {"ours", "random", "nothing", "expert", "oracle"}
    assert found["expert"] == 1 and found["nothing"] == 0


def test_all_goals_of_the_file_and_several_seeds_make_a_cell(config):
    found = {c.row.name: (c.goals, c.seeds) for c in cells(replace(config, goals=0, seeds={"reach": 3}, seed=5))}
    assert found["ours"] == found["random"] == (100, (5,)), "push, the last of the two, has one seed"
    found = {c.row.name: (c.goals, c.seeds) for c in cells(replace(config, goals=0, seeds={"push": 3}, seed=5))}
    assert found["ours"] == (100, (5, 6, 7)) and found["nothing"] == (100, (5,)) and found["oracle"] == (1, (5,))


def test_the_page_stands_alone_and_its_command_is_the_whole_config(config):
    run(replace(config, tasks=("reach",), budgets=(2.0,)))
    found, page = read(config), (Path(config.out) / "bench.html").read_text()
    assert 'src="http' not in page and "<script" not in page and page.count("data:image/gif") == 1
    assert found["command"] == f"jepa plan bench {config.out}/bench.yaml" and found["command"] in page
    oracle = f"{found['command']} out={config.out}/rows/reach_oracle 'tasks=[reach]' 'rows=[oracle]'"
    assert oracle in page and oracle in [row["command"] for row in found["rows"]]
    near, middle = found["rows"][0]["by_distance"]
    assert f"near: {100 * near['low']:.1f}–{100 * near['high']:.1f} cm" in page and near["low"] < middle["low"]
    assert "the fingertips end within 5 cm" in page and "no control=… given" in page
    again = load_config(PlanConfig, "plan", f"{config.out}/bench.yaml")
    assert again == replace(config, tasks=("reach",), budgets=(2.0,))
    assert not jobs(again), "it is the very same benchmark"


def test_a_printed_command_makes_its_row_again_and_leaves_the_whole_as_it_was(config):
    planners = {"short": {"type": "cem", "samples": 4, "iterations": 1, "elites": 2, "horizon": 1}}
    run(replace(config, tasks=("reach",), rows=("random", "nothing"), planners=planners))
    found, folder = read(config), Path(config.out)
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    commands = {row["row"]: row["command"] for row in found["rows"]} | {"whole": found["command"]}
    for name in ("random", "ours_short", "whole"):
        verb = CliRunner().invoke(app, shlex.split(commands[name])[1:], catch_exceptions=False)
        assert verb.exit_code == 0, verb.output
        assert {path: path.read_bytes() for path in whole} == whole, name
    again = json.loads((folder / "rows" / "reach_random" / "results.json").read_text())["rows"]
    assert [row["row"] for row in again] == ["ours", "ours_short", "random"]
    assert [row["curve"] for row in again] == [r["curve"] for r in found["rows"] if r["row"] != "nothing"]


@pytest.mark.parametrize("name", ["a b", "a: b", "a #b", "[x]", "it's"])
def test_a_printed_command_survives_the_shell_and_yaml_whatever_the_folder_is_called(config, name, tmp_path):
    config = replace(config, out=str(tmp_path / name))
    overrides = shlex.split(benchmark._alone("reach", "random", config))
    again = load_config(PlanConfig, "plan", "debug", ["world=w", *overrides])
    assert again.out == f"{config.out}/rows/reach_random" and (again.tasks, again.rows) == (("reach",), ("random",))


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
