"""What is special about the sources of robot data: LeRobot, DROID, robomimic."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from jepa.data.errors import DataError
from jepa.data.sources import droid, lerobot, robomimic
from jepa.data.sources.base import Rejected

fixtures = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("source_fixtures.py"))))
WRITE = {"v2": fixtures.write_lerobot_v2, "v3": fixtures.write_lerobot_v3}
HEAD, WRIST = fixtures.CAMERAS


@pytest.fixture(params=WRITE)
def lerobot_set(request: pytest.FixtureRequest, tmp_path: Path, make: SimpleNamespace) -> Path:
    return WRITE[request.param](tmp_path / "in", make)


def change_info(path: Path, **changes: object) -> None:
    file = path / "meta" / "info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_lerobot_gives_every_camera_its_own_video_of_every_episode(lerobot_set: Path) -> None:
    found = list(lerobot.recordings(lerobot_set))
    endings = ("observation_images_head", "observation_images_wrist")
    assert [r.key for r in found] == [f"episode_{i:06d}__{ending}" for i in (0, 1) for ending in endings]
    for recording, (n, width) in zip(found, [(8, 48), (8, 64), (12, 48), (12, 64)], strict=True):
        episode = lerobot.load(lerobot_set, recording)
        whole, frames = (
            fixtures.frames(data) for data in ((lerobot_set / episode.meta["file"]).read_bytes(), episode.video)
        )
        start = len(whole) - n if episode.meta["episode"] else 0
        assert frames.shape[:3] == (n, 48, width) and np.array_equal(frames, whole[start : start + n])
        assert fixtures.rate(episode.video) == 10
    assert [r.key for r in lerobot.recordings(lerobot_set, WRIST)] == [found[1].key, found[3].key]
    with pytest.raises(DataError, match=r"no camera 'foot'; there are: observation\.images\.head, obs"):
        list(lerobot.recordings(lerobot_set, "foot"))


def test_lerobot_arrays_tasks_and_names(lerobot_set: Path) -> None:
    spec = lerobot.spec(lerobot_set)
    assert (spec.fps, spec.action_dim, spec.state_dim, set(spec.state_units)) == (10, 2, 3, {"unknown"})
    episode = lerobot.load(lerobot_set, list(lerobot.recordings(lerobot_set))[2])
    states = 1000 + np.arange(36, dtype=np.float32).reshape(12, 3)
    assert np.array_equal(episode.arrays["states"], states)
    assert np.array_equal(episode.arrays["actions"], states[:-1, :2])
    assert episode.language == "task 1"
    assert (episode.meta["camera"], episode.meta["names"]) == (HEAD, {"states": ["x", "y", "z"]})


def test_the_only_camera_adds_nothing_to_the_key_and_pictures_in_parquet_are_listed(lerobot_set: Path) -> None:
    features = json.loads((lerobot_set / "meta" / "info.json").read_text())["features"]
    change_info(lerobot_set, features={**features, WRIST: {"dtype": "image", "shape": [48, 48, 3]}})
    rejected, *found = lerobot.recordings(lerobot_set)
    assert isinstance(rejected, Rejected) and rejected.file == WRIST and "image-typed" in rejected.reason
    assert [r.key for r in found] == ["episode_000000", "episode_000001"]
    change_info(lerobot_set, features={"action": features["action"]})
    with pytest.raises(DataError, match="no camera among the features"):
        list(lerobot.recordings(lerobot_set))


def test_lerobot_damage_is_told(lerobot_set: Path) -> None:
    recording = list(lerobot.recordings(lerobot_set))[2]
    _, _, _, data, video, *_ = recording.place
    table = pq.read_table(lerobot_set / data)
    for damage, complaint in (
        (table.drop_columns("action"), "cannot be read: No match"),
        (table.set_column(1, "action", [[[1.0]] * len(table)]), "'action' is not 2 numbers per frame"),
        (table.slice(0, 0), "holds nothing of episode 1"),
    ):
        pq.write_table(damage, lerobot_set / data)
        with pytest.raises(DataError, match=complaint):
            lerobot.load(lerobot_set, recording)
    (lerobot_set / data).write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"\.parquet cannot be read"):
        lerobot.load(lerobot_set, recording)
    (lerobot_set / video).unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        lerobot.load(lerobot_set, recording)


def test_lerobot_lists_must_be_whole(lerobot_set: Path) -> None:
    change_info(lerobot_set, video_path="{nothing}.mp4")
    with pytest.raises(DataError, match="damaged list of episodes or file name"):
        list(lerobot.recordings(lerobot_set))
    change_info(lerobot_set, codebase_version="v1.6")
    with pytest.raises(DataError, match=r"version v1\.6 is not supported"):
        lerobot.spec(lerobot_set)
    change_info(lerobot_set, features=[1])
    with pytest.raises(DataError, match="damaged"):
        lerobot.spec(lerobot_set)
    (lerobot_set / "meta" / "info.json").unlink()
    with pytest.raises(DataError, match="not a LeRobot data set"):
        lerobot.spec(lerobot_set)


def test_lerobot_without_its_list(lerobot_set: Path) -> None:
    for file in (lerobot_set / "meta").glob("episodes*"):
        file.rename(file.with_name("gone"))
    with pytest.raises(DataError, match=r"episodes\.jsonl cannot be read|no meta/episodes/.*not whole"):
        list(lerobot.recordings(lerobot_set))


def test_droid_states_and_the_actions_between_them(tmp_path: Path, make: SimpleNamespace) -> None:
    path = fixtures.write_droid(tmp_path / "in", make)
    found = list(droid.recordings(path))
    assert [r.file for r in found][:3] == [f"LAB/success/2023-07-07/a ({v})" for v in ("left", "right", "wrist")]
    assert [r.key.rpartition("__")[2] for r in found] == ["left", "right", "wrist"] * 2
    episode = droid.load(path, found[4])
    assert droid.spec(path).state_units == ("m", "m", "m", "rad", "rad", "rad", "closedness")
    assert episode.language == "Move something" and episode.meta["uuid"] == "LAB+0+b"
    assert np.all(episode.arrays["extrinsics"] == 14) and episode.arrays["extrinsics"].shape == (6, 6)
    with h5py.File(path / "LAB/success/b/trajectory.h5") as h5:
        pose = h5["observation/robot_state/cartesian_position"][:]
        closedness = h5["observation/robot_state/gripper_position"][:]
    assert np.allclose(episode.arrays["states"], np.c_[pose, closedness])
    actions = episode.arrays["actions"]
    assert np.allclose(actions[:, :3], np.diff(pose[:, :3], axis=0)) and np.allclose(actions[:, 6], np.diff(closedness))
    for t, action in enumerate(actions):  # R becomes ΔR·R
        assert np.allclose(matrix(action[3:6]) @ matrix(pose[t, 3:]), matrix(pose[t + 1, 3:]), atol=1e-6)
    with pytest.raises(DataError, match="no camera 'top'; there are: left, right, wrist"):
        list(droid.recordings(path, "top"))


def matrix(angles: np.ndarray) -> np.ndarray:
    """Rz·Ry·Rx."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def test_droid_damage_is_told(tmp_path: Path, make: SimpleNamespace) -> None:
    path = fixtures.write_droid(tmp_path / "in", make)
    folder = path / "LAB/success/b"
    recording = next(r for r in droid.recordings(path, "left") if r.place[0] == "LAB/success/b")
    file = folder / "trajectory.h5"
    with h5py.File(file, "a") as h5:
        del h5["observation/robot_state/gripper_position"]
        h5["observation/robot_state/gripper_position"] = np.zeros(5)
    with pytest.raises(DataError, match=r"gripper_position \(5,\).*must be"):
        droid.load(path, recording)
    with h5py.File(file, "a") as h5:
        del h5["observation/camera_extrinsics/11_left"]
    with pytest.raises(DataError, match=r"no data set '/observation/camera_extrinsics/11_left'"):
        droid.load(path, recording)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"trajectory\.h5 cannot be read"):
        droid.load(path, recording)
    metadata = next(folder.glob("*.json"))
    for text, complaint in (("{}", "name no left_mp4_path"), ("[]", "holds no metadata"), ("{", "cannot be read")):
        metadata.write_text(text)
        with pytest.raises(DataError, match=complaint):
            droid.load(path, recording)
    metadata.unlink()
    with pytest.raises(DataError, match="no metadata"):
        droid.load(path, recording)


