"""The dashboard of a training run: a pure function from its figures to something that rich can draw."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jepa.figures import Figures, Record, lights

BLOCKS = " ▁▂▃▄▅▆▇█"
ALARMS = 3  # the newest that are shown
QUIET = 60  # seconds without a new step that are worth a word
MEASURED = ("health/", "heldout/", "probe/")  # every now and then
STATES = {"running": "green", "done": "green", "preempted": "yellow", "failed": "red"}


class Sparkline:
    """Values as `rows` lines of blocks, as wide as there is room for, from their lowest to their highest."""

    def __init__(self, values: Sequence[float], rows: int = 3, style: str = "cyan") -> None:
        self.values, self.rows, self.style = values, rows, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for line in blocks(self.values, options.max_width, self.rows):
            yield Text(line, style=self.style, no_wrap=True)


def blocks(values: Sequence[float], width: int, rows: int = 1) -> list[str]:
    """`rows` lines of at most `width` block characters, the top one first; a column is the mean of its values."""
    width = min(width, len(values))
    if not width:
        return [""] * rows
    edges = [i * len(values) // width for i in range(width + 1)]
    columns = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(columns), max(columns)
    steps = rows * 8 - 1
    levels = [1 + round(steps * (c - low) / (high - low)) if high > low else rows * 4 for c in columns]
    return ["".join(BLOCKS[min(8, max(0, level - 8 * row))] for level in levels) for row in reversed(range(rows))]


def panel(
    name: str,
    figures: Figures,
    total: int,
    alarms: Sequence[Record] = (),
    state: str = "running",
    checkpoint: int | None = None,
    silent: float = 0.0,
) -> RenderableType:
    """The dashboard of the run `name` of `total` steps.

    `alarms` are the lines of alarms.jsonl, `state` what status.json says, `checkpoint` the step of the newest one;
    `silent` are the seconds since the log's last line.
    """
    parts: list[RenderableType] = [_progress(figures, total)]
    if figures.loss.means:
        parts += ["", _losses(figures), Sparkline(figures.loss.means)]
    parts += [Text(text) for text in (_optimisation(figures), _health(figures)) if text]
    parts += ["", _lights(figures, alarms), ""]
    if fast := speed(figures):
        parts.append(Text(fast))
    parts.append(Text(f"checkpoint of step {checkpoint:,}" if checkpoint is not None else "no checkpoint yet"))
    parts += _alarms(alarms)
    title = Text.assemble((f" {state} ", STATES.get(state, "")), (f"{name} ", "bold"))  # a long name is cut at its end
    if state == "running" and silent > QUIET:
        parts.append(Text(f"no new step for {duration(silent)}", style="yellow"))
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim", padding=(0, 1))


def line(name: str, figures: Figures, total: int) -> str:
    """The run in one plain line, for a log file."""
    told = [f"{name} step {figures.step}/{total}"]
    told += [f"{key} {figures.last[key]:.4g}" for key in ("loss", "lr", "grad_norm") if key in figures.last]
    measured = [key for key in figures.record if key.startswith(MEASURED) and key in figures.last]  # NaN is not
    told += [f"{key.split('/')[1]} {figures.last[key]:.4g}" for key in measured]
    if figures.skipped:
        told.append(f"skipped {figures.skipped}")
    if "speed/clips_s" in figures.usual:
        told.append(f"{figures.usual['speed/clips_s']:.4g} clips/s")
    if "speed/step_s" in figures.usual:
        told.append(f"left {duration(left(figures, total))}")
    return "  ".join(told)


def left(figures: Figures, total: int) -> float:
    """Seconds until step `total`, at the usual time of a step."""
    return (total - figures.step) * figures.usual["speed/step_s"]


def speed(figures: Figures) -> str:
    """Speed and memory in one line; what was not logged is left out."""
    forms = {
        "speed/clips_s": "{:.4g} clips/s",
        "speed/tokens_s": "{:,.0f} tokens/s",
        "speed/step_s": "{:.3g} s a step",
        "speed/tflops": "{:.3g} TFLOP/s",
        "speed/mfu": "{:.0%} MFU",
        "speed/memory_gib": "{:.3g} GiB",
    }
    return "   ".join(form.format(figures.usual[key]) for key, form in forms.items() if key in figures.usual)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03; days before them where there are any."""
    days, rest = divmod(round(seconds), 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def _progress(figures: Figures, total: int) -> RenderableType:
    text = f"step {figures.step:,} of {total:,} ({figures.step / total:.0%})"
    if "speed/step_s" in figures.usual:
        text += f"   {duration(figures.seconds)} so far"
        if figures.step < total:
            text += f", {duration(left(figures, total))} left"
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(ProgressBar(total, figures.step), text)
    return grid


def _losses(figures: Figures) -> Text:
    parts = [f"{key[5:]} {value:.4g}" for key, value in figures.usual.items() if key.startswith("loss_")]
    of_parts = f" ({', '.join(parts)})" if parts else ""
    means = figures.loss.means
    rest = f"{of_parts}   first {figures.first['loss']:.4g}, lowest {min(means):.4g}"
    return Text.assemble("loss ", (f"{figures.usual['loss']:.4g}", "bold"), rest)


def _optimisation(figures: Figures) -> str:
    names = {"lr": "learning rate", "grad_norm": "gradient norm", "cosine": "cosine to the target"}
    return "   ".join(f"{name} {figures.last[key]:.3g}" for key, name in names.items() if key in figures.last)


def _health(figures: Figures) -> str:
    """What is measured every now and then, but for what a light shows."""
    shown = {key: value for key, value in figures.last.items() if key.startswith(("heldout/", "probe/"))}
    return "   ".join(f"{key.replace('/', ' ')} {value:.3g}" for key, value in shown.items())


def _lights(figures: Figures, alarms: Sequence[Record]) -> Table:
    grid = Table.grid(padding=(0, 1))
    for colour, name, text in lights(figures, alarms):
        style = "bright_black" if colour == "grey" else colour
        grid.add_row(Text("●", style=style), Text(name, style="bold"), Text(text))
    return grid


def _alarms(alarms: Sequence[Record]) -> list[RenderableType]:
    shown = [
        Text.assemble((f"step {alarm['step']:,} {alarm['kind']}: ", "red"), alarm["text"]) for alarm in alarms[-ALARMS:]
    ]
    more = len(alarms) - len(shown)
    return [*shown, Text(f"and {more} earlier {'alarm' if more == 1 else 'alarms'}", style="dim")] if more else [*shown]
