"""Embodiments: what a robot writes becomes the 7-D of V-JEPA 2-AC and comes back, whatever its conventions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from jepa import pose
from jepa.config import ConfigError, preset_names
from jepa.planning.embodiment import Adapter, Embodiment, load
from jepa.planning.envs import tabletop
from jepa.planning.rotations import EULER, WIDTHS, from_matrix, to_matrix

MILLIMETRES = Embodiment(name="mm", position="mm", angle="deg", rotation="intrinsic_zyx", gripper=(80.0, 0.0))
CONVENTIONS = {
    "own": Embodiment(),
    "mm": MILLIMETRES,
    "targets": replace(MILLIMETRES, actions="absolute", gripper_actions="absolute"),
    "quaternion": Embodiment(rotation="quaternion_xyzw", actions="absolute", gripper=()),
    "hand": Embodiment(frame="end_effector", rotation="rotation_vector", gripper_actions="absolute"),
    "camera": Embodiment(frame="camera", camera_pose=(0.4, -0.2, 0.9, -2.1, 0.1, 0.7), rotation="quaternion_wxyz"),
    "camera targets": Embodiment(frame="camera", camera_pose=(0.4, -0.2, 0.9, -2.1, 0.1, 0.7), actions="absolute"),
    "axes": Embodiment(axes=("-y", "x", "z"), action_scale=(0.05, 0.05, 0.1), turn_scale=0.5),
    "left-handed": Embodiment(axes=("x", "-y", "z"), rotation="rotation_vector"),
    "no rotation": Embodiment(rotation="none", position="cm"),
}


def random_poses(seed: int, shape: tuple[int, ...] = (50,)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    out = torch.rand(*shape, 7, generator=generator, dtype=torch.float64) - 0.5
    out[..., 3:6] *= 2.5
    out[..., 6] += 0.5
    return out


@pytest.mark.parametrize("convention", [c for c in WIDTHS if c != "none"])
def test_rotations_are_scipys_and_come_back(convention):
    turns = Rotation.from_quat(np.random.default_rng(0).normal(size=(200, 4)))
    turns = Rotation.concatenate([turns, Rotation.identity(), Rotation.from_rotvec([[np.pi, 0, 0], [0, 1e-9, 0]])])
    matrix = torch.from_numpy(turns.as_matrix())
    if convention in EULER:
        kind, order = convention.split("_")
        written = turns[:200].as_euler(order if kind == "extrinsic" else order.upper())
    elif convention == "rotation_vector":
        written = turns[:200].as_rotvec()
    else:
        written = turns[:200].as_quat(scalar_first=convention.endswith("wxyz"))
    torch.testing.assert_close(to_matrix(torch.from_numpy(written.copy()), convention), matrix[:200])
    torch.testing.assert_close(to_matrix(from_matrix(matrix, convention), convention), matrix, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_states_and_actions_come_back(name):
    adapter = Adapter(CONVENTIONS[name])
    poses, after = random_poses(0, (4, 9)), random_poses(1, (4, 9))
    if name == "no rotation":
        poses[..., 3:6], after[..., 3:6] = 0, 0
    if name == "quaternion":  # it has no gripper
        poses[..., 6], after[..., 6] = 0, 0
    changes = pose.delta(poses, after)
    states = adapter.state(poses)
    assert states.shape == (4, 9, adapter.width)
    torch.testing.assert_close(adapter.pose(states), poses)
    torch.testing.assert_close(adapter.change(adapter.action(changes, states), states), changes)
    assert adapter.pose(states.float()).dtype == torch.float32


@pytest.mark.parametrize("name", ["targets", "camera targets"])
def test_a_target_is_the_state_that_it_leads_to(name):
    adapter, poses, after = Adapter(CONVENTIONS[name]), random_poses(0), random_poses(1)
    if name == "camera targets":
        after[:, 6] = poses[:, 6]
    written = adapter.action(pose.delta(poses, after), adapter.state(poses))
    torch.testing.assert_close(written[..., :-1], adapter.state(after)[..., :-1])


def test_a_gripper_is_not_told_to_close_further_than_it_can():
    adapter = Adapter(Embodiment(gripper=(0.0, 255.0), gripper_actions="absolute"))
    state = torch.tensor([0.3, 0, 0, 0, 0, 0, 204.0])
    told = [float(adapter.action(torch.tensor([0.0] * 6 + [change]), state)[6]) for change in (0.75, 0.1, -1.0)]
    assert told == pytest.approx([255.0, 229.5, 0.0])


@pytest.mark.parametrize("name", ["camera", "axes", "left-handed"])
def test_changes_agree_with_the_states_they_lead_to(name):
    """A change in the frame's own axes: the difference of written states, and of nothing else."""
    plain = replace(CONVENTIONS[name], action_scale=(1.0, 1.0, 1.0), turn_scale=1.0)
    adapter, poses, after = Adapter(plain), random_poses(0), random_poses(1)
    states, later = adapter.state(poses), adapter.state(after)
    action = torch.cat([later[:, :3] - states[:, :3], later[:, 3:]], 1)
    turns = [to_matrix(s[:, 3 : adapter.width - 1], plain.rotation) for s in (states, later)]
    action[:, 3 : adapter.width - 1] = from_matrix(turns[1] @ turns[0].mT, plain.rotation)
    action[:, -1] = later[:, -1] - states[:, -1]
    torch.testing.assert_close(adapter.change(action, states), pose.delta(poses, after))


