"""Offline planning: a world that knows the truth finds the logged actions, statistics are right, jobs resume."""

import json
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jepa import encode, pose, posttrain, pretrain, runs
from jepa.checkpoint import CheckpointError
from jepa.cli import app
from jepa.config import ConfigError, load_config
from jepa.data.clip import Episode, Spec
from jepa.data.pack import pack
from jepa.models.encoder import build_encoder
from jepa.planning.offline import measure as offline_measure
from jepa.planning.offline import run as offline
from jepa.planning.offline.measure import starts, summarise
from jepa.planning.offline.rows import OfflineConfig
from jepa.worlds.base import State, Step, WorldModel

EPISODES, STEPS, SPREAD = 8, 9, torch.tensor([0.5, 0.1, 0.0])  # the last axis never moves
UNITS = ("m", "m", "rad")


class Truth(WorldModel):
    """Tokens are the place (x, y) and a number that nothing changes; actions move it. `deaf` to them if asked."""

    def __init__(self, deaf: bool = False) -> None:
        super().__init__()
        self.deaf = deaf
        self.register_buffer("weight", torch.tensor(float(deaf)))

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        return {"place": tokens[:, -1, 0]}

    def step(self, state, action, generator=None) -> Step:
        return Step(state if self.deaf else {"place": state["place"] + action})

    def features(self, state) -> torch.Tensor:
        return state["place"][:, None]


def walks(seed: int):
    """Actions (n, T - 1, 3) and places (n, T, 3)."""
    actions = torch.randn(EPISODES, STEPS, 3, generator=torch.Generator().manual_seed(seed)) * SPREAD
    return actions, torch.cat((torch.zeros(EPISODES, 1, 3), actions.cumsum(1)), 1)


class Shards:
    """Held-out episodes; their pictures are their places, which `tokens_of` hands on."""

    location, sha256, spec = "toy", "held out", Spec(fps=3.0, action_dim=3, state_dim=3, action_units=UNITS)

    def __len__(self):
        return EPISODES


@pytest.fixture
def toy(monkeypatch, tmp_path, tiny):
    """A function that plans offline in the toy world, with settings, and returns the result."""
    actions, places = walks(1)
    recorded = [
        Episode(p[:, None], {"actions": a.numpy(), "states": p.numpy()}, i)
        for i, (a, p) in enumerate(zip(actions, places, strict=True))
    ]
    monkeypatch.setattr(offline.Manifest, "load", lambda path: Shards())
    monkeypatch.setattr(encode, "episodes", lambda manifest, size, ids, fps, crop: iter(recorded))
    monkeypatch.setattr(offline_measure, "tokens_of", lambda encoder, frames, precision: frames)
    monkeypatch.setattr(
        runs, "load_world", lambda run: (build_encoder(tiny, 0).eval(), Truth("deaf" in str(run)).eval())
    )
    trained, seen = (values.flatten(0, 1) for values in walks(2))
    tensors = {"tokens": seen[:, None].half(), "actions": trained, "states": seen}
    tensors["lengths"] = torch.full((EPISODES,), STEPS + 1)
    runs.write_cache(tmp_path / "features" / "train" / "00000-of-00001.safetensors", "key", tensors)
    (tmp_path / "data.json").write_text(json.dumps({"train": "trained on"}))
    (tmp_path / "config.json").write_text(json.dumps({"out": "toy", "shards": "train", "fps": 0.0}))
    (tmp_path / "deaf").mkdir()
    (tmp_path / "deaf" / "config.json").write_text(json.dumps({"out": "toy", "weights": "random"}))

    def run(*settings: str, page: bool = False):
        if not page:
            monkeypatch.setattr(offline.offline_page, "write", lambda *given: "no page")
        own = ["every=2", "inverse_steps=20", "planner.samples=64", "planner.iterations=6", "planner.elites=8"]
        given = [f"world={tmp_path}", "shards=toy", *own, *settings]
        return offline.run(load_config(OfflineConfig, "offline", "default", given), "the command")

    return run


def figure(result: dict, horizon: int, row: str, kind: str, name: str, of: str = "m"):
    return result["goals"][horizon - 1]["rows"][row][kind][name][of]


