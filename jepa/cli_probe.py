"""The verbs of `jepa probe`: a preset on packed videos, the suite, comparisons, and the published benchmarks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jepa.cli_config import Overrides, Preset, configured, group

app = typer.Typer(
    name="probe",
    cls=group("run"),
    no_args_is_help=True,
    help="Ask a frozen encoder what it knows. `jepa probe PRESET key=value …` is short for `jepa probe run`.",
)


@app.command("run")
def run(preset: Preset, overrides: Overrides = None) -> None:
    """Probe the frozen encoder on packed videos, against its random initialisation and raw pixels."""
    from jepa.probes.config import ProbeConfig
    from jepa.probes.run import run as probe

    probe(configured(ProbeConfig, "probe", preset, overrides))


@app.command()
def suite(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT… SHARDS [KEY=VALUE…]",
            help="Runs, RUN/checkpoints/step_…, or released models; then a packed folder; then settings.",
        ),
    ],
    preset: Annotated[str, typer.Option(help="Preset of configs/probe, or path of a YAML file.")] = "suite",
) -> None:
    """Print and write one scorecard of encoders, without labels: tasks, rank measures, pictures, curves over training.

    Several checkpoints of one run give curves. Settings are those of `jepa probe run`, such as out=… and seeds=….
    """
    from jepa.config import ConfigError
    from jepa.probes.config import ProbeConfig
    from jepa.probes.suite.run import run as of

    paths, overrides = _apart(given)
    if len(paths) < 2:
        raise ConfigError("jepa probe suite takes at least a checkpoint and a packed folder, in this order")
    *checkpoints, shards = paths
    own = [f"encoder={checkpoints[0]}", f"shards_train={shards}", *overrides]
    of(checkpoints, configured(ProbeConfig, "probe", preset, own))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Results of `jepa probe`; the first is the reference.")],
    row: Annotated[str, typer.Option(help="The row to compare: pretrained, random_init, pixels …")] = "pretrained",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    out: Annotated[str, typer.Option(help="A JSON file for the result.")] = "",
) -> None:
    """Say how results differ from the first, clip by clip, with 95 % intervals over episodes and seeds."""
    from jepa.probes.compare import run as of

    of(folders, row, seed, out)


@app.command()
def benchmark(preset: Preset, overrides: Overrides = None) -> None:
    """Run a published protocol on official lists: k400, ssv2, coin, diving48, jester, in1k; _vitl, _vith, _vitg384."""
    from jepa.probes.published.benchmark import run as of
    from jepa.probes.published.benchmark_config import BenchmarkConfig

    of(configured(BenchmarkConfig, "benchmark", preset, overrides))


@app.command()
def anticipation(preset: Preset, overrides: Overrides = None) -> None:
    """Run EPIC-KITCHENS-100 action anticipation, from encoder and predictor: ek100_vitl … ek100_vitg384."""
    from jepa.probes.published.anticipation import AnticipationConfig
    from jepa.probes.published.anticipation import run as of

    of(configured(AnticipationConfig, "anticipation", preset, overrides))


@app.command()
def dense(preset: Preset, overrides: Overrides = None) -> None:
    """Probe token maps for segmentation or depth, from folders of images and label maps."""
    from jepa.probes.dense.run import DenseConfig
    from jepa.probes.dense.run import run as of

    of(configured(DenseConfig, "dense", preset, overrides))


def _apart(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths, and key=value settings; a path that holds a = is a path where it is there."""
    settings = [a for a in given if "=" in a and not Path(a).exists()]
    return [a for a in given if a not in settings], settings
