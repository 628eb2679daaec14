"""The verbs of `jepa` that are about data: `pack`, and `data merge|verify|stats|show`."""

import math
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from jepa.data.clip import Clip
    from jepa.data.merge import Merged
    from jepa.data.stats import Table
    from jepa.pretrain import PretrainConfig

app = typer.Typer(name="data", no_args_is_help=True, help="Look at and look after packed data.")

SHOWN = 20  # rejected recordings that are listed on the terminal

Shards = Annotated[str, typer.Argument(help="Folder or URL (s3, gs, hf, https) that `jepa pack` wrote.")]
Out = Annotated[Path, typer.Argument(help="Folder that the shards are for.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with an error if any recording was rejected.")]


def pack(
    source: Annotated[
        str, typer.Argument(help="Kind of source: folder, csv, images, lerobot, droid, robomimic, collected.")
    ],
    path: Annotated[Path, typer.Argument(help="Where the recordings are.")],
    out: Annotated[Path, typer.Argument(help="Folder to write shards to.")],
    encode: Annotated[
        str, typer.Option(help="h264 (small, quick to seek), jpeg (quickest to read), or keep the files' bytes.")
    ] = "h264",
    short_side: Annotated[
        int, typer.Option(min=0, help="Shrink to this short side in pixels; 0 keeps the size.")
    ] = 256,
    gop: Annotated[int, typer.Option(min=1, help="A key frame every so many frames, for h264.")] = 16,
    fps: Annotated[float, typer.Option(min=0, help="Resample to this frame rate; 0 keeps every frame.")] = 0.0,
    camera: Annotated[str, typer.Option(help="Only this camera, where a source has several.")] = "",
    min_seconds: Annotated[float, typer.Option(min=0, help="Leave out shorter recordings.")] = 0.0,
    unique: Annotated[bool, typer.Option("--unique", help="Leave out what looks the same as an earlier one.")] = False,
    per_shard: Annotated[int, typer.Option(min=1, help="Recordings of one shard.")] = 256,
    part: Annotated[str, typer.Option(help="I/N: pack this part only, I from 0; then `jepa data merge OUT`.")] = "0/1",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one for each CPU.")] = 0,
    strict: Strict = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards that are already there.")] = False,
) -> None:
    """Pack recordings into WebDataset shards with an index; unusable ones are listed with their reasons.

    A killed pack goes on when the same command is given again.
    """
    from jepa.data.errors import DataError
    from jepa.data.pack import PackConfig
    from jepa.data.pack import pack as run
    from jepa.data.transcode import Encoding
    from jepa.logs import progress_bar

    try:
        i, n = (int(number) for number in part.split("/"))
    except ValueError:
        raise DataError(f"--part {part}: must be I/N, e.g. 0/8") from None
    if encode not in ("h264", "jpeg", "keep"):
        raise DataError(f"--encode {encode}: must be h264, jpeg or keep")
    encoding = None if encode == "keep" else Encoding(encode, short_side, gop, fps)
    config = PackConfig(camera or None, encoding, per_shard, min_seconds, unique)
    start, before = time.perf_counter(), -1
    with progress_bar() as bar:
        task = bar.add_task(f"pack {path.name}", total=None, figures="")

        def progress(done: int, total: int) -> None:
            nonlocal before
            before = done - 1 if before < 0 else before  # what an earlier call packed is no merit of this one
            rate = (done - before) / (time.perf_counter() - start)
            bar.update(task, completed=done, total=total, figures=f"{rate:.1f} a second")

        merged = run(
            source,
            path,
            out,
            config,
            part=(i, n),
            workers=workers or os.cpu_count() or 1,
            overwrite=overwrite,
            progress=progress,
        )
    if merged:
        _tell(out, merged, strict)


@app.command()
def merge(
    out: Out,
    strict: Strict = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace shards that are already there.")] = False,
) -> None:
    """Put together what `jepa pack --part` packed, once all parts are there."""
    from jepa.data.merge import merge as run

    _tell(out, run(out, overwrite=overwrite), strict)


@app.command()
def verify(shards: Shards) -> None:
    """Check every byte of packed data against its index, and name what is damaged, missing or harmful."""
    from rich.markup import escape

    from jepa.data.errors import DataError
    from jepa.data.index import Manifest
    from jepa.data.verify import verify as run
    from jepa.logs import console, progress_bar

    faults = []
    with progress_bar() as bar:
        task = bar.add_task("verify, MB", total=None, figures="")
        for fault in run(shards, progress=lambda at, end: bar.update(task, completed=at / 1e6, total=end / 1e6)):
            faults.append(fault)
            console.print(f"[red]fault[/] {escape(fault.file)}: {escape(fault.reason)}", soft_wrap=True)
    if faults:
        first = f"{faults[0].file}: {faults[0].reason}"
        raise DataError(f"{shards}: {len(faults)} faults, the first: {first}; put sound files back or pack again")
    manifest = Manifest.load(shards)
    console.print(
        f"{len(manifest)} samples in {len(manifest.shards)} shards: every byte of shards and index is as it was packed"
    )


@app.command()
def stats(
    shards: Shards,
    out: Annotated[Path | None, typer.Option(help="PNG file to draw them to, too.", show_default=False)] = None,
) -> None:
    """Print what packed data hold: counts, lengths, sizes, actions and states with their units, labels."""
    from rich.console import Console

    from jepa.data.index import Manifest
    from jepa.data.stats import plot, tables

    _check_suffix(out, ".png")
    manifest = Manifest.load(shards)
    print_tables(Console(), tables(manifest))
    if out:
        plot(manifest, out)


