"""Where DeepSpeed keeps a process's part of a parameter: its fp32 weights, AdamW's moments, a ZeRO-3 shard."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa.engines.base import MOMENTS
from jepa.pieces import Piece


@dataclass(frozen=True)
class Shard:
    """[start, start + count) of a trained parameter, flattened: it lies at `at` in the flat fp32 weights `flat`.

    `flat` is what AdamW takes for a parameter, so its moments are flat in the same way.
    """

    flat: nn.Parameter
    at: int
    start: int
    count: int

    def of(self, flat: Tensor) -> Tensor:
        """The part (count) of the flat weights, or of moments as long as these."""
        return flat.detach().narrow(0, self.at, self.count)

    def cut(self, whole: Tensor) -> Tensor:
        """The same part (count) of a tensor of the parameter's shape."""
        return whole.detach().reshape(-1).narrow(0, self.start, self.count)

    def piece(self, values: Tensor, shape: torch.Size) -> Piece:
        """That part of `values`, flat weights or moments, as it is saved."""
        return Piece(self.of(values), tuple(shape), self.start)


def trained_shard(zero: Any, parameter: Any) -> Shard | None:
    """This process's part of a trained parameter in DeepSpeed's optimizer `zero`; None where it has none."""
    if hasattr(parameter, "ds_tensor"):  # ZeRO-3
        group, at, _ = zero.grad_position[zero.get_param_id(parameter)]
        start, count = own_span(parameter)
        return Shard(zero.fp32_partitioned_groups_flat[group], at, start, count) if count else None
    fragment = parameter._hp_mapping
    if fragment is None:
        return None
    flat = zero.single_partition_of_fp32_groups[fragment.param_group_index]
    address = fragment.hp_fragment_address
    return Shard(flat, address.start, fragment.lp_fragment_address.start, address.numel)


def own_span(parameter: Any) -> tuple[int, int]:
    """(start, count) of the part of a ZeRO-3 parameter that is this process's, without what pads the last parts."""
    length = parameter.ds_tensor.ds_numel
    start = min(length * torch.distributed.get_rank(parameter.ds_process_group), parameter.ds_numel)
    return start, min(length, parameter.ds_numel - start)


def moments_at(optimizer: torch.optim.Optimizer, flat: nn.Parameter, step: Tensor) -> dict[str, Tensor]:
    """AdamW's state of `flat` after `step` updates, made where there is none yet."""
    state = optimizer.state[flat]
    for key in MOMENTS:
        state.setdefault(key, torch.zeros_like(flat, requires_grad=False))
    state["step"] = step.to(flat.device, torch.float32)
    return state


@torch.no_grad()
def refresh(parameters: list[Any]) -> None:
    """Where a ZeRO-3 parameter is gathered, gather it again: its shard has changed. All processes together."""
    gathered = [p for p in parameters if p.ds_status.name == "AVAILABLE"]
    if gathered:
        gathered[0].partition(gathered)
    # The rest are gathered when they are next needed.
    if kept := [p for p in gathered if p.ds_persist]:
        kept[0].all_gather(kept)
