"""What `jepa plan check` measures: held-out transitions, and where a world's energies are lowest for them."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jepa.config import ConfigError
from jepa.data.index import Manifest
from jepa.encode import trajectories
from jepa.logs import progress_bar
from jepa.models.encoder import Encoder
from jepa.planning.embodiment import Adapter
from jepa.planning.landscape import Landscape, energy_landscape, facing, lowest, scored
from jepa.planning.placement import tokens_of
from jepa.pose import delta
from jepa.runs import Reading
from jepa.worlds.base import WorldModel

FEWEST = 5  # episodes: an interval over fewer says nothing
CHUNK = 32  # transitions searched together
LARGEST = torch.tensor([0.3] * 3 + [0.6] * 3 + [1.0])  # m, rad, closedness: no axis is searched further
SHIFTS = (64, 16)  # the camera is moved by the image's side over these
SHIFTED = 16  # transitions, of as many episodes
PLANES = ((0, 1), (0, 2))


@dataclass(frozen=True)
class Transitions:
    """frames (n, 2, 3, h, w) uint8, before and after; tokens (n, 2, N, D); pose, change (n, 7); episode (n).

    camera: (n, 6) its pose, for a world that reads it; (n, 0) else.
    """

    frames: Tensor
    tokens: Tensor
    pose: Tensor
    camera: Tensor
    change: Tensor
    episode: np.ndarray

    @property
    def proprio(self) -> Tensor:
        """What the world reads beside the pictures (n, 7 or 13)."""
        return torch.cat((self.pose, self.camera), dim=1)

    @property
    def firsts(self) -> np.ndarray:
        """The number of each episode's first transition."""
        return np.unique(self.episode, return_index=True)[1]


def search_range(world: WorldModel, adapter: Adapter) -> Tensor:
    """(7) how far each axis is searched, above 0: half as far again as the embodiment's limit, at most `LARGEST`.

    A limit of 0 binds the planner, not the recordings: such an axis is searched as far as without a limit, to thrice
    the spread of the actions in training. Where that is not known (`layer_norm` worlds say 1) it is `LARGEST`.

    Raises:
        ConfigError: the world's actions are not of 7 numbers.
    """
    spread = getattr(world, "action_scale", torch.ones(7)).cpu().float()
    if len(spread) != 7:
        raise ConfigError(
            f"the world model takes actions of {len(spread)} numbers; the check is of those of 7, changes of a pose: "
            "xyz in metres, rotation in radians, closedness of the gripper. `jepa plan offline` compares plans with "
            "logged actions of any width"
        )
    limit = torch.tensor(adapter.embodiment.action_limit or (0.0,) * 7)
    return torch.minimum(torch.where(limit > 0, 1.5 * limit, 3 * spread), LARGEST)


@torch.no_grad()
def transitions(
    manifest: Manifest, encoder: Encoder, reading: Reading, adapter: Adapter, reach: Tensor, count: int, each: int
) -> Transitions:
    """The `each` largest actions of each of the first `count` samples, read as in training.

    Largest in units of `reach`, along the axes that the embodiment's limits leave free.

    With `reading.fps` frames are left out, and the changes of pose between the others stand in for actions.

    Raises:
        ConfigError: no actions, states or extrinsics, of another width than the adapter's, or too few episodes.
    """
    limit = torch.tensor(adapter.embodiment.action_limit or (1.0,) * 7)
    told = limit > 0 if limit.any() else limit == 0  # the axes that will be planned
    parts: list[tuple[Tensor, ...]] = []
    ids: list[int] = []
    views: dict[bytes, int] = {}  # the cameras of one episode share its numbers, and count as one
    with progress_bar() as bar:
        task = bar.add_task("check: encode", total=min(count, len(manifest)), figures="")
        for seen in islice(trajectories(manifest, encoder.config.size, reading), count):
            bar.advance(task)
            if not len(seen.actions):
                continue
            actions, states = seen.actions.double(), seen.states.double()
            poses = adapter.pose(states)
            between = delta(poses[:-1], poses[1:]) if reading.fps > 0 else adapter.change(actions, states[:-1])
            change = between.float()
            at = (change / reach)[:, told].norm(dim=-1).topk(min(each, len(change))).indices
            frames = seen.frames[torch.stack([at, at + 1], 1)]  # (n, 2, 3, h, w)
            parts.append((frames, tokens_of(encoder, frames).cpu(), poses[at].float(), seen.camera[at], change[at]))
            ids += [views.setdefault(actions.numpy().tobytes() + states.numpy().tobytes(), seen.id)] * len(at)
    if len(views) < FEWEST:
        raise ConfigError(f"{manifest.location}: {len(views)} episodes; the check needs at least {FEWEST}")
    return Transitions(*(torch.cat(part) for part in zip(*parts, strict=True)), np.array(ids))


