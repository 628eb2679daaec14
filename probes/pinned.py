"""Which encoder a probe run measures: one checkpoint for all of its processes, and the same when it is gone on with."""

import json
from dataclasses import dataclass
from pathlib import Path

from jepa.checkpoint import CheckpointError, find
from jepa.checkpoint_format import complete, step_of
from jepa.config import ConfigError, from_dict, to_dict
from jepa.logs import console
from jepa.models.encoder import EncoderConfig
from jepa.runs import encoder_sha256, load_encoder, run_and_step
from jepa.status import write_json

FILE = "encoder.json"


@dataclass(frozen=True)
class Pinned:
    """An encoder that stays what it is while its run goes on training: a checkpoint, or a released model."""

    path: str  # RUN/checkpoints/step_00000123, or the name of the released model
    step: int | None  # None of a released model
    sha256: str  # of weights and shape
    shape: EncoderConfig

    def facts(self) -> dict[str, str | int | None]:
        """What `probe.json` says of it."""
        return {"path": self.path, "step": self.step, "sha256": self.sha256}


def pin(encoder: str, out: Path, result: Path) -> None:
    """Write to `out` which checkpoint `encoder` stands for, or keep to what is written there.

    Where `out` was begun on a checkpoint, this one is used again, and said so if there are newer ones. If it is gone or
    has other weights, the newest takes its place, unless there is a `result` already.

    Raises:
        CheckpointError: no run, no valid checkpoint, or weights that do not fit.
        ConfigError: the result is of weights that are no longer there.
    """
    known = read_pinned(out) if _asked(out) == encoder else None
    if known and _same_still(known):
        run, step = run_and_step(encoder)
        newest = max((step_of(folder) for folder in complete(run)), default=0)
        if step is None and known.step is not None and newest > known.step:
            console.print(
                f"{out} was begun on step {known.step} of {run}, which is used again; for step {newest} choose "
                "another out=…",
                markup=False,
                soft_wrap=True,
            )
        return
    if known and result.is_file():
        raise ConfigError(
            f"{result} is of {known.path}, which is gone or has other weights now; choose another out=… or remove it"
        )
    found = _open(_newest(encoder))
    if known:
        said = f"{out} was begun on {known.path}, which is gone or has changed; begun anew on {found.path}"
        console.print(said, markup=False, soft_wrap=True)
    write_json(out / FILE, {"asked": encoder, **found.facts(), "shape": to_dict(found.shape)})


def read_pinned(out: Path) -> Pinned:
    """What `pin` wrote."""
    values = json.loads((out / FILE).read_text())
    shape = from_dict(EncoderConfig, values["shape"], str(out / FILE))
    return Pinned(values["path"], values["step"], values["sha256"], shape)


def _asked(out: Path) -> str | None:
    return json.loads((out / FILE).read_text())["asked"] if (out / FILE).is_file() else None


def _same_still(known: Pinned) -> bool:
    try:
        return _open(known.path) == known
    except CheckpointError:
        return False


def _newest(encoder: str) -> str:
    """The checkpoint that a run stands for, by its own path; anything else as it is."""
    run, step = run_and_step(encoder)
    return str(find(run, step)) if (run / "checkpoints").is_dir() else encoder


def _open(path: str) -> Pinned:
    encoder = load_encoder(path, "target")
    return Pinned(path, run_and_step(path)[1], encoder_sha256(encoder), encoder.config)
