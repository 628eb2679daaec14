"""The sections of a report on one training run: how it stands, its curves, its speed, its trouble, its settings."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepa import logs, report_pretrain
from jepa import report_html as page
from jepa.dashboard import duration
from jepa.figures import lights
from jepa.live import newest_checkpoint, open_run
from jepa.report_figures import CONTROL, CYCLE, GREY, OURS, THIRD, Line, Panel, curves, smooth
from jepa.report_files import NotRunError, Records, kind, read_json, read_log, series, versions

LISTED = 20  # rows of a table of trouble
STEPS = {"grad_norm": "gradient norm", "cosine": "cosine of target and prediction", "feature_std": "feature std"}
SPEED = {
    "clips_s": "clips a second",
    "tokens_s": "tokens a second",
    "step_s": "seconds of a step",
    "data_wait": "share of it waiting for data",
    "tflops": "TFLOP/s of a device",
    "mfu": "share of the device's peak",
    "memory_gib": "memory, GiB",
}


def summary(run: Path) -> str:
    """How far the run is, and how well."""
    watched = open_run(run)
    watched.look()
    figures = watched.figures
    if not figures.last:
        raise NotRunError(f"there is no log in {run} yet")
    text = f"{figures.step:,} of {watched.total:,} steps, {watched.state}."
    if "loss" in figures.last:
        text += f" Loss {figures.usual['loss']:.4g}, {figures.first['loss']:.4g} at first."
    if figures.seconds:
        text += f" {duration(figures.seconds)} of training."
    if (step := newest_checkpoint(run)) is not None:
        text += f" The newest checkpoint is of step {step:,}."
    text += f" {_count(watched.alarms, 'alarm')}, {_count(_unread(run), 'unreadable sample')}."
    shown = [(page.LIGHTS[colour], name, text) for colour, name, text in lights(figures, watched.alarms)]
    return f'<div class="lead">{page.paragraph(text)}{page.lights(shown)}</div>'


def pretraining(run: Path) -> str:
    """Loss, learning rate, health; then what is logged at every step, and the online probe."""
    return report_pretrain.training(run) + _steps(read_log(run, "pretrain"))


def posttraining(run: Path) -> str:
    """Loss, its parts, and learning rate; then what is logged at every step."""
    log = read_log(run, "posttrain")
    window = _window(log)
    parts = ["loss", *(key for key in log[-1] if key.startswith("loss_"))]
    losses = [
        Line(key.removeprefix("loss_"), *smooth(*series(log, key), window), colour)
        for key, colour in zip(parts, CYCLE, strict=False)
        if series(log, key)[0]
    ]
    rate = Line("", *series(log, "lr"), colour=GREY)
    panels = [Panel("loss", "step", losses), Panel("learning rate", "step", [rate], zero=True)]
    return page.plot(curves(panels), f"Post-training, {log[-1]['step']:,} steps.{_mean(window)}") + _steps(log)


def _steps(log: Records) -> str:
    """Panels of the figures that steps have beside their loss, and of the online probe."""
    window = _window(log)
    panels = [
        Panel(title, "step", [Line("", *smooth(*found, window), OURS)], zero=key == "grad_norm")
        for key, title in STEPS.items()
        if (found := series(log, key))[0]
    ]
    if probes := sorted({key for record in log for key in record if key.startswith("probe/")}):
        lines = [Line(key[6:], *series(log, key), colour) for key, colour in zip(probes, CYCLE, strict=False)]
        panels.append(Panel("online probe", "step", lines))
    if (drift := series(log, "health/ema_drift"))[0]:
        panels.append(Panel("EMA drift", "step", [Line("", *drift, OURS)], zero=True))
    rows = [panels[i : i + 3] for i in range(0, len(panels), 3)]
    return "".join(page.plot(curves(row), "; ".join(p.title for p in row) + f".{_mean(window)}") for row in rows)


def speed(run: Path) -> str:
    """Clips, seconds and memory of a step: curves, and a table of what is usual."""
    log = read_log(run, kind(run))
    found = {key: series(log, f"speed/{key}") for key in SPEED}
    found = {key: pair for key, pair in found.items() if pair[0]}
    if not found:
        raise NotRunError("the log has no figures of speed")
    rows = [[SPEED[key], *(_short(v) for v in (*np.percentile(pair[1], (50, 5, 95)), pair[1][-1]))]
            for key, pair in found.items()]  # fmt: skip
    window = _window(log)
    panels = [
        Panel(SPEED[key], "step", [Line("", *smooth(*found[key], window), colour)], zero=True)
        for key, colour in (("clips_s", OURS), ("step_s", THIRD), ("data_wait", CONTROL))
        if key in found
    ]
    plot = page.plot(curves(panels), f"Speed over the run.{_mean(window)}") if panels else ""
    return page.table(["", "median", "5 %", "95 %", "last"], rows) + plot


def trouble(run: Path) -> str:
    """Alarms, steps that were left out, samples that could not be read."""
    alarms, unread = logs.read(run / "alarms.jsonl"), _unread(run)
    left_out = [str(r["step"]) for r in read_log(run, kind(run)) if r.get("nonfinite")]
    text = page.paragraph(f"{_count(alarms, 'alarm')}{', the newest first:' if alarms else '.'}")
    if alarms:
        rows = [[str(a["step"]), a["kind"], a["text"]] for a in reversed(alarms[-LISTED:])]
        text += page.table(["step", "kind", "what to do"], rows, left=3)
    if left_out:
        more = f", and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
        steps = ", ".join(left_out[:LISTED]) + more
        text += page.paragraph(f"{_count(left_out, 'step')} not finite, where nothing was updated: {steps}.")
    if not unread:
        return text + page.paragraph("Every sample could be read.")
    reasons = Counter(str(sample["reason"]) for sample in unread).most_common(LISTED)
    text += page.paragraph(f"{_count(unread, 'unreadable sample')}, each replaced by another:")
    counted = page.table(["reason", "samples"], [[reason, str(count)] for reason, count in reasons])
    rows = [[str(sample[key]) for key in ("step", "shard", "key", "reason")] for sample in unread[:LISTED]]
    return text + counted + page.table(["step", "shard", "sample", "reason"], rows, left=4)


def settings(run: Path) -> str:
    """What matters of the config, all of it on a click, and versions."""
    config = read_json(run / "config.json", kind(run))
    loop, model = config["loop"], config.get("world", config["encoder"])
    model = model.get("predictor", model)
    told = {
        "objective": config.get("objective", config.get("world", {})).get("type"),
        "width × depth": f"{model.get('width')} × {model.get('depth')}",
        "frames": config.get("data", config).get("frames"),
        "pixels": config.get("data", {}).get("size"),
        "batch": config.get("batch_size"),
        "steps": loop.get("steps"),
        "learning rate": loop.get("optim", {}).get("lr"),
        "precision": loop.get("precision"),
        "seed": config.get("seed"),
    }
    known = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in told.items()
        if value is not None
    }
    return (
        page.table(list(known), [list(known.values())], left=0)
        + page.folded("config", config)
        + page.paragraph(versions(), "soft")
    )


def _unread(run: Path) -> Records:
    """Samples that were replaced, by any process, in the order of their steps."""
    found = [record for path in sorted(run.glob("skipped*.jsonl")) for record in logs.read(path)]
    return sorted(found, key=lambda record: record["step"])


def _window(log: Records) -> int:
    return max(1, int(log[-1]["step"]) // 60)


def _mean(window: int) -> str:
    return f" Running means over {window} steps." if window > 1 else ""


def _count(things: Sequence[Any], name: str) -> str:
    return f"{len(things) or 'No'} {name}{'s' * (len(things) != 1)}"


def _short(value: Any) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
