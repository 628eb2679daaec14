"""Record episodes of scripted and random behaviour as H.264 videos with states, actions and skill labels.

Every episode is a function of (seed, episode number) alone: any number of workers writes the same bytes, and a second
run only fills in what is missing.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from jepa.logs import progress_bar
from jepa.planning.coverage import coverage, write
from jepa.planning.envs.base import PlanningEnv, make
from jepa.planning.episodes import CollectError, Episode, Recipe, begin, paths, save


def collect(
    out: str | Path,
    *,
    episodes: int,
    steps: int = 32,
    size: int = 64,
    seed: int = 0,
    workers: int = 2,
    variation: float | Mapping[str, float] = 0.05,
    num_objects: int = 1,
    env: str = "tabletop",
    shares: Mapping[str, float] | None = None,
    noise: Sequence[float] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Record `episodes` videos of `steps` frames into folder `out`, skipping those already there.

    Args:
        variation: of the tabletop's looks; other environments have none. num_objects: where there can be two.
        shares, noise: what the robot does, by skill, and with which levels of noise in m, both left out for the
            environment's own mixture (see `skills.behave`).

    Returns a summary: frames, new_frames, seconds, frames_per_second (of the new ones), and what the episodes cover
    (see `coverage.coverage`), which is also written to OUT/coverage.json.

    Raises:
        CollectError: bad numbers, or `out` holds episodes of another recipe.
        ConfigError, SimulatorError: no such environment or skill, or it cannot run here.
    """
    out = Path(out)
    if episodes < 1 or steps < 2 or workers < 1:
        raise CollectError(f"need episodes ≥ 1, steps ≥ 2, workers ≥ 1; got {episodes}, {steps}, {workers}")
    options: dict[str, Any] = {"variation": variation, "num_objects": num_objects}
    if env != "tabletop":
        options = {} if num_objects == 1 else {"num_objects": num_objects}  # refused where there is no choice
    recipe = Recipe(env, size, steps, seed, options, dict(shares or {}), tuple(noise))
    with contextlib.closing(_open(recipe)) as opened:  # a missing simulator is found before anything is written
        next(_behaviour(opened, recipe, np.random.default_rng(0)))
        begin(out, recipe, opened)
        extent = (opened.skills, opened.action_limit, opened.workspace)
    todo = [i for i in range(episodes) if not all(p.exists() for p in paths(out, i))]
    started = time.perf_counter()
    with _bar(progress, len(todo)) as tick:
        if todo:
            _record_all(out, recipe, todo, workers, tick)
    seconds = time.perf_counter() - started
    covered = coverage([paths(out, i)[0] for i in range(episodes)], *extent)
    write(out / "coverage.json", {"episodes": episodes, "frames": episodes * steps, **covered})
    return {
        "frames": episodes * steps,
        "new_frames": len(todo) * steps,
        "seconds": round(seconds, 2),
        "frames_per_second": round(len(todo) * steps / seconds, 1),
        **covered,
    }


def record(env: PlanningEnv, recipe: Recipe, index: int) -> Episode:
    """Play episode `index` of `recipe` in `env`, whatever `env` did before."""
    scene, behaviour = np.random.SeedSequence([recipe.seed, index]).spawn(2)
    observation, _ = env.reset(seed=int(scene.generate_state(1, np.uint32)[0]))
    acting = _behaviour(env, recipe, np.random.default_rng(behaviour))
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


# --- processes -------------------------------------------------------------------------------------------------


def _behaviour(env: PlanningEnv, recipe: Recipe, rng: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    mixture: dict[str, Any] = {"shares": recipe.shares, "noise": recipe.noise}
    return env.behave(rng, **{name: value for name, value in mixture.items() if value})


def _open(recipe: Recipe) -> Any:
    return make(recipe.env, size=recipe.size, **recipe.options)


_own: Any = None  # in a worker process: one environment for all its episodes


def _work(out: Path, recipe: Recipe, index: int) -> None:
    global _own
    _own = _own or _open(recipe)
    save(out, index, record(_own, recipe, index), _own.fps)


def _record_all(out: Path, recipe: Recipe, todo: list[int], workers: int, tick: Callable[[], None]) -> None:
    if workers == 1 or len(todo) < 2:
        with contextlib.closing(_open(recipe)) as env:
            for index in todo:
                save(out, index, record(env, recipe, index), env.fps)
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
    with progress_bar(disable=not shown) as progress:
        task = progress.add_task("collect", total=total, figures="")
        yield lambda: progress.advance(task)
