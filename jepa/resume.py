"""Where a run goes on from: its newest valid checkpoint, also when loss or gradient stay not finite."""

from pathlib import Path
from typing import Any

from jepa.checkpoint import latest
from jepa.checkpoint_format import folder_of, read_state, reader, step_of
from jepa.engines.base import Engine, agree, rank
from jepa.logs import console

RETURNS = 3
"""How often a run goes back without a good step beyond the bad ones, before it gives up."""


def go_on(out: Path, engine: Engine) -> tuple[int, dict[str, Any]]:
    """Load the newest valid checkpoint of `out`; returns its step, 0 where there is none, and what else it holds.

    The main process chooses; damaged ones are named and passed over. Raises CheckpointError where it does not fit.
    """
    step = 0
    if rank() == 0:
        folder, problems = latest(out)
        for problem in problems:
            console.print(f"[yellow]{problem}", soft_wrap=True)
        step = step_of(folder) if folder else 0
    step = int(agree([step], engine.device)[0])
    if step == 0:
        return 0, {}
    engine.load(reader(folder_of(out, step)))
    return step, read_state(folder_of(out, step))["extra"]


class Setbacks:
    """Counts steps in a row that were not finite; after `most` of them (0: never) the run goes back.

    It then passes over all steps from the checkpoint to the last bad one: what led to the trouble is among them.
    `state` is that of an earlier part of the run, or empty.
    """

    def __init__(self, out: Path, engine: Engine, most: int, state: dict[str, Any]) -> None:
        self.out, self._engine, self._most = out, engine, most
        self.row: int = state.get("row", 0)
        """Steps in a row, up to the present one, that were not finite: the weights are no place to come back to."""
        self._spans: list[list[int]] = state.get("passed_over", [])
        self._last, self._returns = state.get("last", 0), state.get("returns", 0)

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON."""
        return {"row": self.row, "passed_over": self._spans, "last": self._last, "returns": self._returns}

    def passes_over(self, step: int) -> bool:
        """Whether the data of `step` are not trained on."""
        return any(first <= step <= last for first, last in self._spans)

    def too_many(self, step: int, record: dict[str, Any]) -> bool:
        """Whether with this step the run has to go back."""
        self.row = self.row + 1 if "nonfinite" in record else 0
        if step > self._last and not self.row and "passed_over" not in record:
            self._returns = 0  # the last one has helped
        return bool(self._most) and self.row >= self._most

    def go_back(self, step: int) -> tuple[int, str]:
        """Load the newest checkpoint; returns its step, and a line for people.

        Raises:
            FloatingPointError: there is none, or the run has gone back too often without a good step beyond.
        """
        bad = f"loss or gradient was not finite at steps {step - self.row + 1} to {step}"
        advice = "lower loop.optim.lr or set loop.optim.clip, with another out=…"
        to, _ = go_on(self.out, self._engine)
        self._last, self._returns = step, self._returns + 1
        if to == 0:
            raise FloatingPointError(f"{bad}, and there is no checkpoint to go back to; {advice}")
        if self._returns > RETURNS:
            raise FloatingPointError(f"{bad}, and going back {RETURNS} times did not help; {advice}")
        self._spans.append([to + 1, step])
        self.row = 0
        return to, f"{bad}: back to the checkpoint of step {to}, and past the data of steps {to + 1} to {step}"
