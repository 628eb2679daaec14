"""The energy landscape of a world model: how far each single action would leave us from the goal.

A sign and scale test for a robot: the lowest energy should lie at the action that was really taken.
Source: the energy-landscape notebook of V-JEPA 2 (arXiv 2506.09985, figure 9).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa.models.encoder import Encoder, encode_frames
from jepa.planning.goals import LastStepL1
from jepa.worlds.base import WorldModel, score


@dataclass(frozen=True)
class Landscape:
    """energy (P, P) over [Δx, Δz], a mean over Δy; axis (P) in metres; lowest and action: (Δx, Δz) in metres."""

    axis: np.ndarray
    energy: np.ndarray
    lowest: tuple[float, float]
    action: tuple[float, float]


@torch.no_grad()
def energy_landscape(
    encoder: Encoder,
    world: WorldModel,
    frame: Tensor,
    goal: Tensor,
    pose: Tensor,
    action: Tensor,
    *,
    extent: float,
    points: int = 15,
    depth_points: int = 5,
) -> Landscape:
    """One-step energies over a grid of (Δx, Δz) with everything but Δy held at 0.

    Args:
        frame: (3, h, w) uint8, where the robot is. goal: (3, h, w) uint8, one or more steps later.
        pose: (7) its measured state at `frame`. action: (7) the action taken there, to be marked.
        extent: the grid covers ±extent metres on each axis.
        points: of Δx and of Δz. depth_points: of Δy, over which the energy is averaged.
    """
    axis = torch.linspace(-extent, extent, points)
    depth = torch.linspace(-extent, extent, depth_points)
    grid = torch.stack(torch.meshgrid(axis, axis, depth, indexing="ij"), dim=-1).reshape(-1, 3)
    candidates = torch.zeros(1, len(grid), 1, len(action))
    candidates[..., [0, 2, 1]] = grid[None, :, None]  # (Δx, Δz, Δy) -> action axes
    tokens = encode_frames(encoder, torch.stack([frame, goal])[None])  # (1, 2, N, D)
    proprio = pose[None, None]
    state = world.observe(None, tokens[:, :1], proprio)
    features = world.features(world.observe(None, tokens[:, 1:], proprio))
    energy = score(world, state, candidates, LastStepL1(features))
    energy = energy.reshape(points, points, depth_points).mean(dim=-1)
    i, k = divmod(int(energy.argmin()), points)
    return Landscape(
        axis=axis.numpy(),
        energy=energy.numpy(),
        lowest=(float(axis[i]), float(axis[k])),
        action=(float(action[0]), float(action[2])),
    )
