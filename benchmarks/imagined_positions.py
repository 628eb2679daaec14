"""Where do a world's imagined features put hand and object? Representation and dynamics, apart and in centimetres.

    python benchmarks/imagined_positions.py WORLD_RUN TRAIN_SHARDS HELDOUT_SHARDS [--frames 6000] [--windows 600]

Ridge regression from all tokens of a frame of the training shards (those that WORLD_RUN was trained on) to hand (x, y,
z), object (x, y, z) and gripper, each number with its own strength, chosen on a fifth of the training episodes. On the
held-out windows it reads three pictures k steps after a start: the true one (what the representation knows, linearly),
the imagined one under the logged actions (what dynamics keep of that), and the one at the start again (copying).
Windows of 4 steps are split by what happens to the object: it stays within 5 mm, it slides 2 cm or more and is never
1 cm above the table, or it ends lifted by 3 cm or more; other windows are left out. Errors are mean Euclidean distances
in cm, of the gripper in parts of its way, with 95 % bootstrap intervals over episodes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from jepa.bootstrap import resamples
from jepa.data.index import Manifest
from jepa.encoded import Episodes, read_episodes
from jepa.runs import load_world
from jepa.worlds.base import WorldModel, rollout

STEPS = (1, 2, 4)
PARTS = {"hand": slice(0, 3), "object": slice(3, 6), "object's height": slice(5, 6), "gripper": slice(6, 7)}
UNITS = {"hand": 100.0, "object": 100.0, "object's height": 100.0, "gripper": 1.0}  # cm, cm, cm, share
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge, in multiples of the mean of the kernel's diagonal
CHUNK = 64


def truth(manifest: Manifest) -> list[Tensor]:
    """Of each sample hand, object and gripper (T, 7), float64."""
    found = []
    for i in range(len(manifest)):
        arrays = manifest.read(i).arrays
        states, item = torch.from_numpy(arrays["states"]).double(), torch.from_numpy(arrays["object_pos"]).double()
        found.append(torch.cat([states[:, :3], item.reshape(len(states), -1)[:, :3], states[:, 6:7]], 1))
    return found


@torch.no_grad()
def seen(world: WorldModel, data: Episodes, places: list[tuple[int, int]]) -> Tensor:
    """Features (n, N D) of single frames, in the world's scale."""
    rows = []
    for at in range(0, len(places), CHUNK):
        batch = data.batch(places[at : at + CHUNK], 1)
        rows.append(world.features(world.observe(None, batch.tokens, batch.states)).flatten(1))
    return torch.cat(rows)


class Ridge:
    """From x (n, d) to y (n, c), in kernel form: there are fewer frames than features.

    The strength of each of the c is chosen on the rows of `held` (n), which are of other episodes than the rest.
    """

    def __init__(self, x: Tensor, y: Tensor, held: Tensor):
        self.x_mean, self.y_mean = x.mean(0), y.mean(0)
        x = x - self.x_mean
        kernel, wanted = (x @ x.T).double(), y - self.y_mean
        scale = float(kernel.diagonal().mean())
        missed, solved = [], []
        for strength in STRENGTHS:
            weights = _solve(kernel[~held][:, ~held], wanted[~held], strength * scale)
            missed.append((kernel[held][:, ~held] @ weights - wanted[held]).square().mean(0))
            solved.append(_solve(kernel, wanted, strength * scale))
        chosen = torch.stack(missed).argmin(0)  # (c)
        self.strengths = [STRENGTHS[i] for i in chosen.tolist()]
        self.weights = x.T.double() @ torch.stack([solved[i][:, c] for c, i in enumerate(chosen.tolist())], dim=1)

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.x_mean).double() @ self.weights + self.y_mean


def _solve(kernel: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    return torch.linalg.solve(kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype), wanted)


