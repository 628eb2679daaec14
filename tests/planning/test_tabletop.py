"""The tabletop: gymnasium's contract, exact motion, exact forks, real grasps and pushes, looks that vary."""

import contextlib
import hashlib
import itertools
import sys
import warnings
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from jepa import pose as poses
from jepa.config import ConfigError
from jepa.planning import make_goals
from jepa.planning.envs.base import make
from jepa.planning.envs.tabletop import ACTION_LIMIT, MAX_STEP, POSE_HIGH, POSE_LOW, TabletopEnv
from jepa.planning.offscreen import SimulatorError
from jepa.planning.skills import grasp, push
from jepa.planning.tabletop_look import Variation, sample_look
from jepa.planning.tabletop_scene import TABLE_HALF


@pytest.fixture(scope="module")
def env() -> Iterator[TabletopEnv]:
    with contextlib.closing(make("tabletop")) as opened:
        yield opened


def random_actions(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (count, 7)) * ACTION_LIMIT
    actions[:, 3:5] = 0
    return actions


def test_gymnasium_contract() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = gymnasium.make("jepa/Tabletop-v0")
        check_env(made.unwrapped)
    made.close()


def test_free_motion_reaches_its_target(env: TabletopEnv) -> None:
    env.reset(seed=0)
    env.place_object(0, np.array([0.15, 0.15]))
    env.place_ee(np.array([-0.05, -0.05, 0.15]), 0.5)
    pose = env.ee_pose()
    for action in random_actions(1, 20):
        action[:3] *= 0.5
        pose = np.clip(pose + env.advance(action), POSE_LOW, POSE_HIGH)
        np.testing.assert_allclose(env.ee_pose()[:3], pose[:3], atol=5e-4)
        np.testing.assert_allclose(env.ee_pose()[3:], pose[3:], atol=1e-2)


def test_turns_compose_in_the_world_frame(env: TabletopEnv) -> None:
    env.reset(seed=0)
    env.place_object(0, np.array([0.15, 0.15]))
    env.place_ee(np.array([-0.1, -0.1, 0.2]))
    expected = torch.from_numpy(env.ee_pose())
    for turn in ([0.1, 0.05, 0.2], [-0.05, 0.1, 0.1], [0.0, 0.0, -0.2]):
        action = np.array([0, 0, 0, *turn, 0])
        np.testing.assert_allclose(env.advance(action), action, atol=1e-6)
        expected = poses.integrate(expected, torch.from_numpy(action))
    np.testing.assert_allclose(env.ee_pose()[3:6], expected[3:6], atol=3e-3)


def test_actions_and_poses_are_clipped(env: TabletopEnv) -> None:
    env.reset(seed=0)
    env.place_ee(np.array([0.0, 0.0, 0.15]))
    commanded = env.advance(np.array([1.0, 0, 1.0, 0, 0, 0, 5.0]))
    assert commanded.tolist() == pytest.approx([MAX_STEP, 0, 0.02, 0, 0, 0, 1.0], abs=1e-6)


def test_blocked_arm_does_not_wind_up(env: TabletopEnv) -> None:
    env.reset(seed=0)
    env.place_object(0, np.zeros(2))
    env.place_ee(np.array([0.0, 0.0, 0.1]), 1.0)
    for _ in range(4):
        env.advance(np.array([0, 0, -MAX_STEP, 0, 0, 0, 0]))  # down onto the object
    blocked = env.ee_pose()[2]
    assert blocked > 0.04
    env.advance(np.array([0, 0, 0.03, 0, 0, 0, 0]))
    assert env.ee_pose()[2] == pytest.approx(blocked + 0.03, abs=0.012)


