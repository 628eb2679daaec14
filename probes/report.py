"""What the probes found, with intervals: the plain dict that is written as JSON, and a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jepa.probes.features import IMAGE, MAKERS
from jepa.probes.figures import VERDICTS, between, number, numbers, shown, verdict
from jepa.probes.jobs import CHANCE
from jepa.probes.kinds.base import score_sums
from jepa.probes.metrics import (
    CLASS_METRICS,
    METRICS,
    VALUE_METRICS,
    Sums,
    alone,
    bootstrap,
    bootstrap_difference,
    t_interval,
)
from jepa.probes.notes import notes
from jepa.probes.predictions import Predictions
from jepa.probes.tasks import TASKS

OURS, CONTROL = "pretrained", "random_init"


def summarise(
    measured: list[Predictions], seed: int, classes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Rows and, per probe, pretrained minus random init; `classes` are names of a task's classes.

    A row has every seed's number, their mean, and 95 % intervals: Student's over seeds (`t95`), and of the mean under
    resampling of test episodes (`bootstrap95`) and of test clips (`clips95`). Of a probe that chose among heads,
    `best_on_test` is what the head scores that is best on the test clips: too good, for it was chosen by them.
    """
    groups: dict[tuple[str, str, str], dict[str, list[Predictions]]] = {}
    for m in sorted(measured, key=lambda m: m.seed):
        groups.setdefault((m.task, m.kind, m.view), {}).setdefault(m.maker, []).append(m)
    order = {task: i for i, task in enumerate(TASKS)}
    keys = sorted(groups, key=lambda k: (order[k[0]], k[1] == CHANCE, (k[1], k[2]) if k[1] != CHANCE else ("", "")))
    rows = [
        _row(ms, seed, (classes or {}).get(key[0], ()))
        for key in keys
        for _, ms in sorted(groups[key].items(), key=lambda item: _place(item[0]))
    ]
    comparisons = [_compare(groups[key][OURS], groups[key][CONTROL], seed) for key in keys if OURS in groups[key]]
    return {"rows": rows, "comparisons": comparisons}


def _place(maker: str) -> int:
    return (*MAKERS, CHANCE).index(maker)


def _row(seeds: list[Predictions], seed: int, names: Sequence[str]) -> dict[str, Any]:
    first, sums = seeds[0], _sums(seeds)
    metric = TASKS[first.task].metric
    others = [m for m in (CLASS_METRICS if first.true.ndim == 1 else VALUE_METRICS) if m != metric]
    values = _scores(sums, metric)
    mean, *t95 = t_interval(np.array(values))
    return {
        "task": first.task,
        "title": TASKS[first.task].title,
        "probe": first.kind,
        "view": first.view,
        "row": first.maker,
        "metric": metric,
        "values": numbers(values),
        "mean": number(mean),
        "t95": numbers(t95),
        "bootstrap95": numbers(bootstrap(sums, metric, np.random.default_rng(seed))),
        "clips95": numbers(bootstrap(alone(sums), metric, np.random.default_rng(seed))),
        "best_on_test": _best_on_test(seeds, metric),
        "other": {name: numbers(_scores(sums, name)) for name in others},
        "classes": _classes(seeds, names) if first.true.ndim == 1 and first.maker != CHANCE else None,
        "chosen": [[{k: number(v) for k, v in fit.items()} for fit in m.chosen] for m in seeds],
        "train_clips": [m.train_clips for m in seeds],
        "test_clips": [len(m.true) for m in seeds],
        "test_episodes": len(np.unique(np.concatenate([m.episodes for m in seeds]))),
    }


def _sums(seeds: list[Predictions]) -> Sums:
    return [(score_sums(m.predicted, m.true), m.episodes.numpy()) for m in seeds]


def _scores(sums: Sums, metric: str) -> list[float]:
    return [float(METRICS[metric](own.sum(0))) for own, _ in sums]


def _best_on_test(seeds: list[Predictions], metric: str) -> dict[str, Any] | None:
    heads = [(m.best, m.true) for m in seeds if m.best is not None]
    if not heads:
        return None
    values = [float(METRICS[metric](score_sums(best, true).sum(0))) for best, true in heads]
    return {"values": numbers(values), "mean": number(float(np.mean(values)))}


