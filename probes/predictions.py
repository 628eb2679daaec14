"""What the probes of a run predicted, clip by clip, in one safetensors file: the layout that comparisons read.

Each probe's tensors are named `TASK/PROBE/VIEW/ROW/SEED/FIELD` (VIEW is empty for the row `chance`), where FIELD is

- `predicted`, `true`: classes (B) int64, or values (B, O) floating;
- `episodes`: the packed sample (B) int64 that each clip is of, in the folder that was tested on;
- `first`: the clip's first frame in its episode (B) int64, so that (episode, first) names a clip;
- `best`: of probes that chose among several heads, what the head predicted that is best on these very clips.

The header of the file holds, under the same names without FIELD, JSON with `train_clips` and `chosen`, a list with an
entry for each fit (of each fold), and under `test`, for each seed, a digest of the data, the labels and the clips: the
seeds of two files can be compared clip by clip where it is the same.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jepa.probes.kinds.base import ProbeError

FILE = "predictions.safetensors"


@dataclass(frozen=True)
class Predictions:
    """One probe of one row and seed on clips that it was not fitted on; the module's docstring has the shapes."""

    task: str
    kind: str
    view: str
    maker: str
    seed: int
    predicted: Tensor
    true: Tensor
    episodes: Tensor
    first: Tensor
    best: Tensor | None
    chosen: tuple[dict[str, float], ...]
    train_clips: int

    @property
    def key(self) -> str:
        """Its name in the file."""
        return f"{self.task}/{self.kind}/{self.view}/{self.maker}/{self.seed}"


TENSORS = tuple(f.name for f in fields(Predictions) if "Tensor" in str(f.type))


def write(path: Path, measured: Sequence[Predictions], test: str | Mapping[int, str]) -> None:
    """Write them to one file, which appears whole or not at all.

    `test` names the clips that were tested on, by seed; a string is those of every seed.
    """
    by_seed = test if isinstance(test, Mapping) else {m.seed: test for m in measured}
    tensors, header = {}, {"test": json.dumps(dict(by_seed))}
    for m in measured:
        tensors |= {
            f"{m.key}/{name}": v.clone().contiguous() for name in TENSORS if (v := getattr(m, name)) is not None
        }
        header[m.key] = json.dumps({"train_clips": m.train_clips, "chosen": m.chosen})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=header)
    partial.replace(path)


def read(path: Path) -> tuple[list[Predictions], dict[int, str]]:
    """The predictions of a file, as they were written, and by seed what they were tested on.

    Raises:
        ProbeError: there is no such file, or it is damaged or of another layout.
    """
    if not path.is_file():
        raise ProbeError(f"{path}: there is no such file; it is what `jepa probe PRESET` writes into its out=…")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ProbeError(f"{path}: damaged ({error}); remove it and run `jepa probe` again") from error
    if "test" not in header:
        raise ProbeError(f"{path}: not what `jepa probe PRESET` writes, but predictions of something else")
    try:
        test = {int(seed): digest for seed, digest in json.loads(header.pop("test")).items()}
        return [_of(key, json.loads(said), tensors) for key, said in header.items()], test
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProbeError(f"{path}: of another version; remove it and run `jepa probe` again") from error


def _of(key: str, said: dict[str, Any], tensors: dict[str, Tensor]) -> Predictions:
    task, kind, view, maker, seed = key.split("/")
    own = {name: tensors[f"{key}/{name}"] for name in TENSORS if name != "best"}
    best = tensors.get(f"{key}/best")
    return Predictions(
        task,
        kind,
        view,
        maker,
        int(seed),
        **own,
        best=best,
        chosen=tuple(said["chosen"]),
        train_clips=said["train_clips"],
    )


def pool(parts: Sequence[Predictions]) -> Predictions:
    """The folds of one probe, row and seed as one: every clip in its turn, as if one test set."""
    first = parts[0]
    joined = {name: torch.cat([getattr(p, name) for p in parts]) for name in TENSORS if name != "best"}
    bests = [p.best for p in parts]
    return Predictions(
        *(first.task, first.kind, first.view, first.maker, first.seed),
        **joined,
        best=None if None in bests else torch.cat([b for b in bests if b is not None]),
        chosen=tuple(choice for p in parts for choice in p.chosen),
        train_clips=round(sum(p.train_clips for p in parts) / len(parts)),
    )