@app.command()
def show(
    shards: Shards,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value …, last.", show_default=False)] = None,
    preset: Annotated[str, typer.Option(help="Pre-training preset, or YAML file: it says what a clip is.")] = "demo",
    count: Annotated[int, typer.Option("--clips", min=1, help="How many clips.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the training run whose first clips are shown.")] = 0,
    masks: Annotated[bool, typer.Option("--masks", help="Also show, for each mask, what the encoder sees.")] = False,
    out: Annotated[Path, typer.Option(help="PNG file for a contact sheet, or MP4 file for a film.")] = Path(
        "clips.png"
    ),
) -> None:
    """Draw the first clips of a pre-training run as the model sees them: sampled, cropped, mirrored, augmented."""
    from jepa.config import load_config
    from jepa.data.config import load_manifests
    from jepa.data.loader import clips
    from jepa.data.show import contact_sheet, film, write_mp4, write_png
    from jepa.logs import console
    from jepa.pretrain import PretrainConfig

    _check_suffix(out, ".png", ".mp4")
    config = load_config(PretrainConfig, "pretrain", preset, ["out=unused", f"seed={seed}", *(overrides or ())])
    data = replace(config.data, shards=shards, mix=[], workers=0, cache_gb=0.0)
    (manifest,) = load_manifests(data)
    feed = clips([manifest], data, batch_size=count, seed=config.seed, steps=1)
    clip = next(feed)
    for skipped in feed.skipped:
        console.print(
            f"[yellow]unreadable, replaced[/] {skipped.shard}: {skipped.key}: {skipped.reason}", soft_wrap=True
        )
    entries = [manifest[i] for i in clip.sample_id.tolist()]
    rates = [data.fps if data.fps > 0 else entry.fps for entry in entries]
    labels = [f"{entry.key} · {rate:.4g} fps" for entry, rate in zip(entries, rates, strict=True)]
    hidden = _hidden(config, clip) if masks else {}
    if out.suffix == ".png":
        write_png(out, contact_sheet(clip, labels, hidden))
    else:
        write_mp4(out, film(clip, labels, hidden), sum(rates) / len(rates))
    console.print(f"{count} clips of {clip.frames.shape[1]} frames in {out}", soft_wrap=True)


def _hidden(config: "PretrainConfig", clip: "Clip") -> "dict[str, Tensor]":
    """By name of a mask config: (B, T, h, w) bool, True where the encoder is not shown the pixels."""
    import torch
    from einops import repeat

    from jepa.config import ConfigError, build

    (b, length, *_), c = clip.frames.shape, config.encoder
    try:
        grid = c.grid(length, *clip.frames.shape[3:])
    except ValueError as error:
        raise ConfigError(f"clips do not divide into tokens: {error}; change data or encoder") from error
    sampler = build(config.masks, config.seed)
    hidden = {}
    samples = sampler.sample(grid, clip.sample_id, clip.epoch, clip.step)
    for name, mask in zip(sampler.names, samples, strict=True):
        unseen = torch.ones(b, math.prod(grid), dtype=torch.bool).scatter(1, mask.context, False).view(b, *grid)
        pixels = repeat(unseen, "b t r c -> b (t tt) (r p) (c q)", tt=c.tubelet, p=c.patch, q=c.patch)
        hidden[f"{name} masks"] = pixels[:, :length]  # an image is one frame of its tubelet
    return hidden


def _check_suffix(out: Path | None, *suffixes: str) -> None:
    """Before the work is done, not after."""
    from jepa.data.errors import DataError

    if out and out.suffix not in suffixes:
        raise DataError(f"--out {out}: must end with {' or '.join(suffixes)}")


def print_tables(console: "Console", tables: "Iterable[Table]") -> None:
    from rich import box
    from rich.table import Table as Drawn

    for table in tables:
        head = any(table.head)
        drawn = Drawn(title=table.title, title_justify="left", show_header=head, box=box.SIMPLE_HEAD if head else None)
        for i, name in enumerate(table.head):
            drawn.add_column(name, justify="right" if i and len(table.head) > 2 else "left")
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)


def _tell(out: Path, merged: "Merged", strict: bool) -> None:
    from jepa.data.errors import DataError
    from jepa.data.index import REJECTED_FILE, Manifest
    from jepa.data.stats import tables
    from jepa.logs import console

    print_tables(console, tables(Manifest.load(out))[:2])  # counts; lengths and sizes
    console.print(f"{merged.packed} recordings packed, {len(merged.rejected)} rejected; in {out}", soft_wrap=True)
    for rejected in merged.rejected[:SHOWN]:
        console.print(f"[yellow]rejected[/] {rejected.file}: {rejected.reason}", soft_wrap=True)
    if len(merged.rejected) > SHOWN:
        console.print(f"[yellow]… and {len(merged.rejected) - SHOWN} more[/] in {out / REJECTED_FILE}", soft_wrap=True)
    if strict and merged.rejected:
        first = merged.rejected[0]
        raise DataError(
            f"{len(merged.rejected)} recordings cannot be used (listed in {out / REJECTED_FILE}), "
            f"e.g. {first.file}: {first.reason}; the other {merged.packed} are packed"
        )