def _classes(seeds: list[Predictions], names: Sequence[str]) -> dict[str, Any]:
    """Test clips of all seeds by true class (rows) and predicted class (columns), and a line for each class."""
    count = 1 + max(int(max(m.true.max(), m.predicted.max())) for m in seeds)
    matrix = np.zeros((count, count), np.int64)
    for m in seeds:
        np.add.at(matrix, (m.true.numpy(), m.predicted.numpy()), 1)
    table = []
    for c in range(count):
        right, of_class, guesses = (float(n) for n in (matrix[c, c], matrix[c].sum(), matrix[:, c].sum()))
        recall, precision = (number(right / n) if n else None for n in (of_class, guesses))
        name = names[c] if c < len(names) else str(c)
        table.append({"class": name, "clips": int(of_class), "recall": recall, "precision": precision})
    return {"confusion": matrix.tolist(), "table": table}


def _compare(ours: list[Predictions], control: list[Predictions], seed: int) -> dict[str, Any]:
    """Paired difference; a verdict other than `not separated` needs seeds and episodes on one side of zero."""
    metric = TASKS[ours[0].task].metric
    first, second = _sums(ours), _sums(control)
    difference = np.array(_scores(first, metric)) - np.array(_scores(second, metric))
    mean, *t95 = t_interval(difference)
    by_episode = bootstrap_difference(first, second, metric, np.random.default_rng(seed))
    by_clip = bootstrap_difference(alone(first), alone(second), metric, np.random.default_rng(seed))
    return {
        "task": ours[0].task,
        "probe": ours[0].kind,
        "view": ours[0].view,
        "metric": metric,
        "difference": number(mean),
        "t95": numbers(t95),
        "bootstrap95": numbers(by_episode),
        "clips95": numbers(by_clip),
        "verdict": verdict(*t95, *by_episode),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the table, what was not run and why, what else to know, and how often pre-training won."""
    console.print(
        "\nFrozen features, episodes the probes were not trained on, mean over seeds; flat pixels are 16×16 thumbnails:"
    )
    rows = {(r["task"], r["probe"], r["view"], r["row"]): r for r in result["rows"]}
    for task in dict.fromkeys(c["task"] for c in result["comparisons"]):
        chance = rows[task, CHANCE, "", CHANCE]
        metric = chance["metric"].replace("_", " ")
        title = f"[bold]{chance['title']}[/] ({metric}; chance {shown(chance['mean'])})"
        table = Table(title=title, title_justify="left", title_style="", box=None, padding=(0, 1, 0, 0))
        seen = {row for *_, row in rows}
        widths = {"pixels": 7, CONTROL: 12, IMAGE: 7, OURS: 11}
        makers = {maker: width for maker, width in widths.items() if maker in seen}
        for name, width in (("", 18), *((m.replace("_", " "), width) for m, width in makers.items())):
            table.add_column(name, width=width, justify="right" if name else "left")
        comparisons = [c for c in result["comparisons"] if c["task"] == task]
        table.add_column("pretrained − random", width=24)
        table.add_column("", width=7)
        for c in comparisons:
            cells = [shown(rows[task, c["probe"], c["view"], m]["mean"]) for m in makers]
            change = f"{shown(c['difference'], '+')} {escape(between(c['bootstrap95'], '+'))}"
            table.add_row(
                f"{c['probe'].removesuffix('_regression')} {c['view']}", *cells, change, VERDICTS[c["verdict"]]
            )
        console.print(table)
        for c in comparisons:
            if best := rows[task, c["probe"], c["view"], OURS]["best_on_test"]:
                console.print(
                    f"[dim]{c['probe']} probe of {OURS}, its best head on test: {shown(best['mean'])}; too good, as "
                    "it is chosen by the test clips"
                )
    for task, reason in result["not_run"].items():
        console.print(f"{task}: {reason}")
    for note in notes(result):
        console.print(escape(note))
    won = sum(c["verdict"] == "better" for c in result["comparisons"])
    console.print(
        f"Beyond both 95 % intervals (over seeds; over test episodes, in brackets) pretrained beats random init on "
        f"{won} of {len(result['comparisons'])} probes. {result['seconds']} s"
    )
