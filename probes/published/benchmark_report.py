"""What a benchmark found: a table for the terminal, and a page with classes, confusions and what could not be read."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from jepa.probes.published import scores
from jepa.probes.published.benchmark_row import PREDICTIONS
from jepa.probes.published.labelled import Labelled
from jepa.report_html import absent, folded, paragraph, picture, plot, table, write_page

LARGEST_CONFUSION = 60  # classes; with more, the table of classes names the best rival
HEAD = ("row", "top-1", "95 % by clip", "95 % by group", "top-5", "class mean", "best on test (optimistic)")
KNN_HEAD = ("row", "top-1", "class mean", "pretrained minus it, 95 % by group")


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables, and how many videos they are of."""
    data = result["data"]
    console.print(f"\n{_counted(data)}", soft_wrap=True)
    for title, head, rows in (
        ("[bold]attentive probe[/], head chosen on validation videos", HEAD, [_row(r) for r in result["rows"]]),
        (f"[bold]kNN[/] of {_neighbours(result)} training videos, one clip each", KNN_HEAD, _knn(result)),
    ):
        drawn = Table(title=title, title_justify="left", title_style="", box=None, padding=(0, 1, 0, 0))
        for i, name in enumerate(head):
            drawn.add_column(name, justify="right" if i else "left", min_width=min(14, len(name)))
        for cells in rows:
            drawn.add_row(*(cell.replace("[", "\\[") for cell in cells))
        console.print(drawn)
    for row in result["rows"]:
        console.print(f"{row['row']}: chosen {_chosen(row)}", soft_wrap=True)
    unread = _unread(result)
    for name, reason in list(unread.items())[:5]:
        console.print(f"[yellow]not read: {name}: {reason}", soft_wrap=True)
    if len(unread) > 5:
        console.print(f"[yellow]and {len(unread) - 5} more: see benchmark.json")
    console.print(f"{result['seconds']} s")


def write(result: dict[str, Any], data: Labelled, out: Path) -> None:
    """Write `out/report.html`, one file that needs nothing else."""
    config = result["config"]
    sections = {
        "Results": paragraph(_counted(result["data"]))
        + table(HEAD, map(_row, result["rows"]))
        + "".join(paragraph(f"chosen {_chosen(row)}", name=row["row"]) for row in result["rows"])
        + paragraph(
            "The head is chosen on videos of the training set that no head has seen, and test is read once. The last "
            "column is the reference's way, the best of all heads on test itself: it is optimistic, and no result."
        )
        + paragraph(f"kNN on pooled features of {_neighbours(result)} training videos, the beginning of each:")
        + table(KNN_HEAD, _knn(result))
    }
    for row in result["rows"]:
        sections[f"Classes: {row['row']}"] = _classes(row, data.classes, out / row["row"])
    unread = _unread(result)
    sections["Not read"] = table(("video", "reason"), unread.items(), left=2) if unread else paragraph("Nothing.")
    if missing := result["data"]["missing"]:
        sections["Not read"] += folded("annotated, but not there", missing)
    sections["Settings"] = folded("config", config)
    write_page(out / "report.html", f"Benchmark of {config['encoder']}", str(config["annotations"]), sections)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    test = row["test"]
    top1, best = test["top1"], row["best_on_test"]
    return (
        row["row"],
        _percent(top1["value"]),
        _interval(top1["clip95"]),
        _interval(top1["group95"]),
        _percent(test["top5"]["value"]) if test["classes"] > 5 else "n/a",
        _percent(test["balanced_accuracy"]["value"]),
        f"{_percent(best['top1'])} of {best['of_heads']}",
    )


def _knn(result: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["row"],
            _percent(row["top1"]),
            _percent(row["balanced_accuracy"]),
            _interval(row["ours_minus_this95"], "+") if "ours_minus_this95" in row else "",
        )
        for row in result["knn"]
    ]


def _classes(row: dict[str, Any], classes: tuple[str, ...], folder: Path) -> str:
    rows = [
        (
            r["class"],
            str(r["clips"]),
            *map(_percent, (r["recall"], r["recall_at_5"], r["precision"])),
            r["taken_for"] or "",
        )
        for r in sorted(row["per_class"], key=lambda r: r["recall"])
    ]
    head = ("class", "clips", "recall", "recall at 5", "precision", "most often taken for")
    sheet = folder / "hardest.png"
    hard = picture(sheet, "The videos that the probe is most surely wrong about") if sheet.is_file() else ""
    return _confusion(folder, classes) + table(head, rows) + hard


def _confusion(folder: Path, classes: tuple[str, ...]) -> str:
    if len(classes) > LARGEST_CONFUSION:
        return absent(f"the confusion matrix is drawn for at most {LARGEST_CONFUSION} classes")
    from matplotlib.figure import Figure

    found = load_file(folder / PREDICTIONS)
    counts = scores.confusion(found["probabilities"].numpy(), found["labels"].numpy())
    figure = Figure(figsize=(3 + 0.14 * len(classes), 2.6 + 0.14 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(counts / counts.sum(1, keepdims=True).clip(min=1), vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6)
    axes.set_yticks(range(len(classes)), classes, fontsize=6)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, shrink=0.6)
    return plot(figure, "Share of each class's test videos by predicted class")


def _counted(data: dict[str, Any]) -> str:
    videos, groups = data["videos"], data["groups"]
    sides = ", ".join(f"{name} {videos[name]} videos of {groups[name]} groups" for name in videos)
    gone = sum(map(len, data["missing"].values()))
    said = f"{data['classes']} classes; {sides}; {gone} annotated videos not there, {len(data['unread'])} unreadable"
    if lacking := len(data["not_in_fit"]):
        said += f"; {lacking} classes have no video to fit on"
    if shared := len(data["test_in_train"]):
        said += f"; {shared} test videos are byte for byte in train too"
    return said


def _unread(result: dict[str, Any]) -> dict[str, str]:
    found = dict(result["data"]["unread"])
    for sides in (result["knn_unread"], *(row["unread"] for row in result["rows"])):
        for side, failed in sides.items():
            found |= {f"{name} ({side})": reason for name, reason in failed.items()}
    return found


def _chosen(row: dict[str, Any]) -> str:
    c = row["chosen"]
    return (
        f"lr {c['lr']:g}, weight decay {c['weight_decay']:g} of {row['heads']} heads by {_percent(c['validation'])} on "
        "validation"
    )


def _neighbours(result: dict[str, Any]) -> int:
    return result["knn"][0]["train_videos"]


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _interval(bounds: list[float] | list[None], sign: str = "") -> str:
    low, high = bounds
    return "n/a" if low is None or high is None else f"[{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
