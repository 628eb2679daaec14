"""The planning benchmark: every row on the same frozen goals, with honest statistics, films and one HTML page.

Rows: ours with one planner or several, the same with a random-init encoder and with raw pixels, behaviour cloning and
inverse dynamics, random actions, doing nothing, the replayed expert, and planning in the true simulator, by true
distances or by what our encoder sees of it.
"""

import contextlib
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from jepa.config import to_dict
from jepa.logs import console
from jepa.planning.bench import films, results, rows
from jepa.planning.bench import page as bench_page
from jepa.planning.bench.config import PlanConfig, frozen_goals
from jepa.planning.bench.jobs import Cell, cell, missing, work
from jepa.planning.bench.simulator import oracle
from jepa.planning.bench.worlds import check_camera, skills, weights, with_nets
from jepa.planning.envs.base import make
from jepa.planning.manifest import Manifest, check, task_of

FILMED = "ours"


def run(config: PlanConfig) -> Path:
    """Run what is missing, then write OUT/results.json and bench.html and print the tables; returns the file's path.

    OUT/bench.yaml is the whole config: `jepa plan bench OUT/bench.yaml` is the command that made every number. The
    command of a row makes it again in OUT/rows, for it would leave no more than that row in OUT.

    Raises:
        ManifestError: the goal file breaks its rules. CheckpointError: a world is missing. ConfigError: a setting.
    """
    manifest = frozen_goals(config)
    with contextlib.closing(make(**manifest.environment)) as env:
        check(manifest, env)
        for task in config.tasks:
            rows.action_bounds(env, config, manifest.frozen.get(task, ()))
    table, omitted = rows.chosen(config)
    known = {row.run: weights(row.run) for row in table if row.run}
    for world in known:
        check_camera(world)
    table, untrained = with_nets(table, config, known)
    cells = cells_of(table, config, manifest, known)
    work(missing(cells, manifest), manifest, config.workers)
    records = [each.record(manifest) for each in cells]
    _film(cells, records, manifest)
    command = _command(config)
    contents: dict[str, Any] = {"command": command, "config": to_dict(config)}
    contents |= {"tolerance": manifest.tolerance, "close": manifest.close, "how": results.HOW}
    contents["tasks"] = {task: _about(task, config, manifest) for task in config.tasks}
    contents["rows"] = results.summarise([r for r, c in zip(records, cells, strict=True) if c.row.budget is None])
    for told in contents["rows"]:
        told["command"] = f"{command} {_alone(told['task'], told['row'], config)}"
    contents["curves"] = _curves(cells, records)
    contents["open_loop"] = skills(table, config, known)
    contents["omitted"] = {**omitted, **untrained}
    path = Path(config.out) / "results.json"
    path.write_text(json.dumps(contents, indent=1))
    page = bench_page.write(contents, records, path.parent)
    console.print(results.tables(contents["rows"], manifest.tolerance, manifest.close))
    for row, reason in contents["omitted"].items():
        console.print(f"row '{rows.LABELS[row]}' left out: {reason}", soft_wrap=True)
    console.print(f"{page}", soft_wrap=True)
    return path


def cells_of(table: Sequence[rows.Row], config: PlanConfig, manifest: Manifest, known: dict[str, str]) -> list[Cell]:
    """Every row on every task, in the order of the tables."""
    return [cell(config, manifest, task, row, known.get(row.run, "")) for task in config.tasks for row in table]


def _film(cells: Sequence[Cell], records: Sequence[dict[str, Any]], manifest: Manifest) -> None:
    """Film some episodes of ours of each task, at the first seed, and note the files in their records."""
    with contextlib.closing(make(**manifest.environment)) as env:
        for each, record in zip(cells, records, strict=True):
            if each.row.name != FILMED:
                continue
            goals = manifest.of(each.task, each.goals)
            first = record["episodes"][: len(goals)]
            for i in films.choose([e["success"] for e in first], each.config.films):
                path = films.film(env, goals[i], first[i], each.path.parent / "films")
                record["films"].append(f"films/{path.name}")


def _curves(cells: Sequence[Cell], records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Success against compute: each planner at every budget, at the first seed alone."""
    points = []
    for each, record in zip(cells, records, strict=True):
        if each.config.budgets and each.row.kind == "ours":
            first = {**record, "episodes": [e for e in record["episodes"] if e["seed"] == each.seeds[0]]}
            plain, label = each.row.name, each.row.label
            if each.row.budget is not None:
                plain, label = plain.rsplit("_x", 1)[0], label.rsplit(" × ", 1)[0]
            own = {"task": each.task, "row": each.row.name, "planner": plain, "label": label}
            own |= {"budget": each.row.budget or 1.0, "seconds": record["seconds"]}
            own |= {"model_steps": record["model_steps"], "success": results.rate(results.outcomes(first))}
            points.append(own)
    return points


def _about(task: str, config: PlanConfig, manifest: Manifest) -> dict[str, Any]:
    """What a task asks, and whether its goals are given with sub-goals."""
    told = {"success": task_of(task).success, "decisions": manifest.decisions[task]}
    return told | {"subgoals": task in config.subgoals, "oracle_subgoals": oracle(task).switch is not None}


def _alone(task: str, row: str, config: PlanConfig) -> str:
    """The overrides that make a row again, beside the whole."""
    out = str(Path(config.out) / "rows" / f"{task}_{row}")
    if not re.fullmatch(r"[\w./ -]+", out):
        out = json.dumps(out, ensure_ascii=False)  # overrides are read as YAML: `a: b` and `a #b` are no strings there
    return shlex.join([f"out={out}", f"tasks=[{task}]", f"rows=[{row if row in rows.LABELS else ''}]"])


def _command(config: PlanConfig) -> str:
    path = Path(config.out) / "bench.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))
    path.write_text(f"# The whole config of a benchmark; `jepa plan bench` takes it as a preset.\n{text}")
    return shlex.join(["jepa", "plan", "bench", str(path)])
