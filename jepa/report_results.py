"""The sections of a report on results: probes, world model, energy landscape, planning."""

from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from jepa import report_html as page
from jepa.checkpoint import CheckpointError
from jepa.encode import trajectories
from jepa.planning.landscape import Landscape, energy_landscape
from jepa.probes.figures import between
from jepa.report_figures import CONTROL, CYCLE, OURS, Line, Panel, curves, landscapes
from jepa.report_files import NotRunError, Records, kind, last, read_json, read_log, series, shards
from jepa.runs import load_world, reading

WORLDS = {"ours": ("posttrain", OURS), "random-init encoder": ("posttrain_random", CONTROL)}
TRANSITIONS = 3  # shown as energy landscapes


def probes(run: Path) -> str:
    """The table and the plots of `jepa probe`."""
    result = read_json(run / "probe" / "probe.json", "probe")
    found = by_probe(result)
    rows = []
    for c in result["comparisons"]:
        of_probe = found[c["task"], c["probe"], c["view"]]
        chance = found.get((c["task"], "chance", ""), {}).get("chance")
        cells = [spread(of_probe[maker]) for maker in ("pixels", "random_init", "pretrained")]
        change = f"{number(c['difference'], '+')} {between(c['bootstrap95'], '+')}"
        title = of_probe["pretrained"]["title"]
        name = f"{c['probe']} ({c['view']})"
        rows.append(
            [
                f"{title}, {metric(c['metric'])}",
                name,
                number(chance["mean"]) if chance else "",
                *cells,
                change,
                c["verdict"],
            ]
        )
    head = ["task, metric", "probe", "chance", "pixels", "random init", "pre-trained", "difference", "verdict"]
    n, seeds = result["episodes"], result["config"]["seeds"]
    text = (
        f"Trained on {n['train']} episodes, tested on {n['test']} others, {seeds} probe seeds, the same clips and "
        f"budget for every row. ± is a 95 % t-interval over seeds; the difference is pre-trained minus random init, in "
        f"brackets its 95 % bootstrap interval over test episodes; a verdict needs both on one side of zero. "
        f"probe/report.html has every interval, the confusions, and what the head that is best on test would score."
    )
    absent = "".join(page.absent(f"{task}: {reason}") for task, reason in result["not_run"].items())
    plots = "".join(
        page.picture(path, f"{task}: bars are means, whiskers 95 % over test episodes, dots are seeds.")
        for task in dict.fromkeys(r["task"] for r in result["rows"])
        if (path := run / "probe" / f"probe_{task}.png").is_file()
    )
    return page.paragraph(text) + page.table(head, rows, left=2, group=0) + absent + f'<div class="films">{plots}</div>'


