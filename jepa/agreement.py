"""Processes that start with different settings, data or code stop at once, all of them, and say in what they differ."""

import json
from collections import Counter
from typing import Any

import torch
from accelerate import Accelerator

from jepa.config import ConfigError

SHOWN = 40  # characters of a value


def check_agreement(facts: dict[str, Any], accelerator: Accelerator) -> None:
    """Compare what each process believes of the run: config, data digests, versions, first step; `facts` is JSON-able.

    Every process must call it, before any other collective of the run.

    Raises:
        ConfigError: on every process, the same line: the first fact that differs, and on which ranks.
    """
    texts = _gather(json.dumps(facts, sort_keys=True).encode(), accelerator)
    if len(set(texts)) > 1:
        leaves = [_leaves(json.loads(text)) for text in texts]
        key = next(key for leaf in leaves for key in leaf if len({one.get(key, "nothing") for one in leaves}) > 1)
        values = [one.get(key, "nothing") for one in leaves]
        usual = Counter(values).most_common(1)[0][0]  # the first of those that are as common
        odd = [f"{_short(value)} on rank {rank}" for rank, value in enumerate(values) if value != usual]
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise ConfigError(
            f"the processes of this run do not agree on {key}: {', '.join(odd[:3])}{more}, {_short(usual)} on "
            f"{'rank ' + str(values.index(usual)) if len(values) - len(odd) == 1 else 'the others'}; "
            "start all of them with the same command, code and data"
        )


def _gather(text: bytes, accelerator: Accelerator) -> list[bytes]:
    """The bytes of every process, in order of rank; by tensors, so that nothing is unpickled."""
    sizes = accelerator.gather(torch.tensor([len(text)], device=accelerator.device)).tolist()
    padded = torch.zeros(1, max(sizes), dtype=torch.uint8)
    padded[0, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    rows = accelerator.gather(padded.to(accelerator.device)).cpu()  # (ranks, bytes)
    return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]


def _leaves(value: Any, key: str = "") -> dict[str, str]:
    """Every value below `value`, as JSON, by its dotted key."""
    if isinstance(value, dict) and value:
        parts = [_leaves(part, f"{key}.{name}" if key else name) for name, part in value.items()]
        return {name: leaf for part in parts for name, leaf in part.items()}
    return {key: json.dumps(value)}


def _short(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