def test_a_world_that_knows_the_truth_finds_what_was_logged(toy, tmp_path):
    result = toy(f"control={tmp_path / 'deaf'}", page=True)
    assert [goal["horizon"] for goal in result["goals"]] == [1, 2, 3] and result["starts"] == 4 * EPISODES
    for horizon in (1, 2, 3):  # 99 % of the training's actions do not reach the largest of the others
        assert figure(result, horizon, "ours", "sum", "skill")[0] > 0.85
        energy = result["goals"][horizon - 1]["energy"]
        assert energy["logged"] < 2e-3 < energy["zero"] and energy["ours"] < 0.2 * energy["zero"]
    assert figure(result, 1, "ours", "first", "skill")[1] > 0.85
    assert figure(result, 1, "ours", "first", "correlation", "0")[0] > 0.95
    assert figure(result, 3, "ours", "first", "skill")[0] < 0.7  # one way among others
    for row in ("zero", "mean"):
        assert abs(figure(result, 1, row, "first", "skill")[0]) < 0.05
    assert figure(result, 1, "control", "first", "skill")[0] < 0.05
    assert result["units"] == list(UNITS) and result["command"] == "the command"
    stored = json.loads((tmp_path / "offline" / "offline.json").read_text())
    assert stored["goals"] == json.loads(json.dumps(result["goals"]))
    page = (tmp_path / "offline" / "report.html").read_text()
    assert page.count("data:image/png") == 3 and "the command" in page and "http" not in page


def test_rows_are_those_that_are_asked_for_and_the_missing_one_is_named(toy):
    result = toy("goals=[2]", "planner.iterations=1")
    assert list(result["goals"][0]["rows"]) == ["zero", "mean", "inverse", "ours"]
    assert result["goals"][0]["model_steps"] == {"inverse": 2, "ours": 2 * 64 + 2}
    assert result["notes"] == ["no control=… given: nothing says that pre-training helped"]


def test_what_was_planned_is_kept_until_something_changes(toy, monkeypatch):
    calls = []
    real = offline.work
    monkeypatch.setattr(offline, "work", lambda job, *rest: (calls.append((job.row, job.horizon)), real(job, *rest)))
    small = "planner.samples=8"
    first = toy("goals=[1,2]", small)
    assert calls == [("inverse", 1), ("inverse", 2), ("ours", 1), ("ours", 2)]
    assert toy("goals=[1,2]", small)["goals"] == first["goals"] and len(calls) == 4
    toy("goals=[1,2]", small, "planner.iterations=2")
    assert calls[4:] == [("ours", 1), ("ours", 2)]


def test_another_precision_is_planned_anew_and_fp32_is_not_named(toy, monkeypatch):
    calls, encoded, stepped = [], [], []
    real_work, real_step = offline.work, Truth.step

    def step(*given) -> Step:
        stepped.append(torch.is_autocast_enabled("cpu"))
        return real_step(*given)

    monkeypatch.setattr(Truth, "step", step)
    monkeypatch.setattr(offline_measure, "tokens_of", lambda encoder, frames, how: encoded.append(how) or frames)
    monkeypatch.setattr(offline, "work", lambda job, *rest: (calls.append(job.row), real_work(job, *rest)))
    small = ["goals=[1]", "planner.samples=8"]
    toy(*small)
    toy(*small, "precision=fp32", "device=cpu")
    assert calls == ["inverse", "ours"] and set(encoded) == {"fp32"} and set(stepped) == {False}
    encoded.clear(), stepped.clear()
    toy(*small, "precision=bf16")
    assert calls == 2 * ["inverse", "ours"] and set(encoded) == {"bf16"} and set(stepped) == {True}