def by_probe(result: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The rows of `probe.json` by (task, probe, view), then by row."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for r in result["rows"]:
        found.setdefault((r["task"], r["probe"], r["view"]), {})[r["row"]] = r
    return found


def worlds(run: Path) -> dict[str, Path]:
    """The folders of the world models to show: ours and the control, or the one run."""
    if kind(run) == "posttrain":
        return {"ours": run}
    return {label: run / folder for label, (folder, _) in WORLDS.items()}


def world(run: Path) -> str:
    """Skill against copying the last frame and the use of the action, on held-out episodes."""
    logs, missing = {}, []
    for label, folder in worlds(run).items():
        try:
            logs[label] = read_log(folder, "posttrain")
        except NotRunError as error:
            missing.append(page.absent(f"{label}: {error}"))
    if not logs:
        raise NotRunError(f"there is no post-training in {run}; `jepa posttrain` makes one")
    panels = [
        _world_panel(logs, "skill", "skill (1 − error / error of copying)", {"copying the first frame": 0.0}),
        _world_panel(logs, "shuffle", "error, shuffled / true actions", {"action ignored": 1.0}),
    ]
    keys = sorted({k for log in logs.values() for r in log for k in r if k.startswith("heldout/")})
    rows = [[label, *(number(last(log, k)) for k in keys)] for label, log in logs.items()]
    text = (
        "Open loop on held-out episodes, each in the features of its own encoder. `skill@k`: 1 minus the error after k "
        "steps over the error of copying the first frame; `shuffle@k`: the error with another window's actions over "
        "the error with the true ones."
    )
    text += " The control has the same budget on a random-init encoder." if len(worlds(run)) > 1 else ""
    plot = page.plot(curves(panels), "Held-out figures during post-training; solid: 1 step, dashed: 4 steps.")
    return page.paragraph(text) + page.table(["row", *(k.split("/")[1] for k in keys)], rows) + plot + "".join(missing)


def _world_panel(logs: dict[str, Records], figure: str, title: str, levels: dict[str, float]) -> Panel:
    lines = [
        Line(f"{label}, {k} step{'s' * (k > 1)}", *series(log, f"heldout/{figure}@{k}"), WORLDS[label][1], style)
        for label, log in logs.items()
        for k, style in ((1, "-"), (4, "--"))
    ]
    return Panel(title, "step", lines, "", levels)


def energy(run: Path) -> str:
    """Energies of single actions for a few held-out transitions, ours and the control."""
    manifest = shards(run, "heldout")
    if not manifest.spec.action_dim:
        raise NotRunError("the held-out videos carry no actions")
    opened, missing = {}, []
    for label, folder in worlds(run).items():
        try:
            opened[label] = load_world(folder)
        except CheckpointError as error:
            missing.append(page.absent(f"{label}: {error}"))
    if not opened:
        raise NotRunError(f"there is no post-trained world model in {run}; `jepa posttrain` makes one")
    size = next(iter(opened.values()))[0].config.size
    readings = {label: reading(worlds(run)[label]) for label in opened}
    first = next(iter(readings.values()))
    for label in [label for label, other in readings.items() if other != first]:
        missing.append(page.absent(f"{label}: it was trained at {readings[label]}, and the other at {first}"))
        del opened[label]
    chosen: list[Any] = []
    scenes, titles = [], []
    moving = (seen for seen in trajectories(manifest, size, first) if len(seen.actions))
    for seen in islice(moving, TRANSITIONS):
        t = int(seen.actions[:, [0, 2]].norm(dim=1).argmax())
        chosen.append((seen.frames[t], seen.frames[t + 1], seen.proprio[t], seen.actions[t]))
        scenes.append(page.side_by_side(seen.frames[t : t + 2].permute(0, 2, 3, 1).numpy()))
        titles.append(f"held-out episode {seen.id}, frames {t} → {t + 1}")
    if not chosen:
        raise NotRunError("the held-out videos are shorter than a step")
    extent = 1.25 * max(float(action[:3].abs().max()) for *_, action in chosen)
    found = {
        label: [energy_landscape(*parts, *c, extent=extent, points=11, depth_points=3) for c in chosen]
        for label, parts in opened.items()
    }
    misses = [f"{label} {', '.join(map(_miss, lands))}" for label, lands in found.items()]
    text = (
        "Predicted distance (mean L1 in the world's feature space) to the next frame after each single action, over "
        f"(Δx, Δz), averaged over Δy. Red star: the action really taken; white cross: the lowest energy. Shown is the "
        f"largest move in (Δx, Δz) of each of the first {len(chosen)} held-out episodes. Lowest minus true, "
        f"Δx/Δz in cm: {'; '.join(misses)}."
    )
    caption = "Top: the frame and the next one. Below: the energy, darker is nearer, from lowest to highest as stated."
    return page.paragraph(text) + page.plot(landscapes(titles, scenes, found), caption) + "".join(missing)


def _miss(land: Landscape) -> str:
    dx, dz = 100 * np.subtract(land.lowest, land.action)
    return f"{dx:+.1f}/{dz:+.1f}".replace("-", "−")


def planning(run: Path) -> str:
    """The table of `jepa plan`, distance over decisions, and films."""
    folder = run / "plan"
    result = read_json(folder / "results.json", "plan")
    near, nearer = (f"≤ {100 * result[k]:g} cm" for k in ("tolerance", "close"))
    head = ["task", "row", "goals", near, "95 % interval", nearer, "start → end, cm", "p vs ours"]
    head += ["s / decision", "model steps / decision", "seed"]
    rows = [
        [
            *(r["task"], r["label"], str(r["n"]), f"{r['success']['rate']:.0%}", bounds(r["success"])),
            *(f"{r['close']['rate']:.0%}", f"{100 * r['curve'][0]:.1f} → {100 * r['curve'][-1]:.1f}"),
            f"{r['versus_ours']['p']:.2g}" if r["versus_ours"] else "",
            *(f"{r['seconds']:.3f}", str(r["model_steps"]), str(r["seed"])),
        ]
        for r in result["rows"]
    ]
    text = (
        "Closed loop from a goal image, the same frozen goals and decision limit for every row. Intervals are "
        "Wilson's over goals, p is McNemar's exact test on the goals that both rows ran, distances are means. Seconds "
        "are of one episode's decision, with episodes planned in batches, and without rendering and physics."
    )
    omitted = "".join(page.absent(f"row {row}: {reason}") for row, reason in result["omitted"].items())
    panels = [_distance_panel(folder, result, task) for task in dict.fromkeys(r["task"] for r in result["rows"])]
    distances = page.plot(curves(panels, 3.6), "Distance to the goal: median, and shaded the middle half of episodes.")
    films = [folder / film for r in result["rows"] for film in r["films"]]
    shown = "".join(page.picture(f, f"{f.stem}: start | goal | view", "pixels") for f in films if f.is_file())
    films_text = page.paragraph("Films of our episodes:") if shown else page.absent("films")
    table = page.table(head, rows, left=2, marked="ours", group=0)
    return page.paragraph(text) + table + omitted + distances + films_text + f'<div class="films">{shown}</div>'


def _distance_panel(folder: Path, result: dict[str, Any], task: str) -> Panel:
    lines = []
    for colour, row in zip(cycle(CYCLE), [r for r in result["rows"] if r["task"] == task], strict=False):
        job = read_json(folder / f"{task}_{row['row']}.json", "plan")
        low, middle, high = np.percentile([e["distance"] for e in job["episodes"]], (25, 50, 75), axis=0) * 100
        lines.append(Line(row["label"], range(len(middle)), middle, colour, band=(low, high)))
    levels = {"counts as reached": 100 * result["tolerance"]}
    return Panel(task, "decision", lines, "distance, cm", levels, zero=True)


def interval(rate: dict[str, float]) -> str:
    return f"{rate['rate']:.0%} [{bounds(rate)}]"


def bounds(rate: dict[str, float]) -> str:
    return f"{rate['low']:.0%}–{rate['high']:.0%}"


def number(value: float | None, sign: str = "") -> str:
    """A figure with three decimals, one where it is large."""
    if value is None:
        return "n/a"
    return f"{value:{sign}.{3 if abs(value) < 10 else 1}f}".replace("-", "−")


def spread(row: dict[str, Any]) -> str:
    low, high = row["t95"]
    return number(row["mean"]) + (f" ± {number((high - low) / 2)}" if None not in (low, high) else "")


def metric(name: str) -> str:
    return {"r2": "R²"}.get(name, name.replace("_", " "))
