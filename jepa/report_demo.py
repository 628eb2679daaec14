"""The sections of a report that are about `jepa demo` as a whole: the key figures, and how each number was made."""

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa import report_html as page
from jepa import report_pretrain
from jepa import report_results as results
from jepa.config import from_dict
from jepa.demo import DemoConfig, stages
from jepa.report_files import NotRunError, last, pretrain_folder, read_json, read_log, versions

HEADLINE = (("attentive", "tokens"), ("regression", "pooled"))  # the probes that the summary speaks of


def summary(run: Path) -> str:
    """The key figures, and how long the stages took."""
    sentences = []
    for name, sentence in (
        ("Pre-training", _pretrain_sentence),
        ("Probes", _probe_sentence),
        ("World model", _world_sentence),
        ("Planning", _plan_sentence),
    ):
        try:
            text = sentence(run)
        except NotRunError:
            text = "not run."
        sentences.append(page.paragraph(text, name=name))
    lead = f'<div class="lead">{"".join(sentences)}</div>'
    return lead + _timing(run)


def _pretrain_sentence(run: Path) -> str:
    log = read_log(pretrain_folder(run), "pretrain")
    text = f"{log[-1]['step']} steps to a loss of {log[-1].get('loss', float('nan')):.3f}."
    return f"{text} {report_pretrain.verdict(log)}" if "health/rankme" in log[0] else text


def _probe_sentence(run: Path) -> str:
    result = read_json(run / "probe" / "probe.json", "probe")
    rows = results.by_probe(result)
    told = []
    for c in result["comparisons"]:
        if (c["probe"], c["view"]) in HEADLINE:
            of_probe = rows[c["task"], c["probe"], c["view"]]
            ours, control = of_probe["pretrained"], of_probe["random_init"]
            told.append(
                f"{ours['title']} {results.number(ours['mean'])} against {results.number(control['mean'])} "
                f"({results.metric(c['metric'])}, {c['probe']} probe, {c['verdict']})"
            )
    won = sum(c["verdict"] == "better" for c in result["comparisons"])
    return (
        f"Pre-trained against random init: {'; '.join(told)}; better beyond both "
        f"intervals on {won} of {len(result['comparisons'])} probes."
    )


def _world_sentence(run: Path) -> str:
    told = []
    for label, (folder, _) in results.WORLDS.items():
        try:
            log = read_log(run / folder, "posttrain")
        except NotRunError:
            continue
        figures = {k: last(log, f"heldout/{k}") for k in ("skill@1", "skill@4", "shuffle@1", "shuffle@4")}
        if None not in figures.values():
            told.append(f"{label}: {', '.join(f'{k} {results.number(v)}' for k, v in figures.items())}")
    if not told:
        raise NotRunError(f"there is no finished post-training in {run}")
    return f"Held-out episodes, {'; '.join(told)}."


def _plan_sentence(run: Path) -> str:
    result = read_json(run / "plan" / "results.json", "plan")
    told = [
        f"{task}: "
        + ", ".join(f"{r['label']} {results.interval(r['success'])}" for r in result["rows"] if r["task"] == task)
        for task in dict.fromkeys(r["task"] for r in result["rows"])
    ]
    return f"Success (final distance ≤ {100 * result['tolerance']:g} cm, with 95 % intervals), {'; '.join(told)}."


def _timing(run: Path) -> str:
    try:
        seconds = read_json(run / "stages.json", "demo")
    except NotRunError:
        return page.paragraph("How long the stages took is known only of `jepa demo`.", "soft")
    seconds = {name: s for name, s in seconds.items() if name != "report"}
    return page.table(
        ["", *seconds, "together"],
        [["seconds", *(f"{s:.0f}" for s in seconds.values()), f"{sum(seconds.values()):.0f}"]],
    )


def provenance(run: Path) -> str:
    """Command lines, seeds, configs, versions."""
    configs = _configs(run)
    seeds = ", ".join(f"{name} {values['seed']}" for name, values in configs.items())
    return (
        _commands(run)
        + (page.paragraph(f"Seeds: {seeds}.") if seeds else "")
        + "".join(page.folded(f"config of {name}", values) for name, values in configs.items())
        + page.paragraph(versions(), "soft")
    )


def _configs(run: Path) -> dict[str, dict[str, Any]]:
    """The config of every part that is there."""
    found = {
        "pretrain": pretrain_folder(run) / "config.json",
        "probe": run / "probe" / "probe.json",
        **{folder: run / folder / "config.json" for folder, _ in results.WORLDS.values()},
        "plan": run / "plan" / "results.json",
    }
    configs = {}
    for name, path in found.items():
        with contextlib.suppress(NotRunError):  # its own section says what is wrong
            values = read_json(path, name)
            configs[name] = values.get("config", values)
    return configs


def _commands(run: Path) -> str:
    """The command lines of the demo that made this folder."""
    made = run / "demo.json"
    if not made.is_file():
        return page.paragraph("The verbs were run one by one; their configs follow, and hold every setting.")
    told = read_json(made, "demo")
    config = from_dict(DemoConfig, told["config"], str(made))
    lines = [shown(c) for stage in stages(run, config) for c in stage.commands]
    intro = f"`jepa demo {run} --preset={told['preset']}` runs these, one after the other:"
    return page.paragraph(intro) + page.commands(lines)


def shown(command: Sequence[str]) -> str:
    """A command as one would type it: without the interpreter's path."""
    return shlex.join(["jepa", *command[3:]] if command[2] == "jepa" else ["python", *command[1:]])