def test_fork_repeats_future_and_images(env: TabletopEnv) -> None:
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    for action, _ in zip(grasp(env, rng), range(8), strict=False):  # a state with contact forces
        env.advance(action)
    start, actions = env.get_state(), random_actions(4, 6)

    def future(simulator: TabletopEnv) -> tuple[list[np.ndarray], list[np.ndarray]]:
        images, states = [simulator.render_at(64)], []
        for action in actions:
            images.append(simulator.step(action)[0]["image"])
            states.append(simulator.get_state())
        return images, states

    images, states = future(env)
    env.reset(seed=9)
    with contextlib.closing(make("tabletop", variation=0.0)) as other:
        other.reset(seed=1)
        for simulator in (env, other):
            simulator.set_state(start)
            images_again, states_again = future(simulator)
            np.testing.assert_array_equal(np.stack(images_again), np.stack(images))
            np.testing.assert_array_equal(np.stack(states_again), np.stack(states))
    assert not np.array_equal(states[0], states[1])


def test_reset_forgets_the_past(env: TabletopEnv) -> None:
    env.reset(seed=5)
    for action in random_actions(6, 3):
        env.advance(action)
    used, _ = env.reset(seed=7)
    with contextlib.closing(make("tabletop")) as fresh:
        new, _ = fresh.reset(seed=7)
        np.testing.assert_array_equal(fresh.get_state(), env.get_state())
    np.testing.assert_array_equal(new["image"], used["image"])


