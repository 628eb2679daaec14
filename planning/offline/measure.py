"""What `jepa plan offline` measures: starts and goals in held-out episodes, and errors against the logged actions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.data.index import Manifest
from jepa.encode import trajectories
from jepa.logs import progress_bar
from jepa.models.encoder import Encoder
from jepa.planning.check.fit import interval, weights
from jepa.planning.placement import tokens_of
from jepa.runs import Reading

FEWEST = 5  # episodes: an interval over fewer says nothing
KINDS: dict[str, Callable[[Tensor], Tensor]] = {  # what is compared of actions (n, k, A)
    "first": lambda actions: actions[:, 0],
    "sum": lambda actions: actions.sum(1),
}


@dataclass(frozen=True)
class Starts:
    """n starts in F frames. tokens (F, N, D) in half precision; states (F, S); of each start:

    at (n), its frame, with goals behind it; actions (n, K, A), those logged from there on; episode (n).
    """

    tokens: Tensor
    states: Tensor
    at: Tensor
    actions: Tensor
    episode: np.ndarray

    def pair(self, part: slice, horizon: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, 2, N, D) at some starts and `horizon` frames later, and the states (B, S) at the starts."""
        at = self.at[part]
        return torch.stack((self.tokens[at], self.tokens[at + horizon]), dim=1).float(), self.states[at]


@torch.no_grad()
def starts(
    manifest: Manifest,
    encoder: Encoder,
    reading: Reading,
    furthest: int,
    every: int,
    count: int,
    precision: str = "fp32",
) -> Starts:
    """Every `every`-th frame with `furthest` others after it, of the first `count` samples, read as in training.

    Raises:
        ConfigError: no actions, none at this rate, no extrinsics, or too few episodes that are long enough.
    """
    parts: list[tuple[Tensor, ...]] = []
    ids: list[int] = []
    views: dict[bytes, int] = {}  # the cameras of one episode share its numbers, and count as one
    frames = 0
    with progress_bar() as bar:
        task = bar.add_task("offline: encode", total=min(count, len(manifest)), figures="")
        for seen in islice(trajectories(manifest, encoder.config.size, reading), count):
            actions, states = seen.actions, seen.states
            bar.advance(task)
            if len(actions) < furthest:
                continue
            first = torch.arange(0, len(actions) - furthest + 1, every)
            logged = actions[first[:, None] + torch.arange(furthest)]  # (n, K, A)
            tokens = [tokens_of(encoder, part[None], precision)[0].half().cpu() for part in seen.frames.split(64)]
            parts.append((torch.cat(tokens), seen.proprio, frames + first, logged))
            ids += [views.setdefault(actions.numpy().tobytes() + states.numpy().tobytes(), seen.id)] * len(first)
            frames += len(seen.frames)
    if len(views) < FEWEST:
        raise ConfigError(
            f"{manifest.location}: {len(views)} episodes of more than {furthest} frames; intervals need {FEWEST}"
        )
    return Starts(*(torch.cat(part) for part in zip(*parts, strict=True)), np.array(ids))


def summarise(
    rows: Mapping[str, Tensor], logged: Tensor, episode: np.ndarray, units: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    """Figures of each row's first action, and of the displacement that its actions add up to: {row: {kind: …}}.

    `error` is absolute, in the action's units; `less` says by how much it is below that of doing nothing from the same
    starts; `skill` is 1 - error / error of doing nothing; `correlation` is that with the logged action. Each of them
    stands under every axis ("0", "1", …) and every unit, as the mean over its axes: (value, low, high) with a 95 %
    bootstrap over episodes, or None where it is not defined.

    Args:
        rows: actions (n, k, A) by name. logged: (n, k, A). episode: (n). units: of each axis.
    """
    ids = np.unique(episode)
    counts, of = weights(len(ids), rng), (episode == ids[:, None]).astype(float)  # (R, E), (E, n)
    share = counts @ of / (counts @ of.sum(1))[:, None]  # (R, n): the data first, then every resample of episodes
    found: dict[str, Any] = {row: {} for row in rows}
    for kind, pick in KINDS.items():
        true = pick(logged).double().numpy()
        nothing = share @ _with_units(np.abs(true), units)  # (R, U + A)
        for row, actions in rows.items():
            taken = pick(actions).double().numpy()
            error = share @ _with_units(np.abs(taken - true), units)
            skill = 1 - error / np.where(nothing > 0, nothing, np.nan)
            together = _with_units(_correlation(share, taken, true), units)
            figures = {"error": error, "less": nothing - error, "skill": skill, "correlation": together}
            found[row][kind] = {name: _intervals(values, units) for name, values in figures.items()}
    return found


def _correlation(share: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's, of each column of x and y (n, A), for every resample (R, A); NaN where one of them does not vary."""
    x, y = x - x.mean(0), y - y.mean(0)
    variances = [share @ v**2 - (share @ v) ** 2 for v in (x, y)]
    least = [1e-9 * np.maximum((v**2).mean(0), 1e-12) for v in (x, y)]
    product = np.prod([np.where(v > low, v, np.nan) for v, low in zip(variances, least, strict=True)], axis=0)
    return (share @ (x * y) - (share @ x) * (share @ y)) / np.sqrt(product)


def _with_units(values: np.ndarray, units: Sequence[str]) -> np.ndarray:
    """Columns of axes (…, A) -> (…, U + A), with the means over the axes of each unit before them."""
    means = [values[:, [other == unit for other in units]].mean(1) for unit in dict.fromkeys(units)]
    return np.column_stack([*means, values])


def _intervals(values: np.ndarray, units: Sequence[str]) -> dict[str, tuple[float, float, float] | None]:
    """(R, U + A) -> of each unit and axis, the value on the data and its 95 % interval."""
    names = [*dict.fromkeys(units), *map(str, range(len(units)))]
    known = np.isfinite(values).all(0)
    return {n: (float(v[0]), *interval(v)) if ok else None for n, v, ok in zip(names, values.T, known, strict=True)}
