"""Films of episodes: an animated GIF `start | goal | view now`, one frame a decision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jepa.planning.bench.rows import replay
from jepa.planning.manifest import GoalPair
from jepa.planning.mpc import Episode, run_episodes

SIDE = 64  # pixels
SCALE = 3
GAP = 4  # white pixels between the pictures, before scaling
MILLISECONDS = 400


def choose(solved: list[bool], count: int) -> list[int]:
    """Which episodes to film: successes and failures in turn, as far as there are any of each."""
    kinds = [[i for i, s in enumerate(solved) if s], [i for i, s in enumerate(solved) if not s]]
    turns = [kind[i] for i in range(len(solved)) for kind in kinds if i < len(kind)]
    return turns[:count]


def film(env: Any, goal: GoalPair, record: Mapping[str, Any], folder: Path) -> Path:
    """Film an episode by its recorded actions, which repeat it to the bit; FOLDER/GOAL_success.gif or _failure."""
    actions = np.array(record["actions"])
    again = replay([actions], len(actions))
    (episode,) = run_episodes(env, [goal.start], [lambda env: 0.0], again, decisions=len(actions), size=SIDE)
    env.set_state(goal.goal)
    path = folder / f"{goal.id}_{'success' if record['success'] else 'failure'}.gif"
    write(path, episode, env.render_at(SIDE))
    return path


def write(path: Path, episode: Episode, goal: np.ndarray) -> None:
    """Write the GIF of an episode that was run with frames; `goal` is its goal image (h, w, 3) uint8."""
    from PIL import Image

    if episode.frames is None:
        raise ValueError(f"cannot film {path.name}: the episode was run without frames")
    white = np.full((goal.shape[0], GAP, 3), 255, np.uint8)
    pictures = []
    for frame in episode.frames:
        strip = np.concatenate([episode.frames[0], white, goal, white, frame], axis=1)
        image = Image.fromarray(strip)
        pictures.append(image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST))
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [MILLISECONDS] * (len(pictures) - 1) + [3 * MILLISECONDS]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
