"""What `jepa cost` prints: the figures of `jepa.cost` for one preset, as tables."""

import math

from jepa import cost
from jepa.data.stats import Table
from jepa.models.checkpointing import MODES
from jepa.pretrain import PretrainConfig

TERA, GIGA = 1e12, 2**30


def tables(config: PretrainConfig, gpus: int, tflops: float) -> list[Table]:
    """Parameters, FLOPs, activations, state and hours of a run over `gpus` GPUs of `tflops` achieved TFLOP/s each.

    Raises ValueError where the clips cannot be cut into tubelets.
    """
    objective = cost.build_objective(config)
    data, loop = config.data, config.loop
    slice_size = math.ceil(config.batch_size / (gpus * loop.accumulate))
    total_weight = sum(part.weight for part in data.parts)
    shown, activations, per_clip = [], [], dict.fromkeys(MODES, 0.0)
    for frames in sorted({part.frames for part in data.parts}):
        share = sum(part.weight for part in data.parts if part.frames == frames) / total_weight
        grid = objective.encoder.grid(frames, data.size, data.size)
        masks = cost.mask_sizes(config, grid, min(slice_size, 24))
        flops = cost.step_flops(objective, math.prod(grid), masks)
        shown.append(_flops_table(f"{frames} frames of {data.size} px", math.prod(grid), masks, flops))
        activations.append(_activations_table(config, objective, frames, math.prod(grid), masks, slice_size))
        for mode in MODES:
            per_clip[mode] += share * sum(part.total(mode) for part in flops.values())
    return [
        _parameters_table(objective),
        *shown,
        _step_table(config, per_clip, gpus, tflops),
        *activations,
        _state_table(config, objective, gpus),
    ]


def _parameters_table(objective) -> Table:
    rows = {
        "encoder": cost.parameters(objective.encoder, True),
        "predictor": cost.parameters(objective.predictor, True),
        "trained in all": cost.parameters(objective, True),
        "target (EMA)": cost.parameters(objective, False),
    }
    return Table("Parameters", ("", "millions"), [(name, f"{n / 1e6:,.2f}") for name, n in rows.items()])


def _flops_table(title: str, tokens: int, masks: cost.Sizes, flops: dict[str, cost.Flops]) -> Table:
    sizes = {"target": f"{tokens}"}
    for i, (context, target) in enumerate(masks):
        sizes |= {f"context {i}": f"{context}", f"predictor {i}": f"{context} + {target}"}
    rows = [(name, sizes[name], *(_tera(x) for x in part)) for name, part in flops.items()]
    sums = [sum(column) for column in zip(*flops.values(), strict=True)]
    rows.append(("in all", "", *(_tera(x) for x in sums)))
    head = ("TFLOP of a clip", "tokens", "forward", "backward", "recompute (full)")
    return Table(f"{title}: arithmetic, by part and mask config", head, rows)


def _step_table(config: PretrainConfig, per_clip: dict[str, float], gpus: int, tflops: float) -> Table:
    steps = config.loop.steps
    rows = []
    for mode, flops in per_clip.items():
        time = cost.hours(flops, config.batch_size * steps, gpus, tflops)
        here = " (this preset)" if mode == config.encoder.checkpointing else ""
        rows.append((f"{mode}{here}", _tera(flops), _tera(flops * config.batch_size), f"{time:,.4g}"))
    head = ("activation checkpointing", "TFLOP of a clip", "of a step", "hours")
    title = f"{steps:,} steps of {config.batch_size} clips on {gpus} GPU{'s' * (gpus > 1)}; hours if each achieves "
    return Table(f"{title}{tflops:g} TFLOP/s (an assumption) and never waits for data", head, rows)


def _activations_table(
    config: PretrainConfig, objective, frames: int, tokens: int, masks: cost.Sizes, slice_size: int
) -> Table:
    rows = []
    for mode in MODES:
        each = cost.activation_bytes(objective, tokens, masks, mode, _number_size(config))
        rows.append((mode, f"{each / GIGA:.3g}", f"{each * slice_size / GIGA:.3g}"))
    head = ("activation checkpointing", "GiB of a clip", f"of {slice_size} clips on a GPU")
    return Table(f"{frames} frames: activations in {config.loop.precision}, an estimate", head, rows)


def _state_table(config: PretrainConfig, objective, gpus: int) -> Table:
    trained, target = (cost.parameters(objective, which) for which in (True, False))
    rows = []
    for engine in cost.ENGINES:
        state = cost.state_bytes(engine, trained, target, gpus, _number_size(config))
        rows.append((engine, *(f"{x / GIGA:.3g}" for x in (*state, sum(state)))))
    head = ("GiB on each GPU", "weights", "fp32 master", "Adam moments", "gradients", "EMA target", "in all")
    return Table(f"State on {gpus} GPU{'s' * (gpus > 1)} in {config.loop.precision}", head, rows)


def _number_size(config: PretrainConfig) -> int:
    """Bytes of a number that is computed with."""
    return 4 if config.loop.precision == "fp32" else 2


def _tera(flops: float) -> str:
    return f"{flops / TERA:.4g}"
