"""Small data sets as others write them, one maker per source; `make` is the fixture of that name."""

import io
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERAS = ("observation.images.head", "observation.images.wrist")
LENGTHS = (8, 12)  # frames of the two LeRobot episodes


def lerobot_info(version: str) -> dict[str, Any]:
    """meta/info.json of a data set with two cameras, 3-D states and 2-D actions."""
    v3 = version.startswith("v3")
    return {
        "codebase_version": version,
        "robot_type": "so101",
        "fps": 10,
        "chunks_size": 1000 if v3 else 2,
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if v3
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
            "action": {"dtype": "float32", "shape": [2], "names": None},
            **{name: {"dtype": "video", "shape": [48, 48, 3]} for name in CAMERAS},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    }


def lerobot_rows(episode: int) -> dict[str, pa.Array]:
    """One episode's columns; states count up from 1000 x episode, actions are their first two numbers."""
    n = LENGTHS[episode]
    states = np.arange(n * 3, dtype=np.float32).reshape(n, 3) + 1000 * episode
    return {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(states.ravel()), 3),
        "action": pa.array(states[:, :2].tolist(), pa.list_(pa.float32())),
        "timestamp": pa.array(np.arange(n, dtype=np.float32) / 10),
        "frame_index": pa.array(range(n), pa.int64()),
        "episode_index": pa.array([episode] * n, pa.int64()),
        "index": pa.array(range(sum(LENGTHS[:episode]), sum(LENGTHS[: episode + 1])), pa.int64()),
        "task_index": pa.array([episode] * n, pa.int64()),
    }


