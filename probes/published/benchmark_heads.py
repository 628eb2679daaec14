"""The heads of a sweep, shared out over ranks: all see the same tokens, and only scores travel."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from jepa.checkpoint_format import CheckpointError, read_state, reader
from jepa.engines.base import agree, processes, rank
from jepa.pieces import whole
from jepa.probes.stacked import Classifier, Outputs
from jepa.probes.sweep import Setting, Sweep

_NAMES = {"values": "model/{}", "mean": "optimizer/{}/mean", "square": "optimizer/{}/square"}  # in a checkpoint


class RankHeads:
    """The heads of a sweep, of which this rank trains every `world`-th: they exchange scores, and no gradients.

    `make(i)` builds head i, on the CPU, and must not depend on the rank. `left` numbers the heads of all ranks that
    are not dropped, `own` those of them that are here; `settings` are those of all heads there ever were, and `steps`
    counts the updates, on every rank alike.
    """

    def __init__(
        self, make: Callable[[int], Classifier], settings: Sequence[Setting], accelerator: Accelerator
    ) -> None:
        self.settings, self.device = tuple(settings), accelerator.device
        self.left = list(range(len(settings)))
        self.steps = 0
        self._first = self.left[rank() :: processes()]
        self._sweep = (
            Sweep([make(i).to(self.device) for i in self._first], [settings[i] for i in self._first])
            if self._first
            else None
        )

    @property
    def own(self) -> list[int]:
        """The heads that are here."""
        return [self._first[i] for i in self._sweep.ids] if self._sweep else []

    def setting(self, head: int) -> dict[str, float]:
        """What a head is known by in results: its learning rate and weight decay."""
        return {"lr": self.settings[head].lr, "weight_decay": self.settings[head].weight_decay}

    def step(self, tokens: Tensor, loss: Callable[[Outputs, slice], Tensor], share: float) -> float:
        """One update of the heads here on tokens (B, K, D), as `Sweep.step`; returns the least of their losses."""
        self.steps += 1  # also where no head is left: this rank may be the one that writes it down
        if not self.own or self._sweep is None:
            return float("nan")
        return float(self._sweep.step(tokens, loss, share).nan_to_num(torch.inf).min())

    def predict(self, tokens: Tensor) -> Outputs | None:
        """Tokens (B, K, D) -> outputs (heads, B, C) of the heads here, or a tuple of such; None where none is."""
        return self._sweep.predict(tokens) if self._sweep and self.own else None

    def together(self, scores: Sequence[float]) -> dict[int, float]:
        """Scores (>= 0) of the heads here -> those of all heads that are left, by number, the same on every rank."""
        mine = dict(zip(self.own, scores, strict=True))
        return dict(zip(self.left, agree([mine.get(i, -1.0) for i in self.left], self.device), strict=True))

    def keep(self, which: Sequence[int]) -> None:
        """Drop all heads but these."""
        own = [place for place, i in enumerate(self.own) if i in which]
        self.left = [i for i in self.left if i in which]
        if self._sweep:
            self._sweep.keep(own)

    def pieces(self) -> dict:
        """What this rank saves: views of weights and moments, by head, so that any number of ranks can go on."""
        state = self._sweep.state_dict() if self._sweep else {}
        return {n.format(i): whole(state[key][row]) for row, i in enumerate(self.own) for key, n in _NAMES.items()}

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint, whatever ranks wrote it. Raises CheckpointError where it does not fit."""
        extra, read = read_state(folder)["extra"], reader(folder)
        self.keep(extra["left"])
        self.steps = extra["steps"]
        if not self._sweep or not self.own:
            return
        rows = {key: [read(name.format(i)) for i in self.own] for key, name in _NAMES.items()}
        try:
            tensors = {key: torch.stack(found) for key, found in rows.items()}  # type: ignore[arg-type]
            counts = {"ids": torch.tensor(self._sweep.ids), "steps": torch.tensor(self.steps)}
            self._sweep.load_state_dict({**tensors, **counts})
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder} is of other heads; choose another out=… or remove it") from error
