"""Watches the figures of a run for trouble: collapse, a spike of the loss, non-finite steps, waiting for data."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from jepa.config import ConfigError

_LEAST_SPREAD = 0.01  # of the median: a loss that hardly varies must not make a spike of every ripple
_STEADY = 5  # steps in a row, so that one odd batch is no collapse
_FIGURES = ("feature_std", "health/std_over_time", "health/rankme")


@dataclass(frozen=True)
class AlarmConfig:
    """When to warn. Healthy runs stay far from all of these.

    Features have collapsed where a figure of them falls below a share of its early value: `feature_std` (spread over
    the batch), `std_over_time` or `rankme` (on held-out clips); or where the spread has fallen to `both` of its early
    value while the loss has fallen to `both` of its recent median. A loss is a spike when it lies `spike` median
    absolute deviations above the median of the last `window` steps. Data are too slow where these spent more than
    `starved` of their time waiting. Trouble that was away for `calm` steps is new trouble.

    Raises ConfigError for a window below 20 steps.
    """

    feature_std: float = 0.1
    std_over_time: float = 0.2
    rankme: float = 0.1
    both: float = 0.6
    spike: float = 12.0
    starved: float = 0.5
    window: int = 200
    calm: int = 50

    def __post_init__(self) -> None:
        if self.window < 20:
            raise ConfigError(f"alarms.window {self.window}: a median needs at least 20 steps")


class Alarm(NamedTuple):
    """`kind` is collapse, spike, nonfinite or starved; `text` one line that says what to do."""

    kind: str
    step: int
    text: str


class Alarms:
    """Looks at the record of every step, in order, and says each trouble once: when it begins.

    What it knows comes from records alone, so that after `replay` of a log a resumed run goes on as if never stopped.
    """

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self._losses: deque[float] = deque(maxlen=config.window)
        self._seconds: deque[tuple[float, float]] = deque(maxlen=config.window)  # of a step, and of its waiting
        self._spreads: deque[float] = deque(maxlen=_STEADY)
        self._early: dict[str, float] = {}
        self._latest: dict[str, float] = {}
        self._troubled: dict[str, int] = {}  # kind -> the last step in that trouble

    def look(self, step: int, record: dict[str, Any]) -> list[Alarm]:
        """The alarms that the figures of this step set off; figures that are missing are not watched."""
        self._note(record)
        texts = {
            "nonfinite": _nonfinite(record),
            "spike": self._spike(record),
            "collapse": self._collapse(),
            "starved": self._starved(),
        }
        return [Alarm(kind, step, text) for kind, text in texts.items() if text and self._begins(kind, step)]

    def replay(self, records: Iterable[dict[str, Any]]) -> None:
        """Look at what a log has already, without a word."""
        records = list(records)
        recent = max(0, len(records) - self.config.window - self.config.calm)
        for record in records[:recent]:
            self._note(record)
        for record in records[recent:]:  # of what was before, nothing else can still count
            self.look(record["step"], record)

    def _begins(self, kind: str, step: int) -> bool:
        before = self._troubled.get(kind, -math.inf)
        self._troubled[kind] = step
        return step - before > self.config.calm

    def _note(self, record: dict[str, Any]) -> None:
        """Keep what later steps are compared with, but the loss, which must not be compared with itself."""
        known = {name: record[name] for name in _FIGURES if math.isfinite(record.get(name, math.nan))}
        if "feature_std" in known:
            self._spreads.append(known["feature_std"])
            known["feature_std"] = max(self._spreads)
        self._latest |= known
        self._early = known | self._early
        if "speed/data_wait" in record:
            seconds = record["speed/step_s"]
            self._seconds.append((seconds, seconds * record["speed/data_wait"]))

    def _spike(self, record: dict[str, Any]) -> str:
        loss = record.get("loss", math.nan)
        text = ""
        if is_spike(self._losses, loss, self.config):
            text = (
                f"the loss jumped to {loss:.4g} from a median of {median(self._losses):.4g}; if it does not come back, "
                "begin anew (start_from=, another out=) with a lower loop.optim.lr or a loop.optim.clip"
            )
        if math.isfinite(loss):
            self._losses.append(loss)
        return text

    def _collapse(self) -> str:
        share = {name: self._latest[name] / max(self._early[name], 1e-12) for name in self._latest}
        fallen = [name for name in share if share[name] < getattr(self.config, name.split("/")[-1])]
        if not fallen and share.get("feature_std", 1.0) < self.config.both and self._loss_has_fallen():
            fallen = ["feature_std"]
        if not fallen:
            return ""
        name = fallen[0]
        return (
            f"features collapse: {name} is {self._latest[name]:.3g}, it began at {self._early[name]:.3g}, and a low "
            "loss means nothing then; begin anew (start_from=, another out=) with a lower loop.optim.lr, or an "
            "objective.ema_start closer to 1 (of lejepa: a larger objective.sigreg_weight)"
        )

    def _loss_has_fallen(self) -> bool:
        recent = list(self._losses)[-_STEADY:]
        return len(recent) == _STEADY and max(recent) < self.config.both * median(self._losses)

    def _starved(self) -> str:
        if len(self._seconds) < self.config.window // 2:  # caches may be cold
            return ""
        total, waited = (sum(column) for column in zip(*self._seconds, strict=True))
        if waited <= self.config.starved * total:
            return ""
        return (
            f"the last {len(self._seconds)} steps spent {waited / total:.0%} of their time waiting for data; raise "
            "data.workers, set data.cache_gb, or pack smaller videos (`jepa pack` re-encodes them)"
        )


def is_spike(history: Sequence[float], loss: float, config: AlarmConfig) -> bool:
    """Whether `loss` lies `config.spike` median absolute deviations above the median of the losses before it.

    `history` are the finite losses of the last `config.window` steps, spikes too: where the loss stays up that becomes
    the usual, and a run that leaves such steps out goes on. False before half a window is known, and for a loss that
    is not finite, which is trouble of another kind.
    """
    if len(history) < config.window // 2 or not math.isfinite(loss):
        return False
    centre = median(history)
    if loss <= centre + config.spike * _LEAST_SPREAD * abs(centre):
        return False
    return loss > centre + config.spike * median(abs(x - centre) for x in history)


def _nonfinite(record: dict[str, Any]) -> str:
    if not record.get("nonfinite"):
        return ""
    return (
        "loss or gradient is not finite; the step was left out on every process. If it goes on, lower loop.optim.lr, "
        "set loop.optim.clip, or compute in loop.precision=bf16 or fp32"
    )
