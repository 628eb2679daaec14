"""What a dashboard needs of a training run's records, in constant space, and how well the run is by them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jepa.alarms import AlarmConfig

Record = dict[str, Any]

BINS = 240  # of the loss curve, twice that at most
RECENT = 50  # steps that a usual value is a mean over, roughly
FRESH = 100  # steps that an alarm keeps its light red
COLLAPSE = {"feature_std": "feature std", "health/rankme": "RankMe", "health/std_over_time": "std over time"}
LOW = 0.5  # of the early value of a figure of COLLAPSE: worth a look
SLOW = 0.1  # of a step's time spent waiting for data: worth a look
ALARMING = AlarmConfig()


class Light(NamedTuple):
    """How one side of a run is: `colour` is green, yellow, red, or grey where nothing was measured."""

    colour: str
    name: str
    text: str


class Curve:
    """Means over equal spans of any number of values; a span doubles whenever there are too many."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self._span, self._sum, self._count = 1, 0.0, 0

    def add(self, value: float) -> None:
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count == self._span:
            self.means.append(self._sum / self._span)
            self._sum, self._count = 0.0, 0
        if len(self.means) == 2 * BINS:
            self.means = [(a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2], strict=True)]
            self._span *= 2


@dataclass
class Figures:
    """The first, newest and usual value of every figure, and the curve of the loss.

    `record` is the newest record, `seconds` the time of all steps together; `skipped` counts the steps that were not
    finite, and `skipped_at` is the newest of them.
    """

    step: int = 0
    record: Record = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    usual: dict[str, float] = field(default_factory=dict)
    loss: Curve = field(default_factory=Curve)
    seconds: float = 0.0
    skipped: int = 0
    skipped_at: int = 0
    _seen: dict[str, int] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take in the record of a step; what is not a finite number is left out."""
        self.step, self.record = record["step"], record
        if record.get("nonfinite"):
            self.skipped, self.skipped_at = self.skipped + 1, self.step
        for key, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                count = self._seen[key] = self._seen.get(key, 0) + 1
                self.first.setdefault(key, value)
                self.last[key] = value
                usual = self.usual.get(key, value)
                self.usual[key] = usual + (value - usual) / min(count, RECENT)
                if key == "loss":
                    self.loss.add(value)
                elif key == "speed/step_s":
                    self.seconds += value


def figures_of(records: Iterable[Record]) -> Figures:
    """The figures of a whole log."""
    figures = Figures()
    for record in records:
        figures.add(record)
    return figures


def lights(figures: Figures, alarms: Sequence[Record]) -> list[Light]:
    """Collapse, spikes, non-finite steps and waiting for data; `alarms` are the lines of alarms.jsonl."""
    newest = {alarm["kind"]: alarm["step"] for alarm in alarms}

    def alarmed(kind: str) -> bool:
        return kind in newest and figures.step - newest[kind] <= FRESH

    return [
        _collapse(figures, alarmed("collapse")),
        _spikes(figures, alarmed("spike"), sum(alarm["kind"] == "spike" for alarm in alarms)),
        _nonfinite(figures, alarmed("nonfinite")),
        _data(figures, alarmed("starved")),
    ]


def _collapse(figures: Figures, alarmed: bool) -> Light:
    told, low = [], False
    for key, name in COLLAPSE.items():
        if (first := figures.first.get(key, 0.0)) > 0:
            now = figures.last[key] if "/" in key else figures.usual[key]  # of one batch, the usual is what counts
            low |= now < LOW * first
            alarmed |= now < getattr(ALARMING, key.split("/")[-1]) * first
            told.append(f"{name} {now:.3g} (at first {first:.3g})")
    return _light("collapse", ", ".join(told), alarmed, low)


def _spikes(figures: Figures, alarmed: bool, count: int) -> Light:
    text = ""
    if "grad_norm" in figures.last:
        text = f"gradient norm {figures.last['grad_norm']:.3g}, usually {figures.usual['grad_norm']:.3g}"
        text += f"; {count} so far" if count else ""
    return _light("spikes", text, alarmed, count > 0)


def _nonfinite(figures: Figures, alarmed: bool) -> Light:
    text = "no step skipped"
    if count := figures.skipped:
        text = f"{count} {'step' if count == 1 else 'steps'} skipped, the last at {figures.skipped_at:,}"
        alarmed |= figures.step - figures.skipped_at <= FRESH
    return _light("non-finite", text, alarmed, count > 0)


def _data(figures: Figures, alarmed: bool) -> Light:
    share = figures.usual.get("speed/data_wait")
    if share is None:
        return _light("data", "", alarmed, False)
    text = f"{share:.0%} of a step is spent waiting for data"
    return _light("data", text, alarmed or share > ALARMING.starved, share > SLOW)


def _light(name: str, text: str, alarmed: bool, doubtful: bool) -> Light:
    colour = "red" if alarmed else "grey" if not text else "yellow" if doubtful else "green"
    return Light(colour, name, text or "not measured")