def test_what_the_conventions_mean():
    still = torch.zeros(7, dtype=torch.float64)

    def of(embodiment, action, state=still):
        state = torch.as_tensor(state, dtype=torch.float64)
        return Adapter(embodiment).change(torch.tensor(action, dtype=torch.float64), state).tolist()

    assert of(MILLIMETRES, [10, 0, 0, 90, 0, 0, -80.0]) == pytest.approx([0.01, 0, 0, 0, 0, np.pi / 2, 1.0])
    assert of(Embodiment(axes=("-y", "x", "z")), [0.1, 0.2, 0.3, 0, 0, 0, 0])[:3] == pytest.approx([0.2, -0.1, 0.3])
    assert of(Embodiment(action_scale=(0.05,) * 3), [1, 0, -1, 0, 0, 0, 0])[:3] == pytest.approx([0.05, 0, -0.05])
    hand = [0, 0, 0, 0, 0, np.pi / 2, 0]  # turned about z: its x is the base's y
    assert of(Embodiment(frame="end_effector"), [0.1, 0, 0, 0.2, 0, 0, 0], hand) == pytest.approx(
        [0, 0.1, 0, 0, 0.2, 0, 0]
    )
    targets = Embodiment(actions="absolute", gripper=(0.0, 255.0), gripper_actions="absolute")
    assert of(targets, [0.3, 0, 0, 0, 0, 0, 255], [0.2, 0, 0, 0, 0, 0, 51]) == pytest.approx([0.1, 0, 0, 0, 0, 0, 0.8])


@pytest.mark.parametrize("name", preset_names("embodiment"))
def test_presets_hold_and_standing_still_changes_nothing(name):
    adapter, poses = load(name), random_poses(0)
    states = adapter.state(poses)
    still = adapter.change(adapter.action(torch.zeros_like(poses), states), states)
    torch.testing.assert_close(still, torch.zeros_like(poses), atol=1e-12, rtol=0)
    assert adapter.embodiment.name == name and adapter.embodiment.camera and adapter.embodiment.crop
    assert (adapter.bounds().high >= 0).all() and (adapter.bounds().scale[:3] > 0).all()


def test_the_tabletop_preset_is_the_environment():
    e = load("tabletop").embodiment
    np.testing.assert_allclose(e.action_limit, tabletop.ACTION_LIMIT)
    np.testing.assert_allclose(np.array(e.workspace).T, [tabletop.POSE_LOW[:3], tabletop.POSE_HIGH[:3]])
    poses, changes = random_poses(0), 0.1 * random_poses(1)
    torch.testing.assert_close(Adapter(e).pose(poses), poses)
    torch.testing.assert_close(Adapter(e).change(changes, poses), changes)


def test_limits_of_zero_are_frozen():
    assert load("franka_droid").bounds().frozen == (3, 4, 5)
    with pytest.raises(ConfigError, match="action_limit"):
        load().bounds()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position", "inch"), ("rotation", "extrinsic_xyx"), ("frame", "world"), ("axes", ("x", "x", "z")),
        ("gripper", (1.0, 1.0)), ("gripper", (1.0,)), ("action_limit", (0.1,)), ("action_scale", (1.0, 0.0, 1.0)),
        ("rate", 0.0), ("workspace", ((0.0, 1.0), (0.0, 1.0), (1.0, 0.0))), ("camera_pose", (0.0,)),
        ("frame", "camera"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_names_its_key(key, value):
    with pytest.raises(ConfigError, match=f"embodiment here: .*{key}"):
        Embodiment(name="here", **{key: value})


def test_targets_along_the_hands_own_axes_are_refused():
    with pytest.raises(ConfigError, match="embodiment here: frame: end_effector is for changes"):
        Embodiment(name="here", frame="end_effector", actions="absolute")


def test_other_widths_and_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="7 numbers in a state and an action; these have 8"):
        load().pose(torch.zeros(3, 8))
    with pytest.raises(ConfigError, match="no embodiment preset 'nosuch'; there are: franka_droid, tabletop"):
        load("nosuch")
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: tabletop\naxes: [y, x, z]\n")
    assert load(str(mine)).embodiment.axes == ("y", "x", "z")
