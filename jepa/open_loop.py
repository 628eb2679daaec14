"""Open-loop quality of a world model on held-out episodes: skill against copy-last-frame, use of the action."""

import math

import torch
from torch import Tensor

from jepa.encoded import Episodes
from jepa.worlds.base import Sequence, WorldModel


@torch.no_grad()
def open_loop(
    world: WorldModel, data: Episodes, horizons: tuple[int, ...] = (1, 4), chunk: int = 64
) -> dict[str, float]:
    """Figures over all windows of held-out episodes of more than max(horizons) frames, errors in mean L1.

    `skill@k` is 1 - error / error of copying the first frame: 0 is no better than copying. `shuffle@k` is the
    error with the actions of another window over the error with the true ones: 1 means the action is ignored.
    NaN is what is not defined: nothing moves, or there is one window only.
    """
    horizon = max(horizons)
    cut = sorted((s, i) for i, frames in enumerate(data.lengths) for s in range(0, frames - horizon, horizon))
    actions = torch.cat([data.window(i, s, horizon + 1).actions for s, i in cut])
    # Rows are ordered by window, then episode; no row may get its own actions back.
    first = sum(s == 0 for s, _ in cut)
    other = actions.roll((first // 2 + 1) % len(cut) or 1, dims=0)
    device = next((p.device for p in world.parameters()), torch.device("cpu"))
    errors = {name: torch.zeros(horizon) for name in ("model", "shuffled", "copy")}
    for at in range(0, len(cut), chunk):
        piece = data.batch([(i, s) for s, i in cut[at : at + chunk]], horizon + 1).to(device)
        errors["model"] += _errors(world, piece, piece.actions)
        errors["shuffled"] += _errors(world, piece, other[at : at + chunk].to(device))
        errors["copy"] += _errors(world, piece, None)
    figures = {}
    for k in horizons:
        model, shuffled, copy = (errors[name][k - 1].item() for name in ("model", "shuffled", "copy"))
        figures[f"skill@{k}"] = 1 - model / copy if copy else math.nan
        figures[f"shuffle@{k}"] = shuffled / model if model and len(cut) > 1 else math.nan
    return figures


def _errors(world: WorldModel, data: Sequence, actions: Tensor | None) -> Tensor:
    """Summed error (H) of predicting frames 1..H from frame 0 under `actions`; None copies frame 0."""
    state = world.observe(None, data.tokens[:, :1], data.states[:, :1])
    errors = []
    for k in range(1, data.tokens.shape[1]):
        if actions is not None:
            state = world.step(state, actions[:, k - 1]).state
        truth = world.features(world.observe(None, data.tokens[:, k : k + 1], data.states[:, k : k + 1]))
        errors.append((world.features(state) - truth).abs().mean((1, 2)).sum())
    return torch.stack(errors).cpu()
