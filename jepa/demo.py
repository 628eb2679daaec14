"""The whole thread as one command: every stage is a public verb, run in its own process and skipped when done."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from jepa.config import ConfigError, load_config
from jepa.logs import console


@dataclass(frozen=True)
class DemoConfig:
    """What the verbs get that is not in their own presets of the same name."""

    collect_train: int = 480
    collect_heldout: int = 240
    steps: int = 24
    size: int = 64
    variation: float = 0.05  # of the looks of scenes, as in the shipped goals
    preset: str = MISSING


@dataclass(frozen=True)
class Stage:
    """Commands that run side by side (one process each); the stage is done when all have ended well."""

    name: str
    commands: tuple[tuple[str, ...], ...]


def stages(out: Path, config: DemoConfig) -> list[Stage]:
    """The verbs from video to report, in order, with the folders that link them."""
    jepa = (sys.executable, "-m", "jepa")
    # `accelerate launch`, told what it would otherwise warn that it assumes.
    told = ("--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--quiet", *told, "-m", "jepa")
    name = config.preset

    def collect(split: str, episodes: int, seed: int) -> tuple[str, ...]:
        flags = (f"--episodes={episodes}", f"--steps={config.steps}", f"--size={config.size}", f"--seed={seed}")
        return (*jepa, "collect", str(out / "episodes" / split), *flags, f"--variation={config.variation}")

    def pack(split: str) -> tuple[str, ...]:
        folders = (str(out / "episodes" / split), str(out / "shards" / split))
        return (*jepa, "pack", "collected", *folders, "--encode", "keep", "--overwrite")

    train, heldout = out / "shards" / "train", out / "shards" / "heldout"
    data = (f"shards={train}", f"heldout={heldout}")
    pretrain = (f"out={out / 'pretrain'}", f"data.shards={train}", f"heldout={heldout}")
    ours = (f"out={out / 'posttrain'}", f"encoder={out / 'pretrain'}", *data)
    control = (f"out={out / 'posttrain_random'}", f"encoder={name}", "weights=random", *data)
    probe = (
        f"out={out / 'probe'}",
        f"encoder={out / 'pretrain'}",
        f"shards_train={train}",
        f"shards_test={heldout}",
    )

    # Models this small gain nothing from a second core: training takes one and leaves the other to what runs beside
    # it. The control is the same world model on a randomly initialised encoder, so it need not wait for pre-training.
    return [
        Stage("collect", (collect("train", config.collect_train, 0),)),
        Stage("collect held-out", (collect("heldout", config.collect_heldout, 1),)),
        Stage("pack", (pack("train"), pack("heldout"))),
        Stage("pretrain and control", ((*launch, "pretrain", name, *pretrain), (*launch, "posttrain", name, *control))),
        Stage("posttrain and probe", ((*launch, "posttrain", name, *ours), (*jepa, "probe", name, *probe))),
        Stage(
            "plan",
            (
                (
                    *(*jepa, "plan", name, f"out={out / 'plan'}", f"world={out / 'posttrain'}"),
                    f"control={out / 'posttrain_random'}",
                ),
            ),
        ),
        Stage("report", ((*jepa, "report", str(out)),)),
    ]


def run(out: Path, preset: str) -> None:
    """Run every stage that is not done; `out/stages.json` says which are, and how long they took.

    Raises:
        ConfigError: the folder was begun with another preset or config.
    """
    config = load_config(DemoConfig, "demo", preset)
    claim(out, preset, config)
    ledger = out / "stages.json"
    seconds: dict[str, float] = json.loads(ledger.read_text()) if ledger.is_file() else {}
    todo = stages(out, config)
    for number, stage in enumerate(todo, start=1):
        head = f"[bold cyan]{number}/{len(todo)} {stage.name}[/]"
        if stage.name in seconds and stage.name != "report":
            console.print(f"{head} done before, in {seconds[stage.name]:.0f} s")
            continue
        console.print(head)
        start = time.monotonic()
        _run_side_by_side(stage)
        seconds[stage.name] = round(time.monotonic() - start, 1)
        _write(ledger, seconds)
    console.print(f"[bold green]all done[/] in {sum(seconds.values()):.0f} s: {out / 'report.html'}")


def claim(out: Path, preset: str, config: DemoConfig) -> None:
    """Write OUT/demo.json, which says what the folder is made with.

    Raises:
        ConfigError: it was begun with another preset or config.
    """
    path = out / "demo.json"
    ours: dict[str, Any] = {"preset": preset, "config": asdict(config)}
    if path.is_file():
        begun = json.loads(path.read_text())
        if begun["preset"] != preset:
            raise ConfigError(f"{out} was begun with preset {begun['preset']}, not {preset}; name another folder")
        old, new = begun["config"], ours["config"]
        if changed := [f"{k} {old.get(k)}, now {new.get(k)}" for k in old | new if old.get(k) != new.get(k)]:
            raise ConfigError(f"{out} was begun with another config ({changed[0]}); name another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    _write(path, ours)


def _write(path: Path, contents: Any) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(contents, indent=1))
    partial.replace(path)


def _run_side_by_side(stage: Stage) -> None:
    """Run a stage's commands; only the first draws progress. Exits with the code of the first that fails."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # waiting threads must not starve the other process
    running = [
        subprocess.Popen(command, env=environment if i == 0 else {**environment, "JEPA_QUIET": "1"})
        for i, command in enumerate(stage.commands)
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        console.print(
            f"[red]stage {stage.name} failed;[/] mend it and run the same command again: done stages are kept"
        )
        sys.exit(next(code for code in codes if code))