def windows(places: list[Tensor], rng: np.random.Generator, count: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Of each kind up to `count` (episode, start), each with max(STEPS) frames behind it."""
    kinds: dict[str, list[tuple[int, int]]] = {"stays": [], "slides": [], "is lifted": []}
    for i, of in enumerate(places):
        rest = float(of[0, 5])  # the height on the table, from where every episode starts
        for t in range(len(of) - max(STEPS)):
            way = of[t : t + max(STEPS) + 1, 3:6]
            moved, above = (way - way[0]).norm(dim=1), way[:, 2] - rest
            if float(above[-1]) >= 0.03:
                kinds["is lifted"].append((i, t))
            elif float(moved.max()) <= 0.005:
                kinds["stays"].append((i, t))
            elif float(moved[-1]) >= 0.02 and float(above.max()) < 0.01:
                kinds["slides"].append((i, t))
    for kind, found in kinds.items():
        if found:
            yield kind, [found[j] for j in sorted(rng.permutation(len(found))[:count])]


@torch.no_grad()
def errors(
    world: WorldModel, ridge: Ridge, data: Episodes, places: list[Tensor], chosen: list[tuple[int, int]]
) -> dict[tuple[str, int, str], np.ndarray]:
    """Error (n) of each window by part, steps and picture: true, imagined or copied."""
    read: dict[tuple[str, int], list[Tensor]] = {}
    for at in range(0, len(chosen), CHUNK):
        some = chosen[at : at + CHUNK]
        batch = data.batch(some, max(STEPS) + 1)
        state = world.observe(None, batch.tokens[:, :1], batch.states[:, :1])
        imagined = rollout(world, state, batch.actions[:, None]).features[:, 0].flatten(2)  # (n, H, N D)
        first = seen(world, data, some)
        for k in STEPS:
            read.setdefault(("true", k), []).append(ridge(seen(world, data, [(i, t + k) for i, t in some])))
            read.setdefault(("imagined", k), []).append(ridge(imagined[:, k - 1]))
            read.setdefault(("copied", k), []).append(ridge(first))
    found = {}
    for (picture, k), parts in read.items():
        missed = torch.cat(parts) - torch.stack([places[i][t + k] for i, t in chosen])
        for part, columns in PARTS.items():
            found[part, k, picture] = (UNITS[part] * missed[:, columns].norm(dim=1)).numpy()
    return found


def interval(values: np.ndarray, episodes: np.ndarray, rng: np.random.Generator, draws: int = 1000) -> str:
    """Mean and 95 % bootstrap interval over episodes."""
    groups, inverse = np.unique(episodes, return_inverse=True)
    sums, counts = np.bincount(inverse, values), np.bincount(inverse)
    weight = resamples(len(groups), draws, rng)
    low, high = np.quantile((weight @ sums) / (weight @ counts), (0.025, 0.975))
    return f"{values.mean():.2f} ({low:.2f}–{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("world", "train", "heldout"):
        parser.add_argument(name)
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--windows", type=int, default=600, help="of each kind, at most")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(given.seed)
    _, world = load_world(given.world)
    train, heldout = (read_episodes(given.world, split) for split in ("train", "heldout"))
    manifests = [Manifest.load(path) for path in (given.train, given.heldout)]
    if {m.sha256 for m in manifests} != set(json.loads((Path(given.world) / "data.json").read_text()).values()):
        raise SystemExit(f"these are not the shards that {given.world} was trained on and measured with")
    places, known = map(truth, manifests)
    rows = [(i, t) for i, of in enumerate(places) for t in range(len(of))]
    rows = [rows[j] for j in rng.permutation(len(rows))[: given.frames]]
    held = torch.tensor([i % 5 == 0 for i, _ in rows])
    ridge = Ridge(seen(world, train, rows), torch.stack([places[i][t] for i, t in rows]), held)
    console = Console(width=120)
    strengths = ", ".join(f"{strength:g}" for strength in ridge.strengths)
    console.print(
        f"{given.world}: ridges of {strengths} (of {STRENGTHS[0]:g} to {STRENGTHS[-1]:g}) on {len(rows)} frames"
    )
    for kind, chosen in windows(known, rng, given.windows):
        episodes = np.array([i for i, _ in chosen])
        table = Table(title=f"the object {kind} in {max(STEPS)} steps: {len(chosen)} windows", title_justify="left")
        for column in ("", "steps", "true picture", "imagined", "copied"):
            table.add_column(column, justify="left" if not column else "right")
        found = errors(world, ridge, heldout, known, chosen)
        for part in PARTS:
            for k in STEPS:
                cells = [interval(found[part, k, p], episodes, rng) for p in ("true", "imagined", "copied")]
                table.add_row(part, str(k), *cells)
        console.print(table)


if __name__ == "__main__":
    main()
