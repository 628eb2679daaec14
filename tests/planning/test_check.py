"""The check of an embodiment: on a world that knows the truth, each wrong sign, scale or axis is named."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jepa import encode, pose
from jepa.cli import app
from jepa.config import ConfigError
from jepa.data.clip import Episode, Spec
from jepa.encode import Trajectory
from jepa.planning import landscape
from jepa.planning.check import measure as check_measure
from jepa.planning.check import run as check
from jepa.planning.check.conventions import Convention, named
from jepa.planning.check.verdict import AXES, RIGHT, UNKNOWN, Verdict, summary, verdicts
from jepa.planning.embodiment import Adapter, Embodiment
from jepa.planning.landscape import lowest
from jepa.runs import Reading
from jepa.worlds.base import State, Step, WorldModel

SPREAD = torch.tensor([0.03, 0.03, 0.02, 0.05, 0.05, 0.1, 0.1])
EPISODES, STEPS = 24, 6


class Truth(WorldModel):
    """Tokens are the true pose; imagines without error. With `deaf` it takes no notice of the action."""

    def __init__(self, deaf: bool = False) -> None:
        super().__init__()
        self.deaf = deaf
        self.register_buffer("action_scale", SPREAD)

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        return {"pose": tokens[:, -1, 0]}

    def step(self, state, action, generator=None) -> Step:
        return Step(state if self.deaf else {"pose": pose.integrate(state["pose"], action)})

    def features(self, state) -> torch.Tensor:
        turn = pose.rotation(state["pose"][:, 3:6]).flatten(1)
        return torch.cat([state["pose"][:, :3], turn, state["pose"][:, 6:]], 1)[:, None]


def written(poses: torch.Tensor) -> torch.Tensor:
    """Poses (T, 7) in -2..2 as pictures (T, 3, 16, 16) uint8 of 16 bits a number."""
    code = ((poses + 2) * 16000).round().long()
    frames = torch.zeros(len(poses), 3, 16, 16, dtype=torch.uint8)
    frames[:, 0, 0, :7], frames[:, 1, 0, :7] = (code // 256).byte(), (code % 256).byte()
    return frames


def read(encoder, frames: torch.Tensor) -> torch.Tensor:
    """What `written` wrote, as tokens (B, T, 1, 7)."""
    return ((256 * frames[:, :, 0, 0, :7].long() + frames[:, :, 1, 0, :7].long()) / 16000 - 2)[:, :, None].float()


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Runs the check with an embodiment's YAML lines on episodes in V-JEPA 2-AC's own conventions."""

    def run(*lines: str, world=None, still=(), count=EPISODES, cameras=1, page=False, commands=None, **told):
        generator = torch.Generator().manual_seed(0)
        recorded = []
        for number in range(EPISODES):
            actions = (torch.randn(STEPS, 7, generator=generator) * SPREAD).clamp(-2 * SPREAD, 2 * SPREAD)
            actions[:, list(still)] = 0
            poses = [torch.tensor([0.0, 0.0, 0.0, 0.1, 0.1, 0.1, 0.5])]
            for t in range(STEPS):
                poses.append(pose.integrate(poses[-1], actions[t]))
            states = torch.stack(poses)
            own = pose.delta(states[:-1], states[1:])
            arrays = {"actions": (own if commands is None else commands(own)).numpy(), "states": states.numpy()}
            recorded += [Episode(written(states), arrays, cameras * number + c) for c in range(cameras)]
        monkeypatch.setattr(check.Manifest, "load", lambda path: Shards())
        monkeypatch.setattr(check, "load_world", lambda run: (_encoder(), world or Truth()))
        (tmp_path / "config.json").write_text(json.dumps({"out": "toy", **told}))
        monkeypatch.setattr(encode, "episodes", lambda shards, size, ids, fps, crop: (slower(e, fps) for e in recorded))
        for module in (check_measure, landscape):
            monkeypatch.setattr(module, "tokens_of", read)
        if not page:
            monkeypatch.setattr(check, "landscapes", lambda *given: {})
            monkeypatch.setattr(check.check_page, "write", lambda *given: "no page")
        mine = tmp_path / "mine.yaml"
        mine.write_text("\n".join(["name: mine", *lines]))
        return check.run(tmp_path, "toy", embodiment=str(mine), out=tmp_path / "out", count=count)

    return run


