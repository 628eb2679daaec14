"""The page of a probe run, `out/report.html`: one file with tables, intervals, classes and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa import report_html as html
from jepa.probes.figures import between, shown
from jepa.probes.notes import notes

NAMES = {"pretrained": "pre-trained", "random_init": "random init", "pixels": "pixels", "image": "image encoder"}
INTRODUCTION = (
    "Frozen features, clips of episodes that the probes were not fitted on, {seeds} probe seeds, the same clips and "
    "budget for every row. In brackets 95 % intervals: Student's over seeds, and bootstrap intervals of the mean under "
    "resampling of test episodes and of test clips. Clips of one episode are alike: trust the interval over "
    "episodes; that over clips shows how much would be claimed without it."
)
BEST = (
    "`best on test` is what the head scores that is best on the test clips themselves. It is too good by construction "
    "and stands here only because published figures are made so; the other figures are of the head that was chosen on "
    "train episodes."
)
DIFFERENCE = "Pre-trained minus random init, paired; a verdict needs seeds and episodes on one side of zero."


def write_page(result: dict[str, Any], pictures: Mapping[str, Sequence[Path]], out: Path) -> Path:
    """Write `out/report.html` from the dict of `probe.json` and each task's plots; the page appears whole."""
    config = result["config"]
    sections = {}
    for task in dict.fromkeys(r["task"] for r in result["rows"]):
        rows = [r for r in result["rows"] if r["task"] == task]
        compared = [c for c in result["comparisons"] if c["task"] == task]
        shown = "".join(html.picture(path, path.stem) for path in pictures.get(task, ()))
        films = f'<div class="films">{shown}</div>'
        sections[rows[0]["title"]] = _rows(rows) + _differences(compared) + films + _per_class(rows)
    absent = "".join(html.absent(f"{task}: {reason}") for task, reason in result["not_run"].items())
    if absent:
        sections["Not run"] = absent
    if told := notes(result):
        sections["Notes"] = "".join(html.paragraph(note) for note in told)
    sections["Settings"] = html.paragraph(INTRODUCTION.format(seeds=config["seeds"])) + html.folded("config", config)
    n = result["episodes"]
    how = (
        f"{n['test']} episodes in {config['folds']} folds"
        if config["folds"]
        else f"{n['train']} + {n['test']} episodes"
    )
    return html.write_page(out / "report.html", "Probes", f"{config['encoder']}, {how}", sections)


def _rows(rows: list[dict[str, Any]]) -> str:
    heads = any(r["best_on_test"] for r in rows)
    table = []
    for r in sorted(rows, key=lambda r: (r["probe"] == "chance", r["probe"], r["view"])):
        cells = [f"{r['probe']} {r['view']}".strip(), NAMES.get(r["row"], ""), shown(r["mean"])]
        cells += [between(r[key]) for key in ("t95", "bootstrap95", "clips95")]
        best = r["best_on_test"]
        table.append([*cells, *([shown(best["mean"]) if best else ""] if heads else []), str(sum(r["test_clips"]))])
    metric = {"r2": "R²"}.get(rows[0]["metric"], rows[0]["metric"].replace("_", " "))
    columns = ["probe", "row", metric, "over seeds", "over episodes", "over clips"]
    columns += [*(["best on test"] if heads else []), "test clips"]
    return html.table(columns, table, left=2, group=0) + (html.paragraph(BEST) if heads else "")


def _differences(compared: list[dict[str, Any]]) -> str:
    table = [
        [f"{c['probe']} {c['view']}", shown(c["difference"], "+")]
        + [between(c[key], "+") for key in ("t95", "bootstrap95", "clips95")]
        + [c["verdict"]]
        for c in compared
    ]
    columns = ["probe", "difference", "over seeds", "over episodes", "over clips", "verdict"]
    return html.paragraph(DIFFERENCE) + html.table(columns, table) if table else ""


def _per_class(rows: list[dict[str, Any]]) -> str:
    """Recall of each class by every probe of the pre-trained row."""
    ours = [r for r in rows if r["row"] == "pretrained" and r["classes"]]
    if not ours:
        return ""
    names = {c["class"]: c["clips"] for r in ours for c in r["classes"]["table"]}
    by_probe = [{c["class"]: c for c in r["classes"]["table"]} for r in ours]
    table = [[name, str(count), *(_recall(found.get(name)) for found in by_probe)] for name, count in names.items()]
    columns = ["class", "test clips", *(f"{r['probe']} {r['view']}" for r in ours)]
    return html.paragraph("Recall / precision of each class, pre-trained, all seeds:") + html.table(columns, table)


def _recall(line: dict[str, Any] | None) -> str:
    return f"{shown(line['recall'])} / {shown(line['precision'])}" if line else ""
