"""The energy landscape of a world model: how far each single action would leave us from the goal.

A sign and scale test for a robot: the lowest energy should lie at the action that was really taken.
Source: the energy-landscape notebook of V-JEPA 2 (arXiv 2506.09985, figure 9).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa.models.encoder import Encoder
from jepa.planning.goals import LastStepL1
from jepa.planning.placement import device_of, tokens_of
from jepa.worlds.base import Goal, State, WorldModel, score


@dataclass(frozen=True)
class Landscape:
    """energy (P, P) over [Δa, Δb], a mean over the third axis of x, y, z; in metres, as axis (P), which both share.

    lowest: where it is least; action: what was really done, both (Δa, Δb). `axes` are the numbers of a and b in xyz.
    """

    axis: np.ndarray
    energy: np.ndarray
    lowest: tuple[float, float]
    action: tuple[float, float]
    axes: tuple[int, int] = (0, 2)


@torch.no_grad()
def energy_landscape(
    encoder: Encoder,
    world: WorldModel,
    frame: Tensor,
    goal: Tensor,
    proprio: Tensor,
    action: Tensor,
    *,
    extent: float,
    axes: tuple[int, int] = (0, 2),
    points: int = 15,
    depth_points: int = 5,
) -> Landscape:
    """One-step energies over a grid of two of Δx, Δy, Δz with everything but the third held at 0.

    Args:
        frame: (3, h, w) uint8, where the robot is. goal: (3, h, w) uint8, one or more steps later.
        proprio: (S) its measured state at `frame`. action: (7) the action taken there, to be marked.
        extent: the grid covers ±extent metres on each axis.
        axes: the two of the grid, as numbers of x, y, z.
        points: of each of them. depth_points: of the third, over which the energy is averaged.
    """
    first, second = axes
    axis = torch.linspace(-extent, extent, points)
    depth = torch.linspace(-extent, extent, depth_points)
    grid = torch.stack(torch.meshgrid(axis, axis, depth, indexing="ij"), dim=-1).reshape(-1, 3)
    candidates = torch.zeros(1, len(grid), 1, len(action))
    candidates[..., [first, second, 3 - first - second]] = grid[None, :, None]
    state, energy_of = facing(world, tokens_of(encoder, torch.stack([frame, goal])[None]), proprio[None])
    energy = scored(world, state, candidates, energy_of)
    energy = energy.reshape(points, points, depth_points).mean(dim=-1)
    i, k = divmod(int(energy.argmin()), points)
    return Landscape(
        axis=axis.numpy(),
        energy=energy.numpy(),
        lowest=(float(axis[i]), float(axis[k])),
        action=(float(action[first]), float(action[second])),
        axes=axes,
    )


def facing(world: WorldModel, tokens: Tensor, proprio: Tensor) -> tuple[State, Goal]:
    """The state at the first and the goal of the second of two encoded frames (B, 2, N, D), with states (B, S).

    Both lie where the world does, wherever frames and states are.
    """
    tokens, states = tokens.to(device_of(world)), proprio[:, None].to(device_of(world))
    features = world.features(world.observe(None, tokens[:, 1:], states))
    return world.observe(None, tokens[:, :1], states), LastStepL1(features)


def scored(world: WorldModel, state: State, actions: Tensor, goal: Goal) -> Tensor:
    """`score` of candidates (B, S, H, A) where the world lies; both they and their costs (B, S) are the CPU's."""
    return score(world, state, actions.to(device_of(world)), goal).cpu()


@torch.no_grad()
def lowest(
    world: WorldModel, state: State, goal: Goal, reach: Tensor, *, points: int = 11, sweeps: int = 2
) -> tuple[Tensor, Tensor]:
    """The single action (B, A) of least energy, and that energy (B), searched along one axis after the other from 0.

    Each axis is tried at `points` places within ±`reach` (A), with the others held at the best found so far, and the
    place is refined by a parabola through the lowest three. Axes of reach 0 stay at 0.
    """
    rows = next(iter(state.values())).shape[0]
    best = reach.new_zeros(rows, len(reach))
    for axis in reach.nonzero()[:, 0].tolist() * sweeps:
        places = torch.linspace(-1, 1, points) * reach[axis]
        candidates = best[:, None].repeat(1, points, 1)  # (B, P, A)
        candidates[..., axis] = places
        energy = scored(world, state, candidates[:, :, None], goal)  # (B, P)
        best[:, axis] = _vertex(places, energy)
    return best, scored(world, state, best[:, None, None], goal)[:, 0]


def _vertex(places: Tensor, energy: Tensor) -> Tensor:
    """Where a parabola through the least of `energy` (B, P) and its neighbours is lowest (B); the ends stay ends.

    Of equal energies, as of a gripper that cannot close further, the smallest action counts.
    """
    nearest = places.abs().argsort(stable=True)
    least = nearest[energy[:, nearest].argmin(1)]
    inner = least.clamp(1, len(places) - 2)
    before, here, after = (energy.gather(1, (inner + step)[:, None])[:, 0] for step in (-1, 0, 1))
    bend = (before - 2 * here + after).clamp(min=torch.finfo(energy.dtype).tiny)
    refined = places[inner] + ((before - after) / (2 * bend)).clamp(-1, 1) * (places[1] - places[0])
    return torch.where(least == inner, refined, places[least])