def test_robomimic_pictures_become_a_video(tmp_path: Path, make: SimpleNamespace) -> None:
    path = fixtures.write_robomimic(tmp_path / "low.hdf5", make)
    spec = robomimic.spec(path)
    assert (spec.fps, spec.action_dim) == (10, 7)
    assert spec.state_units == ("m",) * 3 + ("quaternion",) * 4 + ("unknown",) * 2
    found = list(robomimic.recordings(path))
    endings = ("agentview_image", "robot0_eye_in_hand_image")
    assert [r.key for r in found] == [f"{demo}__{ending}" for demo in ("demo_2", "demo_10") for ending in endings]
    episode = robomimic.load(path, found[3])
    frames = fixtures.frames(episode.video).astype(int)
    assert frames.shape == (7, 24, 32, 3) and fixtures.rate(episode.video) == 10
    assert np.abs(frames - (20 * np.arange(7) + 40)[:, None, None, None]).max() <= 3
    assert np.array_equal(episode.arrays["actions"], np.arange(42, dtype=np.float32).reshape(6, 7))
    assert np.array_equal(episode.arrays["states"][0], [1, 1, 1, 2, 2, 2, 2, 3, 3])


def test_robomimic_without_states_pictures_or_rate(tmp_path: Path, make: SimpleNamespace) -> None:
    path = fixtures.write_robomimic(tmp_path / "low.hdf5", make)
    recording, *_ = robomimic.recordings(path)
    with h5py.File(path, "a") as h5:
        del h5["data"].attrs["env_args"]
        for part in ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"):
            del h5[f"data/demo_2/obs/{part}"]
    assert (robomimic.spec(path).fps, robomimic.spec(path).state_dim) == (20, 0)
    episode = robomimic.load(path, recording)
    assert set(episode.arrays) == {"actions"} and fixtures.rate(episode.video) == 20
    with h5py.File(path, "a") as h5:
        del h5["data/demo_2/actions"]
        h5["data/demo_2/actions"] = np.zeros((4, 7))
    with pytest.raises(DataError, match=r"shape \(4, 7\), but there are 5 pictures"):
        robomimic.load(path, recording)
    with h5py.File(path, "a") as h5:
        for camera in ("agentview_image", "robot0_eye_in_hand_image"):
            del h5[f"data/demo_2/obs/{camera}"]
    with pytest.raises(DataError, match=r"no pictures \(obs/\*_image\)"):
        list(robomimic.recordings(path))
    with pytest.raises(DataError, match="no data set '/data/demo_2/obs/agentview_image'"):
        robomimic.load(path, recording)


def test_a_file_that_is_no_robomimic_file(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    for content in ({}, {"data": np.zeros(3)}, {"data/demo_0/actions": np.zeros((3, 7))}):
        with h5py.File(path, "w") as h5:
            for name, array in content.items():
                h5[name] = array
        for function in (robomimic.spec, lambda path: list(robomimic.recordings(path))):
            with pytest.raises(DataError, match=r"x\.hdf5 cannot be read"):
                function(path)


@pytest.mark.parametrize(("package", "extra"), [("h5py", "robot"), ("pyarrow.parquet", "lerobot")])
def test_a_missing_package_is_named(
    package: str, extra: str, tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fixtures.write_lerobot_v3(tmp_path / "a", make)
    file = fixtures.write_robomimic(tmp_path / "b", make)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'openjepa\[{extra}\]'"):
        robomimic.spec(file) if package == "h5py" else list(lerobot.recordings(path))