def write_lerobot_v2(folder: Path, make: SimpleNamespace) -> Path:
    """Layout v2.1: a parquet file, and a video per camera, for each episode."""
    info = lerobot_info("v2.1")
    for i, n in enumerate(LENGTHS):
        _write(folder / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet", b"")
        pq.write_table(pa.table(lerobot_rows(i)), folder / f"data/chunk-{i // 2:03d}/episode_{i:06d}.parquet")
        for width, camera in zip((48, 64), CAMERAS, strict=True):
            _write(folder / f"videos/chunk-{i // 2:03d}/{camera}/episode_{i:06d}.mp4", make.video(n, width))
    lines = [{"episode_index": i, "tasks": [f"task {i}"], "length": n} for i, n in enumerate(LENGTHS)]
    _write(folder / "meta/info.json", json.dumps(info).encode())
    _write(folder / "meta/episodes.jsonl", "\n".join(map(json.dumps, lines)).encode())
    return folder


def write_lerobot_v3(folder: Path, make: SimpleNamespace) -> Path:
    """Layout v3.0: both episodes in one parquet file and one video per camera; the lists are parquet files too."""
    _write(folder / "meta/info.json", json.dumps(lerobot_info("v3.0")).encode())
    _write(folder / "data/chunk-000/file-000.parquet", b"")
    rows = pa.concat_tables([pa.table(lerobot_rows(i)) for i in range(len(LENGTHS))])
    pq.write_table(rows, folder / "data/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["task 0", "task 1"]})
    pq.write_table(tasks, folder / "meta/tasks.parquet")
    ends = np.cumsum(LENGTHS)
    episodes: dict[str, Any] = {
        "episode_index": [0, 1],
        "tasks": [["task 0"], ["task 1"]],
        "length": LENGTHS,
        "data/chunk_index": [0, 0],
        "data/file_index": [0, 0],
        "dataset_from_index": ends - LENGTHS,
        "dataset_to_index": ends,
    }
    for width, camera in zip((48, 64), CAMERAS, strict=True):
        episodes[f"videos/{camera}/chunk_index"] = [0, 0]
        episodes[f"videos/{camera}/file_index"] = [0, 0]
        episodes[f"videos/{camera}/from_timestamp"] = (ends - LENGTHS) / 10
        episodes[f"videos/{camera}/to_timestamp"] = ends / 10
        _write(folder / f"videos/{camera}/chunk-000/file-000.mp4", concatenate([make.video(n, width) for n in LENGTHS]))
    _write(folder / "meta/episodes/chunk-000/file-000.parquet", b"")
    pq.write_table(pa.table(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
    return folder


def concatenate(videos: list[bytes]) -> bytes:
    """One MP4 of the packets of several, one after the other, as `ffmpeg -f concat -c copy` does it."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        stream, offset = None, 0
        for data in videos:
            with av.open(io.BytesIO(data)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video, opaque=True)
                for packet in source.demux(video):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                        target.mux(packet)
                offset += video.duration
    return out.getvalue()


def write_droid(folder: Path, make: SimpleNamespace) -> Path:
    """Two trajectories of 6 steps in raw DROID 1.0.1, at different depths."""
    rng = np.random.default_rng(0)
    for name, serials in (("LAB/success/2023-07-07/a", (11, 12, 13)), ("LAB/success/b", (11, 14, 13))):
        views = dict(zip(("left", "right", "wrist"), serials, strict=True))
        metadata = {
            "uuid": f"LAB+0+{name[-1]}",
            "current_task": "Move something",
            **{f"{view}_mp4_path": f"success/x/recordings/MP4/{serial}.mp4" for view, serial in views.items()},
        }
        _write(folder / name / f"metadata_LAB+0+{name[-1]}.json", json.dumps(metadata).encode())
        for serial in serials:
            _write(folder / name / f"recordings/MP4/{serial}.mp4", make.video(6))
        with h5py.File(folder / name / "trajectory.h5", "w") as h5:
            state = h5.create_group("observation/robot_state")
            state["cartesian_position"] = rng.uniform(-1, 1, (6, 6))
            state["gripper_position"] = rng.uniform(0, 1, 6)
            for serial in serials:
                h5[f"observation/camera_extrinsics/{serial}_left"] = np.full((6, 6), serial, float)
                h5[f"observation/camera_extrinsics/{serial}_right"] = np.zeros((6, 6))
            h5["action/cartesian_velocity"] = np.zeros((6, 6))
    return folder


def write_robomimic(file: Path, make: SimpleNamespace) -> Path:
    """Demonstrations 2 and 10, of 5 and 7 steps, seen by two cameras of 24 x 32 pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as h5:
        data = h5.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 10}})
        for name, n in (("demo_10", 7), ("demo_2", 5)):
            demo = data.create_group(name)
            demo["actions"] = np.arange(n * 7, dtype=np.float64).reshape(n, 7)
            demo["states"] = np.zeros((n, 32))
            demo["obs/robot0_eef_pos"] = np.full((n, 3), 1.0)
            demo["obs/robot0_eef_quat"] = np.full((n, 4), 2.0)
            demo["obs/robot0_gripper_qpos"] = np.full((n, 2), 3.0)
            for shade, camera in enumerate(("agentview_image", "robot0_eye_in_hand_image")):
                grey = 20 * np.arange(n, dtype=np.uint8)[:, None, None, None] + 40 * np.uint8(shade)
                demo[f"obs/{camera}"] = np.broadcast_to(grey, (n, 24, 32, 3))
    return file


def image(suffix: str, shade: int = 100) -> bytes:
    """A grey picture of 8 x 8 pixels."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade,) * 3).save(out, {"jpg": "jpeg"}.get(suffix, suffix))
    return out.getvalue()


def write_images(folder: Path, make: SimpleNamespace) -> Path:
    """Two classes, as ImageNet keeps them."""
    for name in ("n02/deep/b.png", "n01/a.JPG", "n02/c.webp"):
        _write(folder / name, image(name[-3:].lower() if name[-4] == "." else "webp"))
    return folder


def write_folder(folder: Path, make: SimpleNamespace) -> Path:
    _write(folder / "a/x.y.MP4", make.video(8))
    _write(folder / "z.webm", make.video(5, container="webm", codec="libvpx-vp9"))
    return folder


def write_csv(file: Path, make: SimpleNamespace) -> Path:
    """Relative, absolute and spaced paths, and an image."""
    folder = file.parent
    _write(folder / "videos/a.mp4", make.video(8))
    _write(folder / "b.mp4", make.video(5))
    _write(folder / "with space/c d.mp4", make.video(6))
    _write(folder / "e.png", image("png"))
    file.write_text(f"videos/a.mp4 3\n{folder / 'b.mp4'} 0\nwith space/c d.mp4::12\ne.png 1\n")
    return file


def frames(data: bytes) -> np.ndarray:
    """Every frame of a video or image file: (T, h, w, 3) uint8."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rate(data: bytes) -> Fraction:
    """Frames per second by the container."""
    with av.open(io.BytesIO(data)) as container:
        return container.streams.video[0].average_rate


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
