"""Open-loop quality of a world model on held-out episodes: skill against copy-last-frame, use of the action."""

import torch
from torch import Tensor

from jepa.worlds.base import Sequence, WorldModel


@torch.no_grad()
def open_loop(
    world: WorldModel, data: Sequence, horizons: tuple[int, ...] = (1, 4), chunk: int = 64
) -> dict[str, float]:
    """Figures over all windows of held-out sequences (n, T, …) with T > max(horizons), errors in mean L1.

    `skill@k` is 1 - error / error of copying the first frame: 0 is no better than copying. `shuffle@k` is the
    error with the actions of another window over the error with the true ones: 1 means the action is ignored.
    """
    horizon = max(horizons)
    starts = range(0, data.tokens.shape[1] - horizon, horizon)
    cut = [slice(s, s + horizon + 1) for s in starts]
    tokens = torch.cat([data.tokens[:, c] for c in cut])
    states = torch.cat([data.states[:, c] for c in cut])
    actions = torch.cat([data.actions[:, c.start : c.stop - 1] for c in cut])
    other = actions.roll(len(data.tokens) // 2 + 1, dims=0)  # rows are ordered by window, then episode
    device = next((p.device for p in world.parameters()), torch.device("cpu"))
    errors = {name: torch.zeros(horizon) for name in ("model", "shuffled", "copy")}
    for i in range(0, len(tokens), chunk):
        part = slice(i, i + chunk)
        piece = Sequence(tokens[part], actions[part], states[part]).to(device)
        errors["model"] += _errors(world, piece, piece.actions)
        errors["shuffled"] += _errors(world, piece, other[part].to(device))
        errors["copy"] += _errors(world, piece, None)
    figures = {}
    for k in horizons:
        model, shuffled, copy = (errors[name][k - 1].item() for name in ("model", "shuffled", "copy"))
        figures |= {f"skill@{k}": 1 - model / copy, f"shuffle@{k}": shuffled / model}
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