def test_encoder_and_world_go_where_device_says(toy, monkeypatch):
    gone = []

    class World(Truth):
        def to(self, device):
            gone.append(device)
            raise LookupError

    monkeypatch.setattr(runs, "load_world", lambda run: (SimpleNamespace(to=gone.append), World()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(LookupError):
        toy("device=cuda")
    assert gone == ["cuda", "cuda"]


def test_a_batch_holds_any_number_of_starts(toy, tmp_path):
    alone, together = (
        toy("goals=[2]", "planner.samples=8", f"batch={batch}", f"out={tmp_path / str(batch)}") for batch in (1, 7)
    )
    error, other = (r["goals"][0]["rows"]["ours"]["first"]["error"]["m"] for r in (alone, together))
    assert error == pytest.approx(other, rel=1e-4)


def test_the_control_must_be_what_its_row_says(toy, tmp_path):
    (tmp_path / "deaf" / "config.json").write_text(json.dumps({"weights": "pretrained"}))
    with pytest.raises(
        ConfigError, match=r"random-init encoder, control=.*' wants a run with weights=random; .* has pretrained"
    ):
        toy(f"control={tmp_path / 'deaf'}")


def test_targets_in_place_of_changes_are_noticed(toy, monkeypatch):
    shifted = lambda run: walks(2)[0].flatten(0, 1) + 5.0  # noqa: E731
    monkeypatch.setattr(offline, "trained_actions", shifted)
    actions, places = walks(1)
    recorded = [
        Episode(p[:, None], {"actions": a.numpy() + 5.0, "states": p.numpy()}, i)
        for i, (a, p) in enumerate(zip(actions, places, strict=True))
    ]
    monkeypatch.setattr(encode, "episodes", lambda manifest, size, ids, fps, crop: iter(recorded))
    assert "the actions in m look like targets" in toy("goals=[1]", "planner.iterations=1")["notes"][0]


def test_mistakes_are_one_line(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(offline_measure, "FEWEST", EPISODES + 1)
    with pytest.raises(ConfigError, match="toy: 8 episodes of more than 3 frames"):
        toy()
    monkeypatch.setattr(Shards, "spec", Spec(action_dim=7))
    with pytest.raises(ConfigError, match="toy: actions of 7 numbers; the world has 3"):
        toy()
    monkeypatch.setattr(Shards, "spec", Spec(action_dim=3))
    with pytest.raises(ConfigError, match="toy: states of 0 numbers; the world has 3"):
        toy()
    monkeypatch.setattr(Shards, "spec", Spec(action_dim=3, state_dim=3))
    monkeypatch.setattr(Shards, "sha256", "trained on")
    with pytest.raises(ConfigError, match="was trained on these episodes"):
        toy()
    with pytest.raises(ConfigError, match="at least 1"):
        toy("goals=[0]")
    with pytest.raises(ConfigError, match="device 'tpu' is not cpu, or cuda"):
        toy("device=tpu")
    with pytest.raises(ConfigError, match="precision 'fp16' is not one of fp32, bf16"):
        toy("precision=fp16")
    (tmp_path / "features" / "train" / "00000-of-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="run `jepa posttrain` again"):
        toy()


def test_starts_leave_room_for_the_furthest_goal(monkeypatch):
    def arrays(i: int) -> dict[str, np.ndarray]:
        return {"actions": np.arange(20.0).reshape(10, 2), "states": np.full((11, 2), i)}

    recorded = [Episode(torch.arange(11.0)[:, None, None] + 100 * i, arrays(i), i) for i in range(6)]
    recorded[2] = Episode(torch.zeros(3, 1, 1), {"actions": np.zeros((2, 2)), "states": np.zeros((3, 2))}, 2)
    asked = []
    monkeypatch.setattr(encode, "episodes", lambda manifest, size, ids, fps, crop: asked.append(fps) or iter(recorded))
    monkeypatch.setattr(offline_measure, "tokens_of", lambda encoder, frames, precision: frames)
    encoder = SimpleNamespace(config=SimpleNamespace(size=8))
    data = starts(Shards(), encoder, runs.Reading(), furthest=3, every=3, count=6)
    assert asked == [0.0]
    assert data.episode.tolist() == [i for i in (0, 1, 3, 4, 5) for _ in range(3)]  # the short one is left out
    tokens, states = data.pair(slice(3, 6), 2)
    assert tokens[:, :, 0, 0].tolist() == [[100, 102], [103, 105], [106, 108]] and states.shape == (3, 2)
    assert data.actions[1].tolist() == [[6, 7], [8, 9], [10, 11]]
    recorded[4] = Episode(recorded[4].frames, arrays(3), 4)  # episode 3 by another camera
    monkeypatch.setattr(offline_measure, "FEWEST", 4)
    data = starts(Shards(), encoder, runs.Reading(), furthest=3, every=3, count=6)
    assert data.episode.tolist() == [i for i in (0, 1, 3, 3, 5) for _ in range(3)]
    monkeypatch.setattr(offline_measure, "FEWEST", 5)
    with pytest.raises(ConfigError, match="toy: 4 episodes of more than 3 frames"):
        starts(Shards(), encoder, runs.Reading(), furthest=3, every=3, count=6)


def test_the_rate_is_the_worlds(toy, tmp_path, monkeypatch):
    """A third of the frames at fps=1 of 3, actions as changes of pose between them, and jobs that are others."""
    actions, places = walks(1)
    recorded = [Episode(p[::3, None], {"states": np.pad(p[::3], ((0, 0), (0, 4)))}, i) for i, p in enumerate(places)]
    monkeypatch.setattr(encode, "episodes", lambda manifest, size, ids, fps, crop: iter(recorded if fps == 1 else []))
    monkeypatch.setattr(Shards, "spec", Spec(fps=3.0, action_dim=7, state_dim=7, state_units=pose.UNITS))
    encoder = SimpleNamespace(config=SimpleNamespace(size=8))
    data = starts(Shards(), encoder, runs.Reading(1.0), furthest=2, every=1, count=EPISODES)
    assert data.actions.shape == (2 * EPISODES, 2, 7)
    torch.testing.assert_close(data.actions[0, 0, :2], actions[0, :3, :2].sum(0))
    (tmp_path / "config.json").write_text(json.dumps({"out": "toy", "shards": "train", "fps": 1.0}))
    (tmp_path / "deaf" / "config.json").write_text(json.dumps({"out": "toy", "weights": "random", "fps": 2.0}))
    monkeypatch.setattr(offline, "_check", lambda *given: None)
    with pytest.raises(ConfigError, match=r"control=.*deaf was trained at fps=2, .* at fps=1$"):
        toy(f"control={tmp_path / 'deaf'}")


def test_figures_by_hand():
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(6), 5)
    logged = torch.from_numpy(rng.normal(size=(30, 2, 3)))
    logged[:, :, 2] = 0
    rows = {"zero": torch.zeros_like(logged), "near": logged + 0.1, "half": 0.5 * logged}
    found = summarise(rows, logged, episode, ("m", "m", "rad"), np.random.default_rng(0))
    near, half, zero = (found[row]["first"] for row in ("near", "half", "zero"))
    size = logged[:, 0].abs().mean(0)
    assert near["error"]["0"] == pytest.approx((0.1, 0.1, 0.1)) == near["error"]["rad"]
    assert found["near"]["sum"]["error"]["m"] == pytest.approx((0.2, 0.2, 0.2))
    assert half["skill"]["m"] == pytest.approx((0.5, 0.5, 0.5)) and half["error"]["1"][0] == pytest.approx(size[1] / 2)
    assert zero["less"]["m"] == (0, 0, 0) and zero["error"]["m"][0] == pytest.approx(size[:2].mean())
    assert zero["error"]["m"][1] < zero["error"]["m"][0] < zero["error"]["m"][2]
    assert half["less"]["0"][0] == pytest.approx(size[0] / 2)
    assert near["skill"]["2"] is None and near["skill"]["rad"] is None  # nothing was done, and nothing is no error
    assert near["correlation"]["1"] == pytest.approx((1, 1, 1)) and zero["correlation"]["0"] is None
    noisy = {"zero": rows["zero"], "noisy": logged + torch.from_numpy(rng.normal(size=logged.shape))}
    wanted = np.corrcoef(noisy["noisy"][:, 0, 0], logged[:, 0, 0])[0, 1]
    got = summarise(noisy, logged, episode, ("m", "m", "rad"), rng)["noisy"]["first"]["correlation"]["0"]
    assert got[0] == pytest.approx(wanted) and got[1] < wanted < got[2]


def test_the_verb_on_a_real_run(tmp_path, moving_square, tiny_pretrain):
    small = ["world.predictor.width=24", "world.predictor.depth=1", "world.predictor.heads=2", "loop.steps=2"]
    given = [f"out={tmp_path / 'encoder'}", f"data.shards={moving_square}", *tiny_pretrain, "loop.steps=1"]
    pretrain.run(load_config(pretrain.PretrainConfig, "pretrain", "debug", given))
    given = [f"out={tmp_path / 'world'}", f"encoder={tmp_path / 'encoder'}", *small]
    given += [f"shards={moving_square}", f"heldout={moving_square}"]
    posttrain.run(load_config(posttrain.PosttrainConfig, "posttrain", "debug", given))
    some = tmp_path / "some"
    shutil.copytree(next(moving_square.parent.glob("square[0-9]*")), some)  # the videos that the shards were packed of
    (some / "episode_000005.mp4").unlink()
    pack("collected", some, tmp_path / "shards")
    settings = ["goals=[1,2]", "planner.type=gradient", "planner.restarts=2", "planner.iterations=2"]
    line = ["plan", "offline", str(tmp_path / "world"), str(tmp_path / "shards"), "inverse_steps=5", *settings]
    assert (answer := CliRunner().invoke(app, line, catch_exceptions=False)).exit_code == 0, answer.output
    stored = json.loads((tmp_path / "world" / "offline" / "offline.json").read_text())
    assert stored["command"] == shlex.join(["jepa", *line]) and stored["episodes"] == 5
    assert stored["config"]["planner"]["type"] == "gradient" and stored["limit"][2:] == [0.0] * 5
    rows = stored["goals"][0]["rows"]
    assert rows["ours"]["first"]["error"]["m"][0] > 0 and rows["ours"]["first"]["error"]["rad"][0] == 0
    refused = CliRunner().invoke(app, ["plan", "offline", str(tmp_path / "world"), str(moving_square)])
    assert isinstance(refused.exception, ConfigError) and "was trained on these" in str(refused.exception)