@pytest.mark.parametrize("seed", range(6))  # boxes and cylinders of several sizes
def test_grasp_lifts_and_holds(env: TabletopEnv, seed: int) -> None:
    env.reset(seed=seed)
    rest = env.object_pos()[2]
    for action in grasp(env, np.random.default_rng(seed)):
        env.advance(action)
    lifted = env.object_pos()[2]
    assert lifted > rest + 0.05
    for i in range(8):
        env.advance(np.array([0.04 * (-1) ** i, 0.03 * (-1) ** i, 0, 0, 0, 0, 1.0]))
    assert env.object_pos()[2] > lifted - 0.01
    assert 0.1 < env.ee_pose()[6] < 0.9  # the fingers are stopped by the object
    env.advance(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    env.advance(np.zeros(7))
    assert env.object_pos()[2] < rest + 0.03  # let go; it may still be rocking


def test_closed_fingers_meet(env: TabletopEnv) -> None:
    env.reset(seed=0)
    env.place_object(0, np.array([0.12, 0.12]))
    env.place_ee(np.array([-0.1, -0.1, 0.1]), 1.0)
    left, right = (env._data.geom(name).xpos[0] for name in ("pad_l", "pad_r"))
    assert right - left == pytest.approx(2 * env._model.geom("pad_l").size[0], abs=1e-3)


def test_object_stays_on_the_table(env: TabletopEnv) -> None:
    """However hard it is shoved outwards and pressed down."""
    rng = np.random.default_rng(0)
    for seed in range(8):
        env.reset(seed=seed)
        for _ in range(40):
            item, pose = env.object_pos(), env.ee_pose()
            action = rng.uniform(-1, 1, 7) * ACTION_LIMIT
            action[3:5] = 0
            action[:2] += np.clip(item[:2] - pose[:2], -0.04, 0.04) + 0.03 * np.sign(item[:2])
            action[2] = 0.025 - pose[2] if rng.random() < 0.85 else MAX_STEP
            env.advance(action)
            assert env.object_pos()[2] > 0.02 and np.abs(env.object_pos()[:2]).max() < TABLE_HALF - 0.02


def test_push_moves_the_object(env: TabletopEnv) -> None:
    moved = []
    for seed in range(12):
        env.reset(seed=seed)
        start = env.object_pos()
        for action in push(env, np.random.default_rng(seed)):
            env.advance(action)
        moved.append(np.linalg.norm(env.object_pos() - start))
    assert np.median(moved) > 0.06


def test_variation_changes_the_look_only_when_asked(env: TabletopEnv) -> None:
    def pictures(simulator: TabletopEnv) -> list[np.ndarray]:
        out = []
        for seed in (0, 1):
            simulator.reset(seed=seed)
            simulator.place_ee(np.array([0.1, 0.1, 0.1]))
            simulator.place_object(0, np.array([-0.1, -0.1]))
            out.append(simulator.render_at(64).astype(int))
        return out

    with contextlib.closing(make("tabletop", variation=0.0)) as plain:
        a, b = pictures(plain)
    c, d = pictures(env)
    assert (np.abs(a - b).max(-1) > 8).sum() < 54  # the object's yaw still differs; it covers about 50 pixels
    assert (np.abs(c - d).max(-1) > 8).sum() > 1000


FACTORS = {
    "color": {"object_rgb", "table_material", "table_rgb", "floor_rgb", "arm_rgb", "grip_rgb"},
    "light": {"light_dir", "light_level", "ambient_level"},
    "camera": {"camera_pos", "camera_target"},
    "size": {"object_shape", "object_size"},
    "distractors": {"distractor_rgba"},  # drawn all the same, but unseen
}


@pytest.mark.parametrize("factor", FACTORS)
def test_each_factor_varies_alone_and_at_any_strength_the_draws_are_the_same(factor: str) -> None:
    changed: set[str] = set()
    for seed in range(8):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        plain = sample_look(rngs[0], Variation.of(0.0), 2)
        varied = sample_look(rngs[1], Variation.of({factor: 1.0}), 2)
        changed |= {name for name in plain.dtype.names or () if not np.array_equal(plain[name], varied[name])}
        assert rngs[0].random() == rngs[1].random()
        whole = sample_look(np.random.default_rng(seed), Variation.of(1.0), 2)
        assert all(np.array_equal(whole[name], varied[name]) for name in FACTORS[factor])
    assert changed == FACTORS[factor]


def test_a_scene_that_only_looks_otherwise_moves_the_same() -> None:
    paths = []
    for variation in (0.0, {"color": 1.0, "light": 1.0, "camera": 1.0, "distractors": 1.0}):
        with contextlib.closing(make("tabletop", variation=variation)) as env:
            env.reset(seed=3)
            picture = env.render_at(64)
            for action in push(env, np.random.default_rng(0)):
                env.advance(action)
            paths.append((env.object_pos(), env.ee_pose(), picture))
    (item, hand, plain), (item_again, hand_again, varied) = paths
    np.testing.assert_array_equal(item, item_again)
    np.testing.assert_array_equal(hand, hand_again)
    assert (np.abs(plain.astype(int) - varied).max(-1) > 8).mean() > 0.3


def test_looks_are_those_of_the_recorded_runs() -> None:
    """The demo's figures hang on these draws."""
    drawn = {
        (strength, count): hashlib.sha256(
            b"".join(sample_look(np.random.default_rng(s), Variation.of(strength), count).tobytes() for s in range(5))
        ).hexdigest()[:16]
        for strength in (0.05, 1.0)
        for count in (1, 2)
    }
    assert drawn == {
        (0.05, 1): "ac5e668ac30171b9",
        (0.05, 2): "a0ece3656f1c9a0c",
        (1.0, 1): "8aa88eaafd4195d5",
        (1.0, 2): "7a6e9a7af4ad4b4d",
    }


def test_image_shows_arm_and_object(env: TabletopEnv) -> None:
    env.reset(seed=2)
    env.place_object(0, np.array([0.15, -0.1]))
    env.place_ee(np.array([-0.1, 0.0, 0.1]))
    start, before = env.get_state(), env.render_at(64).astype(int)

    def changed() -> int:
        count = (np.abs(env.render_at(64) - before).max(-1) > 20).sum()
        env.set_state(start)
        return int(count)

    env.place_object(0, np.array([0.15, -0.02]))
    assert changed() > 30  # 5-6 cm at about 1 cm a pixel, at two places
    for step in ([0.06, 0, 0], [0, 0.06, 0], [0, 0, 0.06]):
        env.place_ee(np.array([-0.1, 0.0, 0.1]) + step)
        assert changed() > 80
    assert env.render_at(96).shape == (96, 96, 3)


def test_two_objects_start_apart_and_at_rest() -> None:
    with contextlib.closing(make("tabletop", num_objects=2)) as env:
        for seed in range(10):
            env.reset(seed=seed)
            first, second, pose = env.object_pos(0), env.object_pos(1), env.ee_pose()
            assert min(np.linalg.norm(first - second), np.linalg.norm((first - pose[:3])[:2])) > 0.09
            env.advance(np.zeros(7))
            np.testing.assert_allclose(env.object_pos(0), first, atol=1e-3)
            np.testing.assert_allclose(env.object_pos(1), second, atol=1e-3)


def test_placing_settles_where_told(env: TabletopEnv) -> None:
    env.reset(seed=4)
    env.place_object(0, np.array([0.1, -0.08]))
    env.place_ee(np.array([0.1, -0.135, 0.024]), 1.0)
    np.testing.assert_allclose(env.object_pos()[:2], [0.1, -0.08], atol=3e-3)
    np.testing.assert_allclose(env.ee_pose(), [0.1, -0.135, 0.024, 0, 0, 0, 1.0], atol=3e-3)


def test_bad_input_is_one_clear_line(env: TabletopEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no environment 'pool'; there are: .*tabletop"):
        make("pool")
    with pytest.raises(ConfigError, match="tabletop has no option 'colour'; there are: size, variation, num_objects"):
        make("tabletop", colour=1)
    with pytest.raises(SimulatorError, match="no variation 'colour'; there are: color, light, camera, size, distract"):
        make("tabletop", variation={"colour": 1})
    with pytest.raises(SimulatorError, match=r"variation light must lie in 0\.\.1, got 2"):
        make("tabletop", variation={"light": 2})
    with pytest.raises(SimulatorError, match="num_objects 1 or 2"):
        make("tabletop", num_objects=3)
    with pytest.raises(SimulatorError, match="state of shape"):
        env.set_state(np.zeros(5))
    with pytest.raises(SimulatorError, match="no options"):
        env.reset(options={"color": "red"})
    with pytest.raises(SimulatorError, match="7 finite numbers"):
        env.advance(np.array([0, 0, np.nan, 0, 0, 0, 0]))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mujoco", None)
        with pytest.raises(SimulatorError, match="pip install"):
            TabletopEnv()
    blind = TabletopEnv()

    def no_display(*args: object, **keywords: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(blind._mujoco, "Renderer", no_display)
    with pytest.raises(SimulatorError, match="apt-get install libegl1 libgl1-mesa-dri"):
        blind.render_at(64)


def test_the_hand_never_leaves_the_image_of_the_shipped_scenes() -> None:
    """A hand out of sight differs from a goal image in fewer places than a misplaced one: a planner would hide it."""
    with contextlib.closing(make(**make_goals.TABLETOP)) as env:
        model, data = env._model, env._data
        palm = model.geom("palm").id
        box = np.array(list(itertools.product((-1, 1), repeat=3))) * model.geom_size[palm]
        for seed, xyz in enumerate(itertools.product(*zip(POSE_LOW[:3], POSE_HIGH[:3], strict=True))):
            env.reset(seed=seed)
            env.place_ee(np.array(xyz))
            corners = data.geom_xpos[palm] + box @ data.geom_xmat[palm].reshape(3, 3).T
            right, up, back = ((corners - data.cam_xpos[0]) @ data.cam_xmat[0].reshape(3, 3)).T
            edge = -back * np.tan(np.radians(model.cam_fovy[0] / 2))
            assert max(np.abs(right / edge).max(), np.abs(up / edge).max()) < 1.0


def test_an_open_hand_near_the_table_looks_unlike_a_closed_one() -> None:
    with contextlib.closing(make("tabletop", size=64, variation=0.05)) as env:
        for seed in range(3):
            env.reset(seed=seed)
            env.place_object(0, np.array([0.15, -0.1]))
            pictures = []
            for closedness in (0.0, 1.0):
                env.place_ee(np.array([-0.05, 0.05, 0.024]), closedness)
                pictures.append(env.render_at(64).astype(int))
            assert (np.abs(pictures[0] - pictures[1]).max(-1) > 40).sum() > 60  # px; dark fingers on the shadow: 20
