"""One optimiser update from one batch, in slices where the batch is too large to go through the model at once."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.engines.base import Engine, agree, mean

NOT_UPDATED = {"nonfinite", "overflow", "spike"}
"""Figures of a step that changed nothing."""


def update(
    engine: Engine, batch: Any, accumulate: int, is_spike: Callable[[float], bool] | None = None
) -> dict[str, float]:
    """Forward and backward of `accumulate` slices of this process's batch, then clipping and AdamW.

    Returns the figures of the step, each a mean over slices and processes. Where loss or gradient is not finite on any
    process nothing is updated on all of them, and the figures have `overflow` (of fp16: the loss scale was halved, and
    that may mend it) or else `nonfinite`, which is 1. So it is where `is_spike` says so of the loss: `spike`.

    Raises:
        ConfigError: the batch does not divide into `accumulate` slices.
    """
    parts = slices(batch, accumulate)
    names, records = [], []
    for number, part in enumerate(parts, start=1):
        loss, metrics = engine.add_gradient(part, len(parts), last=number == len(parts))
        names = ["loss", *metrics]
        records.append(torch.stack([value.detach().double() for value in (loss, *metrics.values())]).tolist())
    means = mean([sum(values) / len(parts) for values in zip(*records, strict=True)], engine.device)
    figures = dict(zip(names, means, strict=True))
    loss_value, norm = figures.pop("loss"), engine.grad_norm()
    record = {"loss": loss_value, "lr": engine.optimizer.param_groups[0]["lr"], "grad_norm": norm, **figures}
    if not (math.isfinite(loss_value) and math.isfinite(norm)):
        mended = engine.skip(overflow=math.isfinite(loss_value))
        record["overflow" if mended else "nonfinite"] = 1.0
    elif is_spike and agree([float(is_spike(loss_value))], engine.device)[0]:
        engine.skip(overflow=False)
        record["spike"] = 1.0
    else:
        engine.step()
    return record


def slices(batch: Any, count: int) -> list[Any]:
    """A batch (a dataclass of tensors, or dicts of them, with leading dim B) as `count` batches of B / count.

    Raises:
        ConfigError: B does not divide by `count`.
    """
    if count == 1:
        return [batch]
    size = next(len(value) for value in vars(batch).values() if isinstance(value, Tensor))
    if size % count:
        raise ConfigError(f"a process's batch of {size} does not divide into loop.accumulate={count} equal slices")

    def cut(value: Any, rows: slice) -> Any:
        if isinstance(value, dict):
            return {name: cut(part, rows) for name, part in value.items()}
        return value[rows] if isinstance(value, Tensor) else value

    own = size // count
    spans = [slice(start, start + own) for start in range(0, size, own)]
    return [replace(batch, **{name: cut(value, rows) for name, value in vars(batch).items()}) for rows in spans]