@torch.no_grad()
def search(world: WorldModel, data: Transitions, reach: Tensor, sweeps: int = 2) -> tuple[Tensor, Tensor]:
    """`landscape.lowest` for all transitions: actions (n, 7) and energies (n)."""
    found = []
    with progress_bar() as bar:
        task = bar.add_task("check: search", total=len(data.pose), figures="")
        for part in torch.arange(len(data.pose)).split(CHUNK):
            found.append(lowest(world, *facing(world, data.tokens[part], data.proprio[part]), reach, sweeps=sweeps))
            bar.advance(task, len(part))
    return torch.cat([action for action, _ in found]), torch.cat([energy for _, energy in found])


@torch.no_grad()
def falls(world: WorldModel, data: Transitions, reach: Tensor) -> Tensor:
    """(n, 7) the energy of a single action a third of the reach down each axis minus that of one as far up."""
    steps = torch.diag(reach / 3)
    fell = []
    for part in torch.arange(len(data.pose)).split(CHUNK):
        state, goal = facing(world, data.tokens[part], data.proprio[part])
        energy = scored(world, state, torch.cat([-steps, steps]).expand(len(part), -1, -1)[:, :, None], goal)  # (b, 14)
        fell.append(energy[:, :7] - energy[:, 7:])
    return torch.cat(fell)


@torch.no_grad()
def logged_energy(world: WorldModel, data: Transitions) -> Tensor:
    """(n) the energy of the actions that were taken: how far their imagined outcome is from the frame that followed."""
    found = []
    for part in torch.arange(len(data.pose)).split(CHUNK):
        state, goal = facing(world, data.tokens[part], data.proprio[part])
        found.append(scored(world, state, data.change[part, None, None], goal)[:, 0])
    return torch.cat(found)


@torch.no_grad()
def camera_shifts(encoder: Encoder, world: WorldModel, data: Transitions, reach: Tensor) -> list[dict[str, Any]]:
    """How far the lowest move (median, m) goes if the camera had stood so that pictures shift by some pixels.

    `both`: it stands elsewhere than in training. `goal`: it was nudged after the goal's picture was taken. Pictures
    are shifted right and down; only x, y, z are searched, for one transition of each of some episodes.
    """
    one = torch.from_numpy(data.firsts[:SHIFTED])
    frames, proprio, side = data.frames[one], data.proprio[one], data.frames.shape[-1]
    moves = reach * torch.tensor([1.0] * 3 + [0.0] * 4)

    def found(seen: Tensor) -> Tensor:
        return lowest(world, *facing(world, tokens_of(encoder, seen), proprio), moves, sweeps=1)[0]

    before, rows = found(frames), []
    for pixels in dict.fromkeys(max(1, side // share) for share in SHIFTS):
        row: dict[str, Any] = {"pixels": pixels, "of": side}
        for name, moved in (("both", slice(0, 2)), ("goal", slice(1, 2))):
            ways = []
            for right, down in ((pixels, 0), (0, pixels)):
                seen = frames.clone()
                seen[:, moved] = shift(frames[:, moved], right, down)
                ways.append((found(seen) - before).norm(dim=1))
            row[name] = float(torch.cat(ways).median())
        rows.append(row)
    return rows


def shift(frames: Tensor, right: int, down: int) -> Tensor:
    """Pictures (n, t, 3, h, w) uint8 moved by some pixels, the edge repeated."""
    padded = nn.functional.pad(frames.float(), (right, 0, down, 0, 0, 0), mode="replicate")
    return padded[..., : frames.shape[-2], : frames.shape[-1]].to(frames.dtype)


def landscapes(
    encoder: Encoder, world: WorldModel, data: Transitions, which: np.ndarray, reach: Tensor
) -> dict[str, list[Landscape]]:
    """Energies of single moves over the planes xy and xz, for the transitions `which`."""
    grid: dict[str, Any] = {"extent": float(reach[:3].max()), "points": 11, "depth_points": 3}
    found: dict[str, list[Landscape]] = {}
    for plane in PLANES:
        name = "Δ" + ", Δ".join("xyz"[axis] for axis in plane)
        parts = [(data.frames[i, 0], data.frames[i, 1], data.proprio[i], data.change[i]) for i in which.tolist()]
        found[name] = [energy_landscape(encoder, world, *part, axes=plane, **grid) for part in parts]
    return found
