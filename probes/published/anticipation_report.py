"""What an anticipation benchmark found: tables for the terminal, and a page with classes and what could not be read."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa.probes.kinds.anticipation import NAMES
from jepa.report_html import folded, paragraph, picture, table, write_page

HEAD = ("", "recall at 5", "95 % by clip", "95 % by video", "top-5", "best head on test*")
CLASSES = ("class", "clips", "recall at 5", "recall", "precision", "most often taken for")
NOTE = "* recall and top-5, each of the head that is best at it on test itself: optimistic, and no result"


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table of verbs, nouns and actions for each row, and what was left out."""
    console.print(f"\n{_counted(result)}", soft_wrap=True)
    for row in result["rows"]:
        drawn = Table(title=f"[bold]{row['row']}", title_justify="left", title_style="", box=None, padding=(0, 1, 0, 0))
        for i, name in enumerate(HEAD):
            drawn.add_column(name, justify="right" if i else "left")
        for cells in _scores(row):
            drawn.add_row(*cells)
        console.print(drawn)
        console.print(_chosen(row), soft_wrap=True)
    console.print(NOTE)
    unread = _unread(result)
    for name, reason in list(unread.items())[:5]:
        console.print(f"[yellow]not read: {name}: {reason}", soft_wrap=True)
    if len(unread) > 5:
        console.print(f"[yellow]and {len(unread) - 5} more: see report.html")
    console.print(f"{result['seconds']} s")


def write(result: dict[str, Any], out: Path) -> None:
    """Write `out/report.html`, one file that needs nothing else."""
    config = result["config"]
    found = [paragraph(_counted(result))]
    for row in result["rows"]:
        found += [paragraph(_chosen(row), name=row["row"]), table(HEAD, _scores(row))]
    sections = {
        "Results": "".join(found)
        + paragraph(NOTE)
        + paragraph(
            "The head is chosen on videos of the training set that no head has seen, and test is read once. Recall is "
            "the mean over the classes that test shows of the share of their clips that have the class among the first "
            "five; clips of a class that train lacks are left out."
        )
    }
    for row in result["rows"]:
        sections[f"Classes: {row['row']}"] = _classes(out / row["row"])
    unread = _unread(result)
    sections["Not read"] = table(("clip", "reason"), unread.items(), left=2) if unread else paragraph("Nothing.")
    sections["Not read"] += folded("annotated, but not there", result["data"]["missing"])
    sections["Settings"] = folded("config", config)
    write_page(out / "report.html", f"Anticipation of {config['encoder']}", str(config["annotations"]), sections)


def _scores(row: dict[str, Any]) -> list[tuple[str, ...]]:
    lines = []
    for name in NAMES:
        found, best = row["test"][name], row["best_on_test"][name]
        recall = found["recall_at_5"]
        spans = (f"{recall[by][0]:.1%} – {recall[by][1]:.1%}" for by in ("clip95", "group95"))
        best_said = f"{best['recall_at_5']:.1%}, {best['top5']:.1%}"
        lines.append((name, f"{recall['value']:.1%}", *spans, f"{found['top5']['value']:.1%}", best_said))
    return lines


def _classes(folder: Path) -> str:
    """The classes of each head by their clips, and the clips that are hardest."""
    parts = []
    for name, rows in json.loads((folder / "per_class.json").read_text()).items():
        shares = [[_percent(r[key]) for key in ("recall_at_5", "recall", "precision")] for r in rows]
        cells = [(r["class"], str(r["clips"]), *own, r["taken_for"] or "") for r, own in zip(rows, shares, strict=True)]
        parts.append(paragraph("", name=name) + table(CLASSES, sorted(cells, key=lambda c: -int(c[1]))))
    sheet = folder / "hardest.png"
    return "".join(parts) + (picture(sheet, "What the probe is most surely wrong about") if sheet.is_file() else "")


def _counted(result: dict[str, Any]) -> str:
    config, data = result["config"], result["data"]
    counts, videos = data["actions"], data["videos"]
    sides = ", ".join(f"{name} {counts[name]} actions of {videos[name]} videos" for name in counts)
    lacking = ", ".join(f"{count} {name}s" for name, count in data["not_in_fit"].items() if count)
    gone = sum(map(len, data["missing"].values()))
    return (
        f"{sides}; {gone} videos not there, {len(data['unread'])} unreadable; clips end {config['ahead']:g} s before "
        f"the {config['anchor']} of the action" + (f"; no clip to fit on for {lacking}" if lacking else "")
    )


def _chosen(row: dict[str, Any]) -> str:
    c, said = row["chosen"], row["mask_token"]
    left_out = ", ".join(f"{count} clips for {name}" for name, count in row["not_in_train"].items() if count)
    return (
        f"{row['row']}: chosen lr {c['lr']:g}, weight decay {c['weight_decay']:g} of {row['heads']} heads by "
        f"{c['validation']:.1%} on validation"
        + (f"; train lacks the class of {left_out}" if left_out else "")
        + (
            f"; asked by mask token {said['mask_index']} of {said['mask_tokens']}, norm {said['mask_token_norm']:.3g}"
            if said
            else ""
        )
    )


def _unread(result: dict[str, Any]) -> dict[str, str]:
    """Videos that cannot be opened, and clips of which no row or some row could not be decoded."""
    found = dict(result["data"]["unread"])
    for sides in (row["unread"] for row in result["rows"]):
        for side, failed in sides.items():
            found |= {f"{name} ({side})": reason for name, reason in failed.items()}
    return found


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"
