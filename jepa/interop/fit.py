"""Whether tensors are those that a model has: all of them by name, shape and value, or a table of what does not fit."""

from typing import NamedTuple

from torch import Tensor

from jepa.checkpoint import CheckpointError

Tensors = dict[str, Tensor]


class Problem(NamedTuple):
    """Why a tensor keeps a checkpoint from being loaded."""

    tensor: str
    problem: str
    in_file: str = ""
    wanted: str = ""


class MismatchError(CheckpointError):
    """Tensors that do not fit, all of them in `problems`; the message is one line and names the first."""

    def __init__(self, where: str, problems: list[Problem]) -> None:
        first, rest = problems[0], len(problems) - 1
        shapes = f" ({first.in_file} in the file, {first.wanted} wanted)" if first.in_file and first.wanted else ""
        more = f", and {rest} more tensors do not fit" if rest else ""
        only = all(problem.tensor.startswith("predictor.") for problem in problems)
        way_out = "; `jepa convert --parts encoder` takes the encoder alone (parts=['encoder'])" if only else ""
        super().__init__(f"{where} was not loaded: {first.tensor} is {first.problem}{shapes}{more}{way_out}")
        self.problems = problems


def check_fit(found: Tensors, wanted: Tensors, where: str) -> None:
    """Compare names and shapes, and look for NaN and infinities. Raises MismatchError unless all fits."""
    problems = [Problem(k, "missing", wanted=shape_of(v)) for k, v in wanted.items() if k not in found]
    problems += [Problem(k, "unexpected", in_file=shape_of(v)) for k, v in found.items() if k not in wanted]
    for key in found.keys() & wanted.keys():
        if found[key].shape != wanted[key].shape:
            problems.append(Problem(key, "of another shape", shape_of(found[key]), shape_of(wanted[key])))
        elif not found[key].is_floating_point() or not bool(found[key].isfinite().all()):
            problems.append(Problem(key, "not finite, or not of floating point", shape_of(found[key])))
    if problems:
        raise MismatchError(where, sorted(problems))


def shape_of(tensor: Tensor) -> str:
    """`48×3×2×8×8`, for people."""
    return "×".join(map(str, tensor.shape)) or "scalar"
