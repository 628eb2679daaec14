"""Which checkpoints of a run stay: the newest, every n-th for ever, and the one with the best score."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from jepa.checkpoint_format import complete, folder_of, step_of
from jepa.logs import console
from jepa.status import write_json

_BEST = "best.json"


def settle(run: Path, step: int, score: float | None, keep: int, keep_every: int) -> None:
    """What follows a new checkpoint: it may be the best, and old ones go. Trouble is reported, and the run goes on."""
    try:
        if score is not None:
            note_best(run, step, score)
        purge(run, step, keep, keep_every)
    except OSError as error:
        console.print(f"[yellow]old checkpoints stay: {error.filename}: {error.strerror}", soft_wrap=True)


def note_best(run: Path, step: int, score: float) -> None:
    """Name the checkpoint of `step` in RUN/best.json, if no other that is still there has as high a score."""
    known = best(run)
    if math.isfinite(score) and (known is None or score > known["score"]):
        write_json(run / _BEST, {"step": step, "score": score})


def best(run: Path) -> dict[str, Any] | None:
    """The `step` and `score` of the best checkpoint; None where there is none."""
    try:
        known = json.loads((run / _BEST).read_text())
        return known if folder_of(run, known["step"]) in complete(run) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def purge(run: Path, step: int, keep: int, keep_every: int) -> None:
    """Remove checkpoints older than the newest `keep` up to `step`, the one just written, which always stays.

    Steps that divide by `keep_every` (0: none) and the best stay as well. Later ones than `step` are those that the
    run could not go on from; they count for nothing and are replaced when the run comes by. What cannot be removed is
    reported, and the run goes on.
    """
    known = [folder for folder in complete(run) if step_of(folder) <= step]
    chosen = (best(run) or {}).get("step")
    for folder in known[:-keep]:
        own = step_of(folder)
        if own in (step, chosen) or (keep_every and own % keep_every == 0):
            continue
        try:
            discard(folder)
        except OSError as error:
            console.print(
                f"[yellow]cannot remove the old checkpoint {error.filename}: {error.strerror}", soft_wrap=True
            )


def discard(folder: Path) -> None:
    """Remove a checkpoint folder; a crash leaves no half of it that looks like a checkpoint."""
    shutil.rmtree(set_aside(folder))


def set_aside(folder: Path) -> Path:
    """Give a checkpoint folder a name by which it is none any more; the next attempt clears it."""
    return folder.replace(folder.with_name(f"{folder.name}.old.partial"))
