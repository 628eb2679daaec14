"""Many attentive heads trained on the same tokens at once, each with its own learning rate and weight decay (AdamW)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from jepa.probes.stacked import Classifier, Outputs, Stacked

LARGEST = {"cpu": 2**23, "cuda": 2**28}
"""Numbers in an activation of one pass. On a CPU more than 32 MiB come from fresh pages each time, which is slower than
the arithmetic that a larger batch saves; on a GPU memory is what limits: this is some 12 GiB at depth 4."""


@dataclass(frozen=True)
class Setting:
    """AdamW of one head, for all its parameters; schedules go by the share of the training that is done.

    The learning rate warms up linearly from `start_lr` over the share `warmup`, then falls to 0 along a cosine.
    Weight decay goes to `final_weight_decay` along a cosine over the whole; None: it is constant.
    """

    lr: float
    weight_decay: float
    start_lr: float = 0.0
    warmup: float = 0.0
    final_weight_decay: float | None = None

    def lr_at(self, share: float) -> float:
        """The learning rate where `share` (0 to 1) of the training is done."""
        if share < self.warmup:
            return self.start_lr + (self.lr - self.start_lr) * share / self.warmup
        return self.lr * _fall((share - self.warmup) / (1 - self.warmup))

    def weight_decay_at(self, share: float) -> float:
        """The weight decay where `share` (0 to 1) of the training is done."""
        if self.final_weight_decay is None:
            return self.weight_decay
        return self.final_weight_decay + (self.weight_decay - self.final_weight_decay) * _fall(share)


class Sweep:
    """Heads that are trained side by side, one `Setting` each; they are where `models` are, and never mix.

    A head whose numbers are no longer finite stays so, and leaves the others alone. `settings` and `ids` are those of
    the heads that are left; `ids` count from 0 in the order that was given.
    """

    def __init__(self, models: Sequence[Classifier], settings: Sequence[Setting]) -> None:
        if len(models) != len(settings):
            raise ValueError(f"{len(models)} heads and {len(settings)} settings")
        self.stacked = Stacked(models)
        self.settings = tuple(settings)
        self.ids = tuple(range(len(models)))
        self.mean, self.square = (torch.zeros_like(self.stacked.values) for _ in range(2))
        self.steps = 0

    def __len__(self) -> int:
        return len(self.ids)

    def step(self, tokens: Tensor, loss: Callable[[Outputs, slice], Tensor], share: float) -> Tensor:
        """One update of every head on tokens (B, K, D), `share` of the training being done; returns losses (heads).

        Where activations would be too large, rows and heads take turns. `loss` turns the outputs (n, b, C), or a tuple
        of such, of n heads on a slice of the rows into what these rows add (n) to the loss of each head.

        Tokens may lie in any memory and have any float type: a slice at a time goes to the heads.
        """
        slices, turns = self._turns(tokens)
        rows_of_heads = [self.stacked.values[heads].detach().requires_grad_() for heads in turns]
        losses = self.stacked.values.new_zeros(len(self))
        for rows in slices:
            part = self._moved(tokens[rows])
            for heads, values in zip(turns, rows_of_heads, strict=True):
                added = loss(self.stacked(part, values), rows)
                added.sum().backward()
                losses[heads] += added.detach()
                if rows is slices[-1]:
                    assert values.grad is not None
                    self._update(heads, values.grad, share)
                    values.grad = None  # without slices the gradients of only these heads are ever in memory
        self.steps += 1
        return losses

    @torch.no_grad()
    def predict(self, tokens: Tensor) -> Outputs:
        """Tokens (B, K, D), as for `step` -> outputs (heads, B, C) of the heads that are left, or a tuple of such."""
        slices, turns = self._turns(tokens)
        found = []
        for rows in slices:
            part = self._moved(tokens[rows])
            found.append(_joined([self.stacked(part, self.stacked.values[heads]) for heads in turns], dim=0))
        return _joined(found, dim=1)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all heads but these, numbered among those that are left, with their moments; they get this order."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.mean.device)
        self.settings = tuple(self.settings[i] for i in rows)
        self.ids = tuple(self.ids[i] for i in rows)
        self.stacked.values, self.mean, self.square = (
            x.index_select(0, index) for x in (self.stacked.values, self.mean, self.square)
        )

    def models(self) -> list[Classifier]:
        """The heads that are left as plain classifiers, with copies of their weights."""
        return self.stacked.models()

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and moments (heads, P), the ids of the heads, and the number of steps; no copies."""
        counts = {"ids": torch.tensor(self.ids), "steps": torch.tensor(self.steps)}
        return {"values": self.stacked.values, "mean": self.mean, "square": self.square, **counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from such a state; heads that had been dropped in it are dropped.

        Raises:
            ValueError: the state has other heads, or heads of another shape.
        """
        ids = state["ids"].tolist()
        if not set(ids) <= set(self.ids) or state["values"].shape[1:] != self.mean.shape[1:]:
            raise ValueError("the state is of a sweep over other heads")
        self.keep([self.ids.index(i) for i in ids])
        for mine, theirs in ((self.stacked.values, "values"), (self.mean, "mean"), (self.square, "square")):
            mine.copy_(state[theirs])
        self.steps = int(state["steps"])

    def _turns(self, tokens: Tensor) -> tuple[list[slice], list[slice]]:
        """Rows, and heads: as many at a time as `LARGEST` allows, at least one."""
        limit = LARGEST.get(self.mean.device.type, LARGEST["cuda"])
        largest = self.stacked.largest(tokens[:1])
        rows = min(len(tokens), max(1, limit // max(largest, tokens[0].numel())))
        return _slices(len(tokens), rows), _slices(len(self), max(1, limit // (largest * rows)))

    def _moved(self, tokens: Tensor) -> Tensor:
        """Tokens as the heads read them; half precision stays so on the way, which is half as long."""
        return tokens.to(self.mean.device).to(self.mean.dtype)

    @torch.no_grad()
    def _update(self, rows: slice, gradients: Tensor, share: float) -> None:
        """AdamW of the heads `rows`, gradients (n, P); one fused pass over all parameters of a head."""
        state = zip(self.stacked.values[rows], self.mean[rows], self.square[rows], strict=True)
        for setting, gradient, (values, mean, square) in zip(self.settings[rows], gradients, state, strict=True):
            adamw(
                [values],
                [gradient],
                [mean],
                [square],
                max_exp_avg_sqs=[],
                state_steps=[torch.full((), float(self.steps), device=values.device)],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=setting.lr_at(share),
                weight_decay=setting.weight_decay_at(share),
                eps=1e-8,
                maximize=False,
            )


def rungs(halving: int) -> list[float]:
    """Shares of the training at which the worse half of the heads goes: 1/8, 1/4, 1/2 for three halvings.

    Successive halving, arXiv 1502.07943. Of 20 heads 10, 5 and 3 stay, for 33 % of the work of all 20.
    """
    return [2.0**-k for k in range(halving, 0, -1)]


def better_half(scores: Sequence[float]) -> list[int]:
    """Places, rising, of the better half of the scores; of an odd number the larger part, of equals the first."""
    order = sorted(range(len(scores)), key=lambda i: scores[i], reverse=True)
    return sorted(order[: math.ceil(len(scores) / 2)])


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _joined(parts: Sequence[Outputs], dim: int) -> Outputs:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim)  # type: ignore[arg-type]  # all are what the first is
    return tuple(torch.cat(each, dim) for each in zip(*parts, strict=True))


def _fall(share: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * share))
