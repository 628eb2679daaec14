"""Pieces of a self-contained HTML page: tables, pictures as data URIs, and the page around them."""

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STYLE = """
:root { color-scheme: light dark; --ink: #1d2529; --soft: #5d6a70; --page: #fbfaf8; --card: #fff;
  --line: #dedad3; --accent: #2a6f97; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e7; --soft: #9fabb1; --page: #15191b; --card: #1d2326;
  --line: #343d41; --accent: #7fbde0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 5rem; max-width: 74rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .3rem; }
p { max-width: 48rem; margin: .5rem 0; }
nav { font-size: .9rem; color: var(--soft); margin: .6rem 0 1.5rem; }
a { color: var(--accent); text-decoration: none; }
.lead { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.2rem; }
.lead p { max-width: none; margin: .3rem 0; }
.soft, figcaption { color: var(--soft); font-size: .88rem; }
.absent { color: var(--soft); font-style: italic; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
th.left, td.left { text-align: left; white-space: normal; }
tr.marked td { font-weight: 650; }
tr.rule td { border-top: 2px solid var(--line); }
.strips th { font-weight: 500; }
.strips td, .strips th { border: 0; padding: .15rem .8rem .15rem 0; text-align: left; white-space: normal; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; }
img.plot { background: #fff; border-radius: 8px; border: 1px solid var(--line); }
img.pixels { image-rendering: pixelated; }
.strips img { display: block; max-width: none; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); gap: 1.2rem; }
.films figure { margin: 0; }
.films img.plot { max-height: 17rem; width: auto; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .3em; }
.light { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
details { margin: .5rem 0; } summary { cursor: pointer; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem;
  overflow-x: auto; font-size: .8rem; line-height: 1.45; }
pre.commands { white-space: pre-wrap; overflow-wrap: anywhere; }
"""

LIGHTS = {"green": "#3f9a5b", "yellow": "#d9a520", "red": "#c8453f", "grey": "#9aa5ab"}


def paragraph(text: str, kind: str = "", name: str = "") -> str:
    """Escaped text in a paragraph, after its `name` in bold; `backticks` become code."""
    parts = html.escape(text, quote=False).split("`")
    marked = "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))
    marked = f"<b>{html.escape(name)}.</b> {marked}" if name else marked
    return f'<p class="{kind}">{marked}</p>' if kind else f"<p>{marked}</p>"


