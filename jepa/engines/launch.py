"""How this process was launched, and the engine that follows from it: the launcher's choice, not a config key."""

import importlib.util
import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs
from torch import nn

from jepa.config import ConfigError
from jepa.engines.base import Engine
from jepa.engines.plain import Plain

_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What torchrun and kinds of mpirun tell each of several processes."""


class _Plugin(DeepSpeedPlugin):
    """accelerate's, which else would ask for transformers, only to tell it of DeepSpeed."""

    def set_deepspeed_weakref(self) -> None:
        pass


def launched(timeout: float = 1800.0) -> dict[str, Any]:
    """What `Accelerator` is to be given so that it runs as it was launched, on the CPU where there is no GPU.

    Collectives fail after `timeout` seconds.

    Raises:
        ConfigError: a launch of which accelerate would silently make something else.
    """
    _refuse_what_goes_wrong_silently()
    gpu, patience = torch.cuda.is_available(), InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))
    if not _flag("ACCELERATE_USE_DEEPSPEED"):
        return {"cpu": not gpu, "kwargs_handlers": [patience]}
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("this launch asks for DeepSpeed, which is missing: pip install 'openjepa[deepspeed]'")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # it tells of every bucket
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # in its every call
    if gpu:
        return {"kwargs_handlers": [patience], "deepspeed_plugin": _Plugin()}
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # an all-reduce that it would compile first, and we never call
    # Told that it is on the CPU, accelerate would leave DeepSpeed out.
    patience.backend = "gloo"
    return {"kwargs_handlers": [patience], "deepspeed_plugin": _Plugin()}


def engine(
    accelerator: Accelerator, trainable: nn.Module, optimizer: torch.optim.Optimizer, clip: float, accumulate: int
) -> Engine:
    """Make a trainable and its AdamW ready to run, `clip` > 0 being the largest norm of the gradient.

    Raises:
        ConfigError: a way of running that there is no engine for.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        from jepa.engines.zero import Zero

        return Zero(accelerator, trainable, optimizer, clip, accumulate)
    if kind in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        return Plain(accelerator, trainable, optimizer, clip)
    raise ConfigError(f"training does not run with accelerate's {kind.value}: use a file of configs/accelerate")


def _refuse_what_goes_wrong_silently() -> None:
    if _flag("ACCELERATE_USE_FSDP"):
        raise ConfigError(
            "FSDP is not supported, and on CPUs leaves processes unsynchronised: use configs/accelerate/zero3.yaml, or "
            "zero3_cpu.yaml"
        )
    # accelerate's launcher of one process, which was asked for several.
    if {"ACCELERATE_USE_CPU", "MASTER_PORT"} <= os.environ.keys() and not any(name in os.environ for name in _WORLD):
        raise ConfigError(
            "accelerate was asked for several CPU processes and has started one: use `torchrun --nproc_per_node 2 -m "
            "jepa …`, or configs/accelerate/zero2_cpu.yaml"
        )


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
