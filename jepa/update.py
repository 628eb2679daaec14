"""One optimiser update from one batch, in slices where the batch is too large to go through the model at once."""

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from jepa.config import ConfigError


def update(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: AcceleratedOptimizer,
    batch: Any,
    accumulate: int,
    clip: float,
    step: int,
) -> dict[str, float]:
    """Forward and backward of `accumulate` slices of this process's batch, clip to norm `clip` (0: never), AdamW.

    Returns the figures of the step, each a mean over the slices. Where an fp16 gradient overflows, `grad_norm` is not
    finite, nothing was updated, and the loss scale is halved.

    Raises:
        FloatingPointError: loss or gradient is not finite, before anything is updated.
        ConfigError: the batch does not divide into `accumulate` slices.
    """
    records = []
    parts = slices(batch, accumulate)
    for number, part in enumerate(parts, start=1):
        # Processes average their gradients once, with the last slice.
        with nullcontext() if number == len(parts) else accelerator.no_sync(model):
            loss, metrics = model(part.to(accelerator.device))
            accelerator.backward(loss / len(parts))
        records.append({"loss": loss.item(), **{name: value.item() for name, value in metrics.items()}})
    figures = {name: sum(record[name] for record in records) / len(records) for name in records[0]}
    loss_value = figures.pop("loss")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norm = float(accelerator.clip_grad_norm_(trained, clip or math.inf))
    scaler = accelerator.scaler
    if math.isfinite(loss_value) and math.isfinite(norm):
        optimizer.step()
    elif math.isfinite(loss_value) and scaler is not None and scaler.get_scale() > 1:
        scaler.update(
            scaler.get_scale() / 2
        )  # not by its own step: with a fused AdamW nothing tells that it did nothing
    else:
        raise FloatingPointError(
            f"step {step}: loss {loss_value:.4g}, gradient norm {norm:.4g}; nothing was updated. Lower "
            "loop.optim.lr or set loop.optim.clip, with another out=…"
        )
    optimizer.zero_grad(set_to_none=True)
    return {"loss": loss_value, "lr": optimizer.param_groups[0]["lr"], "grad_norm": norm, **figures}


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