def slower(episode: Episode, fps: float) -> Episode:
    """What `data.loader.episodes` does of 4 frames a second."""
    step = round(4 / fps) if fps else 1
    arrays = {k: v[::step] for k, v in episode.arrays.items() if step == 1 or k != "actions"}
    return Episode(episode.frames[::step], arrays, episode.id)


class Shards:
    location, sha256, spec = "toy", "mine", Spec(fps=4.0, action_dim=7, state_dim=7)

    def __len__(self):
        return EPISODES


def _encoder():
    encoder = SimpleNamespace(config=SimpleNamespace(size=16), to=lambda device: encoder)
    return encoder


def verdict(result: dict) -> dict[str, str]:
    return {axis["axis"]: axis["verdict"] for axis in result["axes"]}


def test_a_right_embodiment_passes_and_the_page_stands_alone(checked, tmp_path):
    result = checked(page=True)
    assert result["ok"] and set(verdict(result).values()) == {RIGHT}
    for axis in result["axes"]:
        assert axis["slope"] == pytest.approx(1, abs=0.05) and axis["fit"] > 0.95 and axis["toward"] > 0.95
        assert axis["slope95"][0] <= axis["slope"] <= axis["slope95"][1]
    assert result["energy"]["logged"] == pytest.approx(0, abs=1e-3) and result["episodes"] == EPISODES
    stored = json.loads((tmp_path / "out" / "check.json").read_text())
    assert stored["summary"] == result["summary"] and len(stored["points"]["logged"]) == result["transitions"] == 96
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png") == 2 and "http" not in page.replace("http://www.w3.org", "")
    assert result["summary"] in page


def test_a_flipped_axis_is_named(checked):
    result = checked("axes: [x, -y, z]")
    found = verdict(result)
    assert not result["ok"] and found["y"] == "flipped" and (found["x"], found["z"]) == (RIGHT, RIGHT)
    assert "y looks flipped" in result["summary"] and "x looks" not in result["summary"]
    assert result["axes"][1]["slope"] == pytest.approx(-1, abs=0.05) and result["axes"][1]["toward"] < 0.05


class Wary(Truth):
    """Imagines nothing where the pose that it is told is not the one that it sees."""

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        seen = tokens[:, -1, 0]
        return {"pose": seen, "agrees": ((seen - proprio[:, -1]).abs().amax(1) < 0.01).float()}

    def step(self, state, action, generator=None) -> Step:
        return Step({**state, "pose": pose.integrate(state["pose"], action * state["agrees"][:, None])})


@pytest.mark.parametrize(
    ("line", "wrong", "words"),
    [
        ("axes: [x, -y, z]", {"y": "flipped"}, "y looks flipped: turned round"),
        ("axes: [y, x, z]", {"x": "swapped", "y": "swapped"}, "x looks swapped: read it as y"),
        ("axes: [y, -x, z]", {"x": "swapped", "y": "swapped"}, "x looks swapped: read it as −y"),
        ("axes: [-z, -y, x]", {"x": "swapped", "y": "flipped", "z": "swapped"}, "x looks swapped: read it as z"),
    ],
)
def test_what_spoils_the_pose_as_well_is_named_by_reading_it_otherwise(checked, line, wrong, words):
    """Nothing follows the logged actions then; read as they should be, they explain what followed."""
    result = checked(line, world=Wary())
    assert not result["ok"] and words in result["summary"]
    assert {axis: found for axis, found in verdict(result).items() if found != "cannot tell"} == wrong
    assert result["convention"]["energy"] < 1e-3 < result["convention"]["given"]


def test_swapped_axes_leave_the_gripper_alone(checked):
    convention = checked("axes: [y, x, z]", world=Wary())["convention"]
    assert convention["axes"] == ("y", "x", "z") and not convention["gripper"]


def test_what_is_right_is_read_as_it_is(checked):
    for world in (Truth(), Wary(), Truth(deaf=True)):
        convention = checked(world=world)["convention"]
        assert (convention["axes"], convention["gripper"]) == (("x", "y", "z"), False)
        assert convention["energy"] == convention["given"]
    assert set(verdict(checked(world=Wary())).values()) == {RIGHT}


