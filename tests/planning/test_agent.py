"""The closed loop of a robot: k actions a plan, a deadline, its own numbers, and safe stops that spare the others."""

import sys
import time
from dataclasses import replace
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa import checkpoint, runs
from jepa.config import ConfigError, load_config, to_dict
from jepa.models.ac_predictor import ACPredictorConfig
from jepa.models.encoder import build_encoder, encode_frames
from jepa.planning.agent import Agent, View, eyes
from jepa.planning.constraints import Schedule
from jepa.planning.embodiment import Adapter, Embodiment
from jepa.planning.mpc import Replan, run_episodes
from jepa.planning.planners.base import Bounds, Plan
from jepa.planning.planners.cem import CEM, Config
from jepa.planning.safety import SafeStop, Safety
from jepa.worlds import ac_jepa
from jepa.worlds.base import State, Step, WorldModel, WorldSpec

BOUNDS = Bounds(torch.full((7,), -0.06), torch.full((7,), 0.06), frozen=(3, 4, 5))
LINE = torch.arange(1.0, 4)[:, None].expand(3, 7) / 100  # a plan of 0.01, 0.02, 0.03 on every axis


class Point(WorldModel):
    """Believes that actions do what they say; remembers which it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        self.told.append(actions)
        return {"x": tokens[:, -1, 0]}

    def step(self, state, action, generator=None) -> Step:
        return Step({"x": state["x"] + action[:, :3]})

    def features(self, state):
        return state["x"][:, None]


class Spy:
    """Plans LINE for every row, at the cost that it is given."""

    def __init__(self, *cost: float):
        self.cost, self.warm, self.deadlines, self.seeds = torch.tensor(cost or (0.0,)), [], [], []

    def plan(self, world, state, goal, generator, *, bounds, warm_start=None, deadline=None):
        self.warm.append(warm_start)
        self.deadlines.append(deadline)
        self.seeds.append(generator.initial_seed())
        return Plan(LINE.expand(len(self.cost), 3, 7), self.cost, 5)


def view(*places: float, shade: int = 0) -> View:
    """Rows whose hands are at x = `places` and whose pictures show it, unless `shade` repaints them."""
    pose = torch.zeros(len(places), 7)
    pose[:, 0] = torch.tensor(places)
    frames = torch.full((len(places), 3, 8, 8), shade, dtype=torch.uint8)
    frames[:, 0, 0, 0] = ((pose[:, 0] + 1) * 100).byte()
    return View(frames, pose)


def sense(view: View) -> torch.Tensor:
    return torch.nn.functional.pad(view.frames[:, :1, 0, :1].float() / 100 - 1, (0, 2))


def agent(planner, rows: int = 1, **kwargs) -> Agent:
    look = kwargs.pop("sense", sense)
    made = Agent(kwargs.pop("world", Point()), look, planner, kwargs.pop("bounds", BOUNDS), **kwargs)
    made.aim(view(*[0.5] * rows))
    return made


def test_k_actions_are_carried_out_and_the_next_plan_starts_with_the_rest():
    spy, world = Spy(), Point()
    looped = agent(spy, execute=2, world=world)
    decided = [looped.decide(view(0.01 * t)) for t in range(4)]
    assert [round(float(d.actions[0, 0]), 6) for d in decided] == [0.01, 0.02, 0.01, 0.02]
    assert [d.model_steps for d in decided] == [5, 0, 5, 0] and len(set(spy.seeds)) == 2
    assert spy.warm[0] is None
    torch.testing.assert_close(spy.warm[1][0, :, 0], torch.tensor([0.03, 0.0, 0.0]))
    told = [None if a is None else round(float(a[0, 0, 0]), 6) for a in world.told]
    assert told == [None, None, 0.01, 0.02, 0.01]  # the goal, then every frame with the action that led to it
    with pytest.raises(ConfigError, match="execute=4 needs a plan that long; the planner's horizon is 3"):
        agent(Spy(), execute=4).decide(view(0.0))


@pytest.mark.parametrize("context", [1, 2])
def test_a_plan_starts_from_the_newest_frames_alone_where_it_is_told_to(context):
    """As an agent that was never shown the frames before, in a world that remembers all that it is shown."""
    own = {"world": (world := _remembers()), "sense": lambda view: sense(view)[:, None]}
    looped, fresh = (agent(Spy(), context=context, **own) for _ in range(2))
    for t in range(4):
        looped.decide(view(0.1 * t, shade=40 * t))
    for t in range(4 - context, 4):
        fresh.decide(view(0.1 * t, shade=40 * t))
    everything = agent(Spy(), **own)
    for t in range(4):
        everything.decide(view(0.1 * t, shade=40 * t))
    ahead = [world.features(world.step(a._state, torch.ones(1, 7)).state) for a in (looped, fresh, everything)]
    torch.testing.assert_close(ahead[0], ahead[1])
    assert not torch.allclose(ahead[0], ahead[2], atol=1e-3)
    with pytest.raises(ConfigError, match="context is a number of frames, or 0 for all of an episode; got -1"):
        agent(Spy(), context=-1)


def test_a_context_survives_a_decision_that_was_interrupted():
    looped = agent(Spy(), context=2, world=_remembers(), sense=lambda view: sense(view)[:, None])
    plan, looped._planner = looped._planner, None
    with pytest.raises(AttributeError):
        looped.decide(view(0.0))
    looped._planner = plan
    assert looped.decide(view(0.1)).actions.isfinite().all()


def _remembers() -> WorldModel:
    shape = ACPredictorConfig(width=24, depth=2, heads=2, window=0)
    spec = WorldSpec(3, 7, 7, (1, 1))
    return ac_jepa.build(ac_jepa.Config(shape), spec, torch.Generator().manual_seed(0)).eval()


def test_the_deadline_counts_from_the_look_and_the_answer_is_the_best_so_far():
    spy = Spy()
    agent(spy).decide(view(0.0))
    began = time.monotonic()
    agent(spy, seconds=0.5).decide(view(0.0))
    assert spy.deadlines[0] is None and began + 0.5 <= spy.deadlines[1] <= time.monotonic() + 0.5
    late = agent(CEM(Config(horizon=2, samples=16, iterations=1000, elites=4)), seconds=0.0).decide(view(0.0))
    assert late.model_steps == 2 and late.stops == ("",)  # no iteration was begun


@pytest.mark.parametrize("cost", [float("nan"), float("inf")])
def test_an_energy_that_is_no_number_stops_its_row_alone_for_good(cost):
    spy = Spy(0.0, cost, 0.0)
    looped = agent(spy, rows=3)
    first = looped.decide(view(0.0, 0.1, 0.2))
    assert first.stops[0] == first.stops[2] == "" and f"the energy of the best plan is {cost}" in first.stops[1]
    spy.cost = torch.zeros(3)
    second = looped.decide(view(0.01, 0.1, 0.21))
    assert second.stops == first.stops and second.actions[:, 0].tolist() == pytest.approx([0.01, 0.0, 0.01])
    looped.aim(view(0.5, 0.5, 0.5))
    assert looped.decide(view(0.0, 0.1, 0.2)).stops == ("", "", "")


def test_the_workspace_bounds_what_is_commanded_and_stops_what_is_measured():
    safety = Safety(workspace=((-0.1, 0.1), (-1, 1), (-1, 1)))
    looped = agent(Spy(), safety=safety)
    assert looped.decide(view(0.095)).actions[0, :2].tolist() == pytest.approx([0.005, 0.01])
    assert looped.decide(view(0.104)).stops == ("",)  # noise of the measurement
    stopped = looped.decide(view(0.12))
    assert stopped.stops == ("the hand is at x = 0.120 m, outside its workspace of -0.1 to 0.1 m",)
    assert not stopped.actions.any()


def test_a_camera_that_shows_the_past_stops_the_robot_once_it_has_moved():
    looped, old = agent(Spy(), safety=Safety(stale=2)), view(0.0).frames
    moving = [View(old, view(0.01 * t).pose) for t in range(4)]
    stops = [looped.decide(v).stops[0] for v in moving]
    assert stops[:2] == ["", ""] and "the same picture 2 times while the robot moved" in stops[2] and stops[3]
    for off in (Safety(stale=0), Safety(stale=5)):
        looped = agent(Spy(), safety=off)
        assert not any(looped.decide(v).stops[0] for v in moving)
    still = agent(Spy(), safety=Safety(stale=2))
    assert not any(still.decide(View(old, view(0.0).pose)).stops[0] for _ in range(5))
    flowing = agent(Spy(), safety=Safety(stale=2))
    assert not any(flowing.decide(view(0.01 * t)).stops[0] for t in range(5))


def test_a_hand_that_points_down_and_stands_still_has_not_moved():
    """Its roll is π and -π in turn: the same place, written otherwise."""
    still, old = agent(Spy(), safety=Safety(stale=2)), view(0.0)
    for t in range(6):
        pose = old.pose.clone()
        pose[0, 3] = (torch.pi - 1e-3) * (-1) ** t
        assert still.decide(View(old.frames, pose)).stops == ("",)
    turning = agent(Spy(), safety=Safety(stale=2))
    poses = [torch.tensor([[0.0, 0, 0, 0.1 * t, 0, 0, 0]]) for t in range(4)]
    assert [bool(turning.decide(View(old.frames, pose)).stops[0]) for pose in poses] == [False, False, True, True]


def test_a_schedule_counts_from_the_first_decision():
    bounds = Bounds(BOUNDS.low, BOUNDS.high, schedules=(Schedule(6, (0.01, 0.02, 0.03)),))
    planner = CEM(Config(horizon=2, samples=8, iterations=1, elites=2))
    looped = Agent(Point(), lambda view: sense(view)[:, None], planner, bounds)
    looped.aim(view(0.5))
    gripper = [float(looped.decide(view(0.01 * t)).actions[0, 6]) for t in range(5)]
    assert gripper == pytest.approx([0.01, 0.02, 0.03, 0.03, 0.03])


def test_act_speaks_the_robots_numbers_and_a_stop_holds_it_where_it_is():
    targets = Embodiment(position="mm", actions="absolute", gripper=(0.0, 255.0), gripper_actions="absolute")
    spy = Spy()
    looped = Agent(Point(), sense, spy, BOUNDS, adapter=Adapter(targets))
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ConfigError, match="needs a goal"):
        looped.act(picture, np.zeros(7))
    looped.aim_at(picture)
    here = np.array([100.0, 0, 0, 0, 0, 0, 51])
    assert looped.act(picture, here)[[0, 6]].tolist() == pytest.approx([110.0, 51 + 2.55], abs=1e-3)
    spy.cost = torch.tensor([torch.nan])
    with pytest.raises(SafeStop, match="energy") as stop:
        looped.act(picture, here)
    np.testing.assert_allclose(stop.value.action, here, atol=1e-4)
    spy.cost = torch.zeros(1)
    looped.aim_at(picture)
    looped.act(picture, here)
    with pytest.raises(SafeStop, match="pose is not finite") as stop:
        looped.act(picture, np.full(7, np.nan))
    np.testing.assert_allclose(stop.value.action, here, atol=1e-4)  # where it was measured last


@pytest.mark.parametrize("wrong", [np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)])
def test_a_picture_of_another_kind_is_one_line(wrong):
    with pytest.raises(ConfigError, match=r"a picture is \(h, w, 3\) uint8") as caught:
        agent(Spy()).act(wrong, np.zeros(7))
    assert "\n" not in str(caught.value)


def test_pictures_of_any_size_are_cut_as_in_training(tiny):
    encoder = build_encoder(tiny, seed=0)
    large = torch.randint(0, 255, (1, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    own = torch.nn.functional.interpolate(large[..., 8:40], (16, 16), mode="bilinear", antialias=True)
    pose = torch.zeros(1, 7)
    torch.testing.assert_close(eyes(encoder)(View(large, pose)), encode_frames(encoder, own[:, None]))


class Flat(Point):
    """A point on a plane: its actions and states are 2 numbers, and it goes where it is told."""

    action_scale = torch.ones(2)

    def step(self, state, action, generator=None) -> Step:
        return Step({"x": state["x"] + action})


def on_a_plane(**kwargs) -> Agent:
    def seen(view: View) -> torch.Tensor:
        return view.frames[:, None, :2, 0, :1].mT.float() / 100 - 1  # (B, 1, 1, 2)

    bounds = Bounds(torch.full((2,), -0.1), torch.full((2,), 0.1))
    planner = CEM(Config(horizon=1, samples=64, iterations=4, elites=8))
    looped = Agent(Flat(), seen, planner, bounds, **kwargs)
    looped.aim_at(drawn(0.3, -0.2))
    return looped


def drawn(*place: float) -> np.ndarray:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[0, 0, :2] = np.round((np.array(place) + 1) * 100)
    return picture


def test_a_world_of_two_numbers_is_steered_in_its_own():
    looped, place = on_a_plane(), np.zeros(2)
    for _ in range(6):
        action = looped.act(drawn(*place), place)
        assert action.shape == (2,) and (np.abs(action) < 0.1001).all()
        place = place + action
    np.testing.assert_allclose(place, [0.3, -0.2], atol=0.02)


def test_a_dead_camera_stops_a_robot_of_two_numbers_once_it_has_moved():
    moving, still = on_a_plane(), on_a_plane()
    for t in range(4):
        still.act(drawn(0, 0), np.array([0.0, 0.001 * (t > 0)]))  # noise of the measurement
    for t in range(3):
        moving.act(drawn(0, 0), np.array([0.0, 0.01 * t]))
    with pytest.raises(SafeStop, match="the same picture 3 times while the robot moved") as stop:
        moving.act(drawn(0, 0), np.array([0.0, 0.03]))
    assert stop.value.action.tolist() == [0, 0]
    with pytest.raises(ConfigError, match="a workspace is for the hand of a 7-D pose; these states have 2 numbers"):
        on_a_plane(safety=Safety(workspace=((-1, 1),) * 3)).act(drawn(0, 0), np.zeros(2))


def test_without_an_adapter_poses_are_read_as_with_the_world_s_own():
    state = np.array([0.1, -0.2, 0.3, 3.0, -0.4, 0.7, 0.5])
    read, done = [], []
    for adapter in (None, Adapter(Embodiment())):
        looped = Agent(Point(), sense, Spy(), BOUNDS, adapter=adapter)
        looped.aim_at(np.zeros((8, 8, 3), np.uint8))
        observed = looped._watch.look
        looped._watch.look = lambda frames, pose, observed=observed: read.append(pose) or observed(frames, pose)
        done.append(looped.act(np.zeros((8, 8, 3), np.uint8), state))
    torch.testing.assert_close(read[0], read[1])
    np.testing.assert_allclose(done[0], done[1], atol=1e-7)


def test_numbers_that_do_not_fit_the_world_are_refused(tiny):
    with pytest.raises(ConfigError, match="the world model's actions have 2 numbers, the bounds 7"):
        Agent(Flat(), sense, Spy(), BOUNDS)
    with pytest.raises(ConfigError, match=r"actions have 2 numbers, the bounds 2: .* 7 for an adapter"):
        on_a_plane(adapter=Adapter(Embodiment()))
    with pytest.raises(ConfigError, match="state has 8 numbers, and the world model reads 7: give the adapter"):
        first_act(tiny, states=8, actions=7, proprio=True)


@pytest.mark.parametrize(("states", "actions"), [(5, 2), (0, 9), (8, 7)])
def test_a_world_that_reads_no_state_takes_numbers_of_any_width(tiny, states, actions):
    assert first_act(tiny, states, actions, proprio=False).shape == (actions,)


def first_act(tiny, states: int, actions: int, proprio: bool) -> np.ndarray:
    encoder = build_encoder(tiny, seed=0)
    config = ac_jepa.Config(ACPredictorConfig(width=24, depth=1, heads=2, proprio=proprio))
    world = ac_jepa.build(config, runs.world_spec(encoder, actions, 7), torch.Generator().manual_seed(0))
    bounds = Bounds(torch.full((actions,), -0.1), torch.full((actions,), 0.1))
    planner = CEM(Config(horizon=2, samples=4, iterations=1, elites=2))
    looped, picture = Agent(world, eyes(encoder), planner, bounds), np.zeros((16, 16, 3), np.uint8)
    looped.aim_at(picture)
    return looped.act(picture, np.zeros(states))


class Line:
    """A hand on a line that goes where it is told."""

    def __init__(self):
        self.x = np.zeros(3)

    def set_state(self, state):
        self.x = state.copy()

    def get_state(self):
        return self.x.copy()

    def advance(self, action):
        self.x = self.x + action[:3]

    def ee_pose(self):
        return np.append(self.x, [0, 0, 0, 0])


def test_in_the_benchmark_an_episode_that_stops_is_recorded_and_the_others_go_on():
    starts = [np.full(3, x) for x in (0.0, 0.1, 0.2)]
    goals = View(None, torch.zeros(3, 7), torch.zeros(3, 3))
    spy = Spy(0.0, float("nan"))
    looped = Replan(
        Point(), lambda v: v.sim[:, None, None], spy, lambda f: lambda future: None, BOUNDS, goals, seed=0, batch=2
    )
    far = [lambda env: float(env.x[0])] * 3
    spy_of_last = Spy(0.0)
    looped._agents[1]._planner = spy_of_last
    episodes = run_episodes(Line(), starts, far, looped, decisions=3, size=None)
    assert [bool(e.stopped) for e in episodes] == [False, True, False] and "energy" in episodes[1].stopped
    assert episodes[1].distance == [0.1] * 4 and episodes[0].distance[-1] == pytest.approx(0.03)
    assert episodes[2].distance[-1] == pytest.approx(0.23)


def test_the_robot_example_runs(tmp_path, tiny, save_model, monkeypatch):
    pytest.importorskip("gymnasium")
    from jepa.posttrain import PosttrainConfig

    path = Path(__file__).parents[2] / "examples" / "robot.py"
    assert len(path.read_text().splitlines()) <= 40
    small = ["world.predictor.width=24", "world.predictor.depth=1", f"out={tmp_path}"]
    config = load_config(PosttrainConfig, "posttrain", "debug", small)
    encoder = build_encoder(tiny, seed=0)
    checkpoint.claim_run(tmp_path, to_dict(config))
    runs.save_encoder(tmp_path, encoder)
    save_model(tmp_path, ac_jepa.build(config.world, runs.world_spec(encoder, 7, 7), torch.Generator().manual_seed(0)))
    spec = util.spec_from_file_location("robot", path)
    robot = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "robot", robot)
    spec.loader.exec_module(robot)
    assert 0 < robot.main(str(tmp_path), decisions=2) < 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_looking_and_imagining_are_in_the_precision_that_is_asked_for(precision):
    low = set()  # what ran under autocast
    seen = set()

    def note(what):
        seen.add(what)
        if torch.is_autocast_enabled("cpu"):
            low.add(what)

    class World(Point):
        def observe(self, *given) -> State:
            note("observe")
            return super().observe(*given)

        def step(self, *given) -> Step:
            note("step")
            return super().step(*given)

    def sense(view):
        note("sense")
        return view.pose[:, None, None, :3]

    def energy(features):
        return lambda future: note("energy") or (future.features[:, :, -1] - features[:, None]).abs().sum((2, 3))

    planner = CEM(Config(horizon=1, samples=8, elites=2, iterations=1))
    made = Agent(World(), sense, planner, BOUNDS, energy=energy, precision=precision)
    made.aim(view(0.1))
    assert made.decide(view(0.0)).actions.dtype == torch.float32
    assert seen == {"sense", "observe", "step", "energy"}
    assert low == (seen - {"energy"} if precision == "bf16" else set())


def test_an_unknown_precision_is_one_line():
    with pytest.raises(ConfigError, match="precision 'half' is not one of fp32, bf16"):
        agent(Spy(), precision="half")


def test_everything_is_sensed_and_planned_where_the_world_lies(tiny, monkeypatch):
    """As on a GPU: `meta` tensors stand in for it, and refuse to be mixed with the CPU's."""

    class Far(torch.Tensor):
        """`meta` cannot be copied back; this notes that it was asked for."""

        def cpu(self):
            seen.append("meta")
            return self.as_subclass(torch.Tensor)

    class Elsewhere(Point):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.empty(1, device="meta"))

        def observe(self, state, tokens, proprio=None, actions=None) -> State:
            seen.extend(x.device.type for x in (tokens, proprio, actions) if x is not None)
            return {"x": tokens[:, -1, 0]}

    class Planner(Spy):
        def plan(self, world, state, goal, generator, *, bounds, **given):
            seen.extend(x.device.type for x in (state["x"], bounds.low, bounds.project(state["x"].new_zeros(1, 3, 7))))
            plan = super().plan(world, state, goal, generator, bounds=bounds, **given)
            return replace(plan, actions=plan.actions.as_subclass(Far))

    seen = []
    monkeypatch.setattr(Bounds, "__post_init__", lambda bounds: None)  # reads numbers, of which `meta` has none
    made = agent(Planner(), world=Elsewhere())
    for _ in range(2):
        assert made.decide(view(0.1)).actions.device.type == "cpu"
    assert set(seen) == {"meta"} and len(seen) == 2 + (2 + 3 + 1) + (3 + 3 + 1)
    assert eyes(build_encoder(tiny, 0).to("meta"))(
        View(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 7))
    ).is_meta
