"""The intrinsic suite: one scorecard of frozen encoders on packed videos, with pictures and curves over training."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from jepa import report_html as page
from jepa.config import ConfigError, from_dict
from jepa.data.config import DataConfig
from jepa.engines.launch import launched
from jepa.models.encoder import Encoder
from jepa.probes.clips import ClipSet, ClipSpec, load_clips, make_clips, open_split
from jepa.probes.config import ProbeConfig
from jepa.probes.features import make_encoder
from jepa.probes.run import PATIENCE
from jepa.probes.run import run as run_probes
from jepa.probes.suite import report as suite_report
from jepa.probes.suite.measures import make_views, measure
from jepa.probes.suite.page import RANDOM, picture_sections, some
from jepa.runs import encoder_config, run_and_step
from jepa.training import first_alone

RESULT, PAGE = "suite.json", "suite.html"
CLIPS = 512  # of either side, at most, for measures and pictures
VIEWED, VIEWS = 64, 8  # clips that LiDAR sees, and views of each


@dataclass(frozen=True)
class Checkpoint:
    """An encoder to look at: a released model, a run (its newest checkpoint), or a checkpoint `step` of `run`."""

    name: str
    path: str
    run: str
    step: int | None


def run(checkpoints: Sequence[str], config: ProbeConfig) -> dict[str, Any]:
    """Probe and measure each checkpoint; prints the scorecard, writes `out/suite.json` and `out/suite.html`.

    Every process of a launch calls it; encoding and probes are shared out as in `jepa probe`.
    `config` says what is asked of them, `config.encoder` is overruled; `frames` 0 stands for the frames and rate that
    the first was trained with. The table of a checkpoint is in `out/NAME`. Pictures are of the last checkpoint.

    Raises:
        ConfigError, CheckpointError, DataError, ProbeError: as `jepa.probes.run.run`.
    """
    named = names(checkpoints)
    out, config = Path(config.out), as_trained(replace(config, encoder=named[0].path))
    own = {c.name: replace(config, encoder=c.path, out=str(out / c.name)) for c in named}
    accelerator = Accelerator(**launched(PATIENCE))
    first_alone(accelerator, lambda: [_share(out, name) for name in own])
    tables = {name: run_probes(given) for name, given in own.items()}
    first_alone(accelerator, lambda: _finish(named, own, tables, out))
    return json.loads((out / RESULT).read_text())


def _finish(named: list[Checkpoint], own: dict[str, ProbeConfig], tables: dict[str, Any], out: Path) -> None:
    """Measure, print, and write the page; `own` and `tables` hold what each checkpoint was asked, and its answers."""
    own = {n: replace(c, encoder=tables[n]["encoder"]["path"]) for n, c in own.items()}  # a run may have gone on since
    last = list(own.values())[-1]
    train, test = _clips(last, out / "cache")
    encoders = {RANDOM: _encoder("random_init", last), **{n: _encoder("pretrained", c) for n, c in own.items()}}
    views = make_views(some(test, VIEWED).frames, VIEWS, last.seed)
    measured = {n: suite_report.plain(asdict(measure(e, test.frames, views))) for n, e in encoders.items()}
    result = {"checkpoints": [asdict(c) for c in named], "tables": tables, "measures": measured}
    (out / RESULT).write_text(json.dumps(result, indent=1, allow_nan=False))
    console = Console()
    suite_report.show(result, console)
    sections = suite_report.sections(result, out) | dict(picture_sections(encoders, last, train, test))
    subtitle = f"{last.shards_train}: {', '.join(c.path for c in named)}"
    page.write_page(out / PAGE, "jepa probe suite", subtitle, sections)
    console.print(f"wrote {out / PAGE}")


def _share(out: Path, name: str) -> None:
    """Let the table of a checkpoint find what that of another has made: clips, and rows that no checkpoint changes."""
    (out / name).mkdir(parents=True, exist_ok=True)
    for part in ("cache", "jobs"):
        (out / part).mkdir(exist_ok=True)
        if not (out / name / part).exists():
            (out / name / part).symlink_to(Path("..") / part, target_is_directory=True)


def names(checkpoints: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints with a name for each, its run's and its step's. Raises ConfigError where one is given twice."""
    found: list[Checkpoint] = []
    for path in checkpoints:
        folder, step = run_and_step(path)
        base = folder.name or folder.resolve().name
        name = base if step is None else f"{base}-{step}"
        if any(c.path == path for c in found):
            raise ConfigError(f"{path} is given twice")
        taken = sum(c.name.split("~")[0] == name for c in found)
        found.append(Checkpoint(f"{name}~{taken + 1}" if taken else name, path, str(folder), step))
    if not found:
        raise ConfigError("give a checkpoint: a run, RUN/checkpoints/step_…, or a released model")
    return found


def as_trained(config: ProbeConfig) -> ProbeConfig:
    """The config with the frames and rate of the encoder's training, where `frames` is 0.

    Raises:
        ConfigError: the encoder is no run of ours, which would say.
    """
    if config.frames:
        return config
    path = run_and_step(config.encoder)[0] / "config.json"
    values = json.loads(path.read_text()) if path.is_file() else {}
    if not isinstance(values.get("data"), dict) or "shards" not in values["data"]:
        raise ConfigError(f"{config.encoder} does not say on how many frames it was trained; give frames=… and fps=…")
    longest = max(from_dict(DataConfig, values["data"], str(path)).parts, key=lambda part: part.frames)
    return replace(config, frames=longest.frames, fps=max(0.0, longest.fps))


def _encoder(maker: str, config: ProbeConfig) -> Encoder:
    encoder = make_encoder(maker, config.encoder, config.seed)
    assert isinstance(encoder, Encoder)  # an image encoder is a row of the table, and no checkpoint
    return encoder


def _clips(config: ProbeConfig, cache: Path) -> list[ClipSet]:
    """Some train and test clips of the first seed."""
    size = config.size or encoder_config(config.encoder).size
    sides = open_split(config.shards_train, config.shards_test, config.seed)
    found = []
    for episodes, count in zip(sides, (config.clips_train, config.clips_test), strict=True):
        spec = ClipSpec(config.frames, config.fps, size, count, config.max_clips)
        files = make_clips(cache, episodes, spec, [config.seed], lambda done: None)
        found.append(some(load_clips(files[config.seed]), CLIPS))
    return found
