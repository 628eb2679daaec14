"""How a training run is set, and how its processes come together; jepa/loop.py is the loop itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from jepa.agreement import check_agreement
from jepa.alarms import AlarmConfig
from jepa.checkpoint import claim_data, claim_run
from jepa.config import ConfigError
from jepa.engines.base import agree
from jepa.engines.launch import launched
from jepa.logs import check_trackers, console
from jepa.optim import OptimConfig

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Our names -> accelerate's."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how precisely, how often to log, measure and save, and what to do when something goes wrong.

    A step's batch goes through the model in `accumulate` equal slices, for a GPU that it does not fit at once: the
    gradient is the same, save where an objective or mask sampler (`size: batch_min`) looks across the batch.
    `precision` is fp32, or bf16 or fp16 by autocast; the weights stay fp32 (with DeepSpeed they are rounded, and have
    fp32 masters). A launcher's own choice does not count. `compile` has torch compile the trainable's parts.
    `threads` > 0 sets torch's CPU threads.

    The newest `keep` checkpoints stay, and for ever those of steps that `keep_every` divides (0: none). Steps whose
    loss or gradient is not finite change nothing; after `max_nonfinite` in a row (0: never) the run goes back to its
    newest checkpoint and passes these steps over. `skip_spikes` leaves out the updates of spikes of the loss as well.
    Without progress for `timeout` seconds a run of several processes ends. `trackers` are names that accelerate knows.

    Raises ConfigError for a value outside its range.
    """

    steps: int = 1000
    accumulate: int = 1
    precision: str = "fp32"
    compile: bool = False
    log_every: int = 10
    measure_every: int = 100
    checkpoint_every: int = 500
    keep: int = 2
    keep_every: int = 0
    max_nonfinite: int = 3
    skip_spikes: bool = False
    timeout: float = 1800.0
    threads: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)
    alarms: AlarmConfig = field(default_factory=AlarmConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "trackers", tuple(self.trackers))  # configs give lists
        if self.precision not in PRECISIONS:
            raise ConfigError(f"loop.precision '{self.precision}' is not one of {', '.join(PRECISIONS)}")
        for key in ("steps", "accumulate", "log_every", "measure_every", "checkpoint_every", "keep"):
            if getattr(self, key) < 1:
                raise ConfigError(f"loop.{key} {getattr(self, key)}: must be at least 1")
        for key in ("keep_every", "max_nonfinite"):
            if getattr(self, key) < 0:
                raise ConfigError(f"loop.{key} {getattr(self, key)}: must be 0 (never) or more")
        if self.timeout <= 0:
            raise ConfigError(f"loop.timeout {self.timeout:g}: must be more than 0 seconds")


def make_accelerator(out: str, config: LoopConfig) -> Accelerator:
    """An Accelerator as this process was launched, on the CPU where there is no GPU; it writes nothing yet.

    Raises:
        ConfigError: fp16 without a GPU, an unknown tracker, a launch of which accelerate would make something else.
    """
    check_trackers(config.trackers)
    if config.threads > 0:  # `accelerate launch` puts one thread on a CPU process
        torch.set_num_threads(config.threads)
    cpu = not torch.cuda.is_available()
    if cpu and config.precision == "fp16":
        raise ConfigError("loop.precision fp16 needs a GPU; use fp32")
    if cpu and config.precision == "bf16":
        warn_of_slow_bf16("loop.precision")
    return Accelerator(
        mixed_precision=PRECISIONS[config.precision],
        log_with=list(config.trackers),
        project_dir=out,
        **launched(2 * config.timeout),  # the watchdog speaks first
    )


def warn_of_slow_bf16(key: str) -> None:
    """Say where this CPU computes in bf16 only by detours; `key` is the setting that asked for it."""
    if not torch.cpu._is_avx512_bf16_supported():
        console.print(f"[yellow]{key} bf16: this CPU has no bf16 instructions; fp32 is 50 times faster or more")


def join(accelerator: Accelerator, out: Path, config: dict[str, Any], data: dict[str, str]) -> None:
    """See that all processes are of one run, and claim `out` for its config and the digests of its data.

    Raises:
        ConfigError: the processes do not agree.
        CheckpointError: `out` holds another run, or one of other data.
    """
    facts = {**config, "data_digests": data, "version": version("openjepa"), "torch": torch.__version__}
    check_agreement(facts, accelerator)

    def claim() -> None:
        claim_run(out, config)
        claim_data(out, data)

    first_alone(accelerator, claim)


def first_alone(accelerator: Accelerator, do: Callable[[], object]) -> None:
    """`do()` in the main process while the others wait; where it fails, all of them end.

    Raises:
        ConfigError: in the others, where the main process has failed.
    """
    together(accelerator, do if accelerator.is_main_process else lambda: None, "process 0")


def together(accelerator: Accelerator, do: Callable[[], object], who: str = "another process") -> None:
    """`do()` in every process; where it fails in one, all of them end.

    Raises:
        ConfigError: where another process has failed; it is called `who`.
    """
    failure: Exception | None = None
    try:
        do()
    except Exception as error:
        failure = error
    if agree([float(failure is not None)], accelerator.device)[0]:
        raise failure or ConfigError(f"{who} cannot go on; it says why")


def required(value: str, key: str) -> str:
    """`value`, or a ConfigError that asks for `key`."""
    if not value:
        raise ConfigError(f"'{key}' must be given, as {key}=PATH")
    return value