def test_swapped_axes_are_named_with_what_they_follow(checked):
    result = checked("axes: [z, y, x]")
    found = verdict(result)
    assert not result["ok"] and (found["x"], found["y"], found["z"]) == ("swapped", RIGHT, "swapped")
    assert result["axes"][0]["words"] == "it follows the logged z"
    turned = checked("axes: [y, -x, z]")
    assert [turned["axes"][i]["words"] for i in (0, 1)] == ["it follows the logged y", "it follows the logged −x"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("action_scale: [2.0, 2.0, 2.0]", "2.0 times too large"),
        ("action_scale: [0.2, 0.2, 0.2]", "5.0 times too small"),
        ("action_scale: [1000.0, 1000.0, 1000.0]", "too large (mm taken for m, perhaps)"),
    ],
)
def test_a_wrong_scale_is_named_with_the_factor(checked, line, words):
    result = checked(line)
    assert not result["ok"]
    for axis in result["axes"][:3]:
        assert axis["verdict"] == "mis-scaled" and words in axis["words"]
    assert {axis["verdict"] for axis in result["axes"][3:]} == {RIGHT}


def test_a_gripper_the_other_way_round_is_named(checked):
    result = checked("gripper: [1.0, 0.0]")
    assert verdict(result)["gripper"] == "flipped" and set(list(verdict(result).values())[:6]) == {RIGHT}
    assert result["convention"]["gripper"] and result["convention"]["axes"] == ("x", "y", "z")


def test_the_energy_names_what_the_regression_cannot_tell_and_does_not_contradict_it():
    muddled = [Verdict(axis, UNKNOWN, "") for axis in AXES]
    exchanged = Convention(("x", "z", "y"), True, 0.2, 0.5, 0.5)
    found = named(muddled, exchanged)
    assert [v.verdict for v in found] == [UNKNOWN, "swapped", "swapped", UNKNOWN, UNKNOWN, UNKNOWN, "flipped"]
    assert "energy 0.2, as it is 0.5" in found[1].words and "open and closed exchanged" in found[6].words
    for i, known, left in ((2, RIGHT, {6}), (6, RIGHT, {1, 2}), (0, "mis-scaled", set())):
        told = [replace(v, verdict=known) if j == i else v for j, v in enumerate(muddled)]
        now = named(told, exchanged)
        assert {j for j in range(7) if now[j] != told[j]} == left


def test_a_turned_frame_is_named(checked):
    """Changes in the axes of a camera that stands 45° round the table."""
    result = checked("frame: camera", "camera_pose: [0, 0, 0, 0, 0, 0.785398]")
    assert verdict(result)["x"] == verdict(result)["y"] == "turned" and verdict(result)["z"] == RIGHT
    assert "45°" in result["axes"][0]["words"]


def test_what_does_not_move_cannot_be_told(checked):
    result = checked("action_limit: [0.06, 0.06, 0.06, 0, 0, 0, 1]", still=(2, 5))
    found = verdict(result)
    assert result["ok"] and {found.pop("z"), found.pop("yaw")} == {"cannot tell"} and set(found.values()) == {RIGHT}
    assert "hardly move" in result["axes"][2]["words"] and "hardly move" in result["axes"][5]["words"]


FROZEN = "action_limit: [0.05, 0.05, 0.05, 0, 0, 0, 0.75]"  # as a Franka of DROID: the planner does not turn the hand


def test_rotations_that_the_planner_does_not_use_are_checked_all_the_same(checked):
    assert set(verdict(checked(FROZEN)).values()) == {RIGHT}
    result = checked(FROZEN, "rotation: extrinsic_zyx")
    found = verdict(result)
    assert not result["ok"] and found["roll"] == found["yaw"] == "swapped" and found["pitch"] == RIGHT
    assert "it follows the logged yaw" in result["summary"] and found["x"] == RIGHT