def absent(reason: object) -> str:
    """The sentence that stands where a part is missing."""
    return paragraph(f"not run: {reason}", "absent")


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, marked: str = "", group: int = -1
) -> str:
    """A table of plain text; the first `left` columns are names.

    Rows that hold a cell equal to `marked` are bold; a new value in column `group` draws a line.
    """
    rows = [list(row) for row in rows]
    lines = []
    for i, row in enumerate(rows):
        rule = group >= 0 and i > 0 and row[group] != rows[i - 1][group]
        kinds = [kind for kind, wanted in (("marked", marked and marked in row), ("rule", rule)) if wanted]
        lines.append(f'<tr class="{" ".join(kinds)}">{_cells("td", row, left)}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr>{_cells("th", head, left)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cells(tag: str, cells: Sequence[str], left: int) -> str:
    kinds = [' class="left"' if i < left else "" for i in range(len(cells))]
    return "".join(f"<{tag}{k}>{html.escape(c, quote=False)}</{tag}>" for k, c in zip(kinds, cells, strict=True))


def plot(figure: Any, caption: str) -> str:
    """A matplotlib figure as an embedded PNG with a caption."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png", dpi=120)
    return _figure(_uri(file.getvalue(), "png"), caption, "plot")


def picture(path: Path, caption: str, kind: str = "plot") -> str:
    """A PNG or GIF file, embedded."""
    return _figure(_uri(path.read_bytes(), path.suffix[1:]), caption, kind)


def strips(rows: Sequence[tuple[str, np.ndarray]], side: int) -> str:
    """Rows of square images (T, h, w, 3) uint8, shown `side` pixels large, each row with its name."""
    lines = []
    for name, images in rows:
        joined = side_by_side(images)
        uri, width = _uri(_png(joined), "png"), joined.shape[1] * side // joined.shape[0]
        name = html.escape(name)
        image = f'<img class="pixels" width="{width}" alt="{name}" src="{uri}">'
        lines.append(f"<tr><th>{name}</th><td>{image}</td></tr>")
    return f'<div class="scroll"><table class="strips">{"".join(lines)}</table></div>'


def mosaic(images: np.ndarray, columns: int, caption: str) -> str:
    """Images (B, h, w, 3) uint8 in rows of `columns`, as one picture."""
    rows = [side_by_side(images[i : i + columns]) for i in range(0, len(images), columns)]
    height, width = rows[0].shape[:2]
    sheet = np.zeros((len(rows) * (height + 2) - 2, width, 4), np.uint8)
    for i, row in enumerate(rows):
        sheet[i * (height + 2) :][:height, : row.shape[1]] = row
    return _figure(_uri(_png(sheet), "png"), caption, "pixels")


def side_by_side(images: np.ndarray) -> np.ndarray:
    """Images (T, h, w, 3) uint8 -> one (h, ·, 4) with two transparent pixels between them."""
    height, width = images[0].shape[:2]
    out = np.zeros((height, len(images) * (width + 2) - 2, 4), np.uint8)
    for i, image in enumerate(images):
        out[:, i * (width + 2) :][:, :width] = np.dstack([image, np.full((height, width), 255, np.uint8)])
    return out


def legend(colours: dict[str, str]) -> str:
    """Names with their colours."""
    items = (f'<span class="swatch" style="background:{c}"></span>{html.escape(name)}' for name, c in colours.items())
    return f'<p class="soft">{"&emsp;".join(items)}</p>'


def lights(rows: Sequence[tuple[str, str, str]]) -> str:
    """Lines of (colour, name, text), each with a light of its colour."""
    lines = (
        f'<tr><th><span class="light" style="background:{colour}"></span>{html.escape(name)}</th>'
        f"<td>{html.escape(text)}</td></tr>"
        for colour, name, text in rows
    )
    return f'<table class="strips">{"".join(lines)}</table>'


def folded(title: str, values: Any) -> str:
    """JSON-able values that open on a click."""
    text = html.escape(json.dumps(values, indent=1), quote=False)
    return f"<details><summary>{html.escape(title)}</summary><pre>{text}</pre></details>"


def commands(lines: Sequence[str]) -> str:
    """Command lines."""
    return f'<pre class="commands">{html.escape(chr(10).join(lines), quote=False)}</pre>'


def page(title: str, subtitle: str, sections: dict[str, str]) -> str:
    """The whole document; sections by heading, in order."""
    anchors = {name: f"s{i}" for i, name in enumerate(sections)}
    links = " · ".join(f'<a href="#{anchors[name]}">{html.escape(name)}</a>' for name in sections)
    body = "\n".join(f'<h2 id="{anchors[name]}">{html.escape(name)}</h2>\n{text}' for name, text in sections.items())
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{paragraph(subtitle, 'soft')}\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


def write_page(path: Path, title: str, subtitle: str, sections: dict[str, str]) -> Path:
    """Write `page` as a file, which is whole at any time; returns its path."""
    partial = path.with_suffix(".partial")
    partial.write_text(page(title, subtitle, sections), encoding="utf-8")
    return partial.replace(path)


def _figure(uri: str, caption: str, kind: str) -> str:
    text = html.escape(caption)
    return f'<figure><img class="{kind}" alt="{text}" src="{uri}"><figcaption>{text}</figcaption></figure>'


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _png(image: np.ndarray) -> bytes:
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, image, format="png")
    return file.getvalue()
