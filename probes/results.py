"""A folder of results of `jepa probe` as comparisons read it: one row of predictions, and what two folders share."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jepa.probes import predictions
from jepa.probes.kinds.base import ProbeError
from jepa.probes.predictions import Predictions

Key = tuple[str, str, str]
"""Task, probe and view."""

ELSEWHERE = ("benchmark", "anticipation", "dense")
"""Verbs whose results have another layout, each the name of its JSON file."""


@dataclass(frozen=True)
class Results:
    """What is compared of a folder: the row's predictions by probe and seed, and by seed what it was tested on."""

    folder: str
    rows: tuple[str, ...]
    probes: dict[Key, dict[int, Predictions]]
    test: dict[int, str]


def open_results(folder: Path, row: str) -> Results:
    """The results in `folder`, the `out` of `jepa probe`; of the predictions those of one `row`.

    Raises:
        ProbeError: there are none, they are of another verb, or the row is not among them.
    """
    file = folder / predictions.FILE
    if not file.is_file():
        if (folder / "suite.json").is_file():
            raise ProbeError(f"{folder} is of `jepa probe suite`: give the folder of one of its checkpoints")
        if verb := next((verb for verb in ELSEWHERE if (folder / f"{verb}.json").is_file()), None):
            raise ProbeError(
                f"{folder} is of `jepa probe {verb}`, whose page has its intervals; compare reads what `jepa probe "
                "PRESET` writes"
            )
    found, test = predictions.read(file)
    by_probe: dict[Key, dict[int, Predictions]] = {}
    for p in (p for p in found if p.maker == row):
        by_probe.setdefault((p.task, p.kind, p.view), {})[p.seed] = p
    rows = tuple(dict.fromkeys(p.maker for p in found))
    if not by_probe:
        raise ProbeError(f"{folder} has no row '{row}'; there are: {', '.join(rows)}")
    return Results(str(folder), rows, by_probe, test)


def common_seeds(a: Results, b: Results) -> list[int]:
    """The probe seeds that both have.

    Raises:
        ProbeError: there are none, or they were tested on other clips.
    """
    seeds = sorted(a.test.keys() & b.test.keys())
    if not seeds:
        raise ProbeError(
            f"{a.folder} has the probe seeds {_listed(a.test)}, {b.folder} {_listed(b.test)}: none in common; run one "
            "of them again with the other's seed=…"
        )
    if any(a.test[seed] != b.test[seed] for seed in seeds):
        raise ProbeError(f"{a.folder} was tested on other clips than {b.folder}; give both the same data and settings")
    return seeds


def more(a: Results, b: Results) -> list[str]:
    """What `a` has and `b` has not; of a task that is not there at all its name, and not its probes."""
    tasks = {task for task, *_ in b.probes}
    return [
        *(f"seed {seed}" for seed in sorted(a.test.keys() - b.test.keys())),
        *(f"row {row}" for row in a.rows if row not in b.rows),
        *(f"task {task}" for task in dict.fromkeys(task for task, *_ in a.probes) if task not in tasks),
        *(" ".join(key) for key in a.probes if key[0] in tasks and key not in b.probes),
    ]


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))