def test_how_far_each_axis_is_searched():
    world, frozen = Truth(), Adapter(Embodiment(action_limit=(0.05, 0.3, 0, 0, 0.1, 0, 0.75)))
    expected = [0.075, 0.3, 0.06, 0.15, 0.15, 0.3, 1.0]  # 1.5 limits where there are any, else 3 spreads; m, rad
    assert check_measure.search_range(world, frozen).tolist() == pytest.approx(expected)
    assert check_measure.search_range(world, Adapter(Embodiment())).tolist() == pytest.approx((3 * SPREAD).tolist())
    world.action_scale = torch.ones(7)  # as a layer_norm world has
    assert torch.equal(check_measure.search_range(world, Adapter(Embodiment())), check_measure.LARGEST)


def test_a_world_of_other_actions_is_refused(checked):
    world = Truth()
    world.action_scale = torch.ones(2)
    with pytest.raises(ConfigError, match=r"actions of 2 numbers; the check is of those of 7.*jepa plan offline"):
        checked(world=world)


def test_each_transition_has_the_camera_of_its_own_frame(monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def recorded(*given):
        for number in range(5):
            states = torch.rand(8, 7, generator=generator)
            yield Trajectory(written(states), pose.delta(states[:-1], states[1:]), states, states[:, :6] - 1, number)

    monkeypatch.setattr(check_measure, "trajectories", recorded)
    monkeypatch.setattr(check_measure, "tokens_of", read)
    given = (Shards(), _encoder(), Reading(extrinsics=True), Adapter(Embodiment()), torch.ones(7))
    data = check_measure.transitions(*given, count=5, each=3)
    assert len(data.camera) == 15
    torch.testing.assert_close(data.camera, data.pose[:, :6] - 1)
    torch.testing.assert_close(data.proprio, torch.cat((data.tokens[:, 0, 0], data.camera), 1), atol=1e-4, rtol=0)


def test_transitions_are_the_largest_along_the_axes_that_will_be_planned(monkeypatch):
    turned = torch.zeros(4, 7)
    turned[0, 0], turned[1, 3] = 0.04, 1.0  # a move, and a turn that is further in units of its reach

    def recorded(*given):
        for number in range(5):
            states = torch.cat((torch.full((1, 7), number / 100), turned.cumsum(0) + number / 100))
            yield Trajectory(written(states), turned, states, states[:, :0], number)

    monkeypatch.setattr(check_measure, "trajectories", recorded)
    monkeypatch.setattr(check_measure, "tokens_of", read)
    for limit, axis in (((0.05,) * 3 + (0.0,) * 3 + (0.75,), 0), ((), 3), ((0.0,) * 7, 3)):
        given = (Shards(), _encoder(), Reading(), Adapter(Embodiment(action_limit=limit)), torch.full((7,), 0.1))
        found = check_measure.transitions(*given, count=5, each=1).change
        assert (found.abs().argmax(dim=1) == axis).all(), limit


def test_a_world_that_ignores_actions_tells_nothing_and_does_not_pass(checked):
    result = checked(world=Truth(deaf=True))
    assert not result["ok"] and set(verdict(result).values()) == {"cannot tell"}
    assert result["summary"].startswith("nothing can be told")


def test_a_weak_world_gives_the_sign_and_no_false_alarm():
    """Noise in both hides the scale: a slope of one half is then no proof of a wrong unit."""
    rng = np.random.default_rng(0)
    logged = rng.normal(size=(160, 7))
    weak = 0.45 * logged + rng.normal(size=(160, 7))
    found = verdicts(weak, logged, weak, np.arange(160) // 4, np.full(7, 3.0), rng)
    assert {v.verdict for v in found} <= {"right way", "cannot tell"}
    assert [v.verdict for v in found].count("right way") >= 5 and summary(found)["ok"]
    sharp = verdicts(0.45 * logged, logged, weak, np.arange(160) // 4, np.full(7, 3.0), rng)
    assert {v.verdict for v in sharp} == {"mis-scaled"}


def test_the_search_finds_a_lowest_point_between_the_places_it_tries():
    tokens = torch.zeros(2, 2, 1, 7)
    tokens[:, 1, 0] = torch.tensor([[0.037, -0.011, 0.02, 0, 0, 0, 0.0], [0.5, 0, 0, 0, 0, 0, 0]])
    reach = torch.tensor([0.09, 0.09, 0.0, 0, 0, 0, 0])
    found, energy = lowest(Truth(), *landscape.facing(Truth(), tokens, torch.zeros(2, 7)), reach)
    assert found[0, :2].tolist() == pytest.approx([0.037, -0.011], abs=0.01) and found[0, 2] == 0
    assert found[1, 0] == pytest.approx(0.09) and energy[0] < energy[1]  # beyond the edge: the edge


def test_too_few_episodes_and_another_width_are_refused(checked):
    with pytest.raises(ConfigError, match="toy: 4 episodes; the check needs at least 5"):
        checked(count=4)
    with pytest.raises(ConfigError, match="mine has 8 numbers"):
        checked("rotation: quaternion_wxyz")


def test_the_cameras_of_an_episode_are_one_episode(checked):
    """Else the same actions counted twice would make intervals narrower."""
    once, twice = checked(count=8), checked(count=16, cameras=2)
    assert (once["episodes"], once["transitions"], twice["episodes"], twice["transitions"]) == (8, 32, 8, 64)
    for one, two in zip(once["axes"], twice["axes"], strict=True):
        assert one["slope95"] == pytest.approx(two["slope95"], abs=1e-6)
    with pytest.raises(ConfigError, match="toy: 3 episodes; the check needs at least 5"):
        checked(count=6, cameras=2)


def test_a_rate_that_is_not_the_world_s_is_said(checked):
    assert checked("rate: 15")["notes"] == ["rate: these recordings give 4 steps a second, embodiment mine says 15"]


@pytest.mark.parametrize(("fps", "noted"), [(4.0, False), (3.0, True)])
def test_a_rate_of_4_that_is_every_4th_of_15_frames_is_no_note(checked, monkeypatch, fps, noted):
    monkeypatch.setattr(Shards, "spec", Spec(fps=15.0, action_dim=7, state_dim=7))
    notes = " ".join(checked(fps=fps)["notes"])
    assert ("rate: these recordings give 3 steps a second" in notes) == ("rate:" in notes) == noted


def test_episodes_of_the_training_are_noticed(checked, tmp_path):
    assert not checked()["notes"]
    (tmp_path / "data.json").write_text('{"train": "mine", "heldout": "others"}')
    assert not checked()["notes"]  # the config below names no shards
    (note,) = checked(shards="train")["notes"]
    assert note.startswith("shards: the world was trained on these episodes")
    assert not checked(shards="heldout")["notes"]


def test_a_world_of_a_lower_rate_is_checked_at_its_own(checked, tmp_path):
    """At half the rate there are half the transitions, each as long as two, whatever the robot's own actions are."""
    moved = []
    for fps, transitions in ((4.0, 24 * 4), (2.0, 24 * 3)):
        result = checked(f"rate: {fps}", "action_scale: [0.1, 0.1, 0.1]", fps=fps, commands=lambda change: 10 * change)
        assert result["transitions"] == transitions
        (note,) = result["notes"]
        assert note.startswith(f"actions: at fps={fps:g} changes of pose stand in")
        assert set(verdict(result).values()) == {RIGHT}
        moved.append(np.abs(json.loads((tmp_path / "out" / "check.json").read_text())["points"]["logged"]).mean())
    assert moved[1] > 1.1 * moved[0]


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 2)])
def test_the_exit_code_says_whether_all_is_well(monkeypatch, ok, code):
    seen = {}
    monkeypatch.setattr(check, "run", lambda *a, **k: seen.update(k) or {"ok": ok})
    own = ["--embodiment", "tabletop", "--episodes", "9", "--device", "cuda"]
    result = CliRunner().invoke(app, ["plan", "check", "run", "shards", *own])
    assert result.exit_code == code and seen["embodiment"] == "tabletop" and seen["count"] == 9
    assert seen["device"] == "cuda"


def test_encoder_and_world_go_where_device_says(monkeypatch):
    gone = []

    class World(Truth):
        def to(self, device):
            gone.append(device)
            raise LookupError

    encoder = SimpleNamespace(to=gone.append)
    monkeypatch.setattr(check.Manifest, "load", lambda path: Shards())
    monkeypatch.setattr(check, "load_world", lambda run: (encoder, World()))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(LookupError):
        check.run("run", "toy", device="cuda")
    assert gone == ["cuda", "cuda"]
    with pytest.raises(ConfigError, match="device 'tpu' is not cpu, or cuda"):
        check.run("run", "toy", device="tpu")
