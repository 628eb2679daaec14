"""Films of episodes: an animated GIF `start | goal | view now`, one frame a decision."""

from pathlib import Path

import numpy as np

from jepa.planning.mpc import Episode

SCALE = 3
GAP = 4  # white pixels between the pictures, before scaling
MILLISECONDS = 400


def choose(solved: list[bool], count: int) -> list[int]:
    """Which episodes to film: successes and failures in turn, as far as there are any of each."""
    kinds = [[i for i, s in enumerate(solved) if s], [i for i, s in enumerate(solved) if not s]]
    turns = [kind[i] for i in range(len(solved)) for kind in kinds if i < len(kind)]
    return turns[:count]


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
