"""Record episodes of scripted and random behaviour as H.264 videos with states, actions and skill labels.

Every episode is a function of (seed, episode number) alone: any number of workers writes the same bytes, and a second
run only fills in what is missing.
"""

import contextlib
import functools
import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jepa.planning.envs.base import PlanningEnv, make
from jepa.planning.skills import SKILLS, behave

FORMAT = "jepa-episodes-1"
_UNITS = ["m", "m", "m", "rad", "rad", "rad", "closedness"]


class CollectError(ValueError):
    """Recording cannot start; the message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of an episode, besides its number."""

    env: str
    size: int
    steps: int
    seed: int
    variation: float
    num_objects: int


@dataclass(frozen=True)
class Episode:
    """frames (T, h, w, 3) uint8; actions (T-1, 7) and states (T, 7) float32; skill (T) int64; object_pos (T, 3)."""

    frames: np.ndarray
    actions: np.ndarray
    states: np.ndarray
    skill: np.ndarray
    object_pos: np.ndarray


def collect(
    out: str | Path,
    *,
    episodes: int,
    steps: int = 32,
    size: int = 64,
    seed: int = 0,
    workers: int = 2,
    variation: float = 1.0,
    num_objects: int = 1,
    env: str = "tabletop",
    progress: bool = True,
) -> dict[str, Any]:
    """Record `episodes` videos of `steps` frames into folder `out`, skipping those already there.

    Returns a summary: frames, new_frames, seconds, frames_per_second (of the new ones), label_frames by skill,
    object_travel_m (mean per episode) and lifted (share of episodes in which the object left the table).

    Raises:
        CollectError: bad numbers, or `out` holds episodes of another recipe.
    """
    out = Path(out)
    if episodes < 1 or steps < 2 or workers < 1:
        raise CollectError(f"need episodes ≥ 1, steps ≥ 2, workers ≥ 1; got {episodes}, {steps}, {workers}")
    recipe = Recipe(env, size, steps, seed, variation, num_objects)
    _begin(out, recipe)
    todo = [i for i in range(episodes) if not all(p.exists() for p in _paths(out, i))]
    started = time.perf_counter()
    with _bar(progress, len(todo)) as tick:
        if todo:
            _record_all(out, recipe, todo, workers, tick)
    seconds = time.perf_counter() - started
    return {
        "frames": episodes * steps,
        "new_frames": len(todo) * steps,
        "seconds": round(seconds, 2),
        "frames_per_second": round(len(todo) * steps / seconds, 1),
        **_statistics(out, episodes),
    }


def record(env: PlanningEnv, recipe: Recipe, index: int) -> Episode:
    """Play episode `index` of `recipe` in `env`, whatever `env` did before."""
    scene, behaviour = np.random.SeedSequence([recipe.seed, index]).spawn(2)
    observation, _ = env.reset(seed=int(scene.generate_state(1, np.uint32)[0]))
    acting = behave(env, np.random.default_rng(behaviour))
    frames, states = [observation["image"]], [env.ee_pose()]
    positions, actions, labels = [env.object_pos()], [], []
    for _ in range(recipe.steps - 1):
        label, action = next(acting)
        actions.append(env.advance(action))
        labels.append(label)
        frames.append(env.render_at(recipe.size))
        states.append(env.ee_pose())
        positions.append(env.object_pos())
    return Episode(
        np.stack(frames),
        np.stack(actions).astype(np.float32),
        np.stack(states).astype(np.float32),
        np.array([*labels, labels[-1]], np.int64),
        np.stack(positions).astype(np.float32),
    )


def encode_mp4(frames: np.ndarray, fps: float) -> bytes:
    """H.264 (yuv420p, crf 18) MP4 of frames (T, h, w, 3) uint8. One thread, so that the bytes repeat."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        # With B-frames or macroblock trees, x264 does not always repeat itself on frames this small.
        stream.options = {"crf": "18", "preset": "veryfast", "g": "16", "bf": "0", "x264-params": "mbtree=0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


# --- files -----------------------------------------------------------------------------------------------------


def _paths(out: Path, index: int) -> tuple[Path, Path]:
    return out / f"episode_{index:06d}.npz", out / f"episode_{index:06d}.mp4"


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)


def _begin(out: Path, recipe: Recipe) -> None:
    """Write dataset.json, or check that the one there is of the same recipe."""
    header = {
        "format": FORMAT,
        **asdict(recipe),
        "fps": 4.0,
        "action_dim": 7,
        "state_dim": 7,
        "action_units": _UNITS,
        "state_units": _UNITS,
        "labels": {"skill": list(SKILLS)},
        "extra": {"object_pos": ["m"] * 3},
    }
    path = out / "dataset.json"
    if path.exists():
        there = json.loads(path.read_text())
        if changed := [f"{k} {there.get(k)} (now {v})" for k, v in header.items() if there.get(k) != v]:
            raise CollectError(f"{path}: recorded with {', '.join(changed)}; use another folder")
    out.mkdir(parents=True, exist_ok=True)
    _write(path, (json.dumps(header, indent=1) + "\n").encode())


def _save(out: Path, index: int, episode: Episode, fps: float) -> None:
    arrays, video = _paths(out, index)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        actions=episode.actions,
        states=episode.states,
        skill=episode.skill,
        object_pos=episode.object_pos,
    )
    _write(arrays, buffer.getvalue())
    _write(video, encode_mp4(episode.frames, fps))


def _statistics(out: Path, episodes: int) -> dict[str, Any]:
    counts, travel, lifted = np.zeros(len(SKILLS), int), [], []
    for index in range(episodes):
        with np.load(_paths(out, index)[0], allow_pickle=False) as arrays:
            counts += np.bincount(arrays["skill"], minlength=len(SKILLS))
            positions = arrays["object_pos"]
        travel.append(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
        lifted.append(positions[:, 2].max() > positions[0, 2] + 0.04)
    return {
        "label_frames": dict(zip(SKILLS, counts.tolist(), strict=True)),
        "object_travel_m": round(float(np.mean(travel)), 3),
        "lifted": round(float(np.mean(lifted)), 3),
    }


# --- processes -------------------------------------------------------------------------------------------------


def _open(recipe: Recipe) -> Any:
    return make(recipe.env, size=recipe.size, variation=recipe.variation, num_objects=recipe.num_objects)


_open_once = functools.cache(_open)  # in a worker process: one environment for all its episodes


def _work(out: Path, recipe: Recipe, index: int) -> None:
    env = _open_once(recipe)
    _save(out, index, record(env, recipe, index), env.fps)


def _record_all(out: Path, recipe: Recipe, todo: list[int], workers: int, tick: Callable[[], None]) -> None:
    if workers == 1 or len(todo) < 2:
        with contextlib.closing(_open(recipe)) as env:
            for index in todo:
                _save(out, index, record(env, recipe, index), env.fps)
                tick()
        return
    context = multiprocessing.get_context("spawn")  # OpenGL contexts do not survive a fork
    with ProcessPoolExecutor(min(workers, len(todo)), context) as pool:
        jobs = [pool.submit(_work, out, recipe, index) for index in todo]
        try:
            for job in as_completed(jobs):
                job.result()
                tick()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _bar(shown: bool, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar over episodes; yields the function that advances it."""
    columns = (TextColumn("collect"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not shown) as progress:
        task = progress.add_task("collect", total=total)
        yield lambda: progress.advance(task)
