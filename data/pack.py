"""Turn a source of videos into shards: checked, indexed, and there as a whole or not at all."""

import importlib.resources
import inspect
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jepa.data import video
from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.index import FORMAT, INDEX_FILE, REJECTED_FILE, SPEC_FILE
from jepa.data.shards import ShardWriter
from jepa.data.sources.base import Episode, Rejected


@dataclass(frozen=True)
class PackReport:
    """What `pack` did; `seconds` is wall clock."""

    packed: int
    rejected: tuple[Rejected, ...]
    shards: int
    seconds: float


def source_names() -> list[str]:
    """The kinds of source: the files of `jepa.data.sources`."""
    folder = importlib.resources.files("jepa.data.sources")
    names = (Path(entry.name) for entry in folder.iterdir())
    return sorted(n.stem for n in names if n.suffix == ".py" and n.stem not in ("base", "__init__"))


def pack(
    kind: str,
    path: str | Path,
    out: str | Path,
    *,
    camera: str | None = None,
    short_side: int | None = None,
    shard_mb: float = 256,
    strict: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PackReport:
    """Pack the videos of source `kind` at `path` into WebDataset shards with an index at `out`.

    Videos are stored as they are; with `short_side` they become H.264 of at most that many pixels on the shorter
    side. Unusable files are listed in the report and in rejected.jsonl. Shards are closed once they hold
    `shard_mb` megabytes. `progress` is called with the number of files done. The same input gives the same
    bytes. Everything is written to `<out>.partial` and renamed at the end.

    Raises:
        DataError: unknown kind or camera, bad path, `out` holds something (packs only yield to `overwrite`), no
            usable video; with `strict`, after packing all others, an unusable file.
    """
    start = time.perf_counter()
    path, out = Path(path), Path(out)
    source = _source(kind, camera)
    promised = source.spec(path)
    _check_out(path, out, overwrite)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left over from a pack that was killed
    partial.mkdir(parents=True)
    try:
        found = source.episodes(path, camera) if camera else source.episodes(path)
        with ShardWriter(partial, shard_mb * 1e6) as shards:
            rejected = tuple(_write_all(found, promised, shards, short_side, progress))
        lines = shards.index()
        if not lines:
            reasons = "; ".join(f"{r.file}: {r.reason}" for r in rejected[:3])
            raise DataError(f"no usable video in '{path}'" + (f": {reasons}" if reasons else ""))
        spec = _complete(promised, lines)
        _write_json_lines(partial / INDEX_FILE, lines)
        _write_json_lines(partial / REJECTED_FILE, [asdict(r) for r in rejected])
        (partial / SPEC_FILE).write_text(json.dumps({"format": FORMAT, **asdict(spec)}, indent=1) + "\n")
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if strict and rejected:
        first = rejected[0]
        raise DataError(
            f"{len(rejected)} files cannot be used (listed in {out / REJECTED_FILE}), e.g. {first.file}: "
            f"{first.reason}; the other {len(lines)} are packed"
        )
    return PackReport(len(lines), rejected, len(shards.files), time.perf_counter() - start)


def _source(kind: str, camera: str | None) -> ModuleType:
    if kind not in (names := source_names()):
        raise DataError(f"no source '{kind}'; there are: {', '.join(names)}")
    source = importlib.import_module(f"jepa.data.sources.{kind}")
    if camera and "camera" not in inspect.signature(source.episodes).parameters:
        raise DataError(f"source '{kind}' has one view only; leave out camera '{camera}'")
    return source


def _check_out(path: Path, out: Path, overwrite: bool) -> None:
    if path.resolve().is_relative_to(out.resolve()):
        raise DataError(f"'{path}' lies inside '{out}', which would be replaced; choose another folder to write to")
    if out.resolve().is_relative_to(path.resolve()):
        raise DataError(f"'{out}' lies inside '{path}'; choose a folder outside of the source")
    if out.is_file():
        raise DataError(f"'{out}' is a file; choose a new folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / INDEX_FILE).is_file():
        raise DataError(f"'{out}' is not empty and holds no shards; choose a new folder")
    if not overwrite:
        raise DataError(f"'{out}' holds shards already; choose a new folder or give --overwrite")


def _write_all(
    found: Iterator[Episode | Rejected],
    promised: Spec,
    shards: ShardWriter,
    short_side: int | None,
    progress: Callable[[int], None] | None,
) -> Iterator[Rejected]:
    """Write what can be used; yield what cannot."""
    for done, item in enumerate(found, 1):
        if isinstance(item, Rejected):
            yield item
        else:
            try:
                info = video.inspect(item.video, to_shrink=bool(short_side))
                if short_side:
                    item = replace(item, video=video.shrink(item.video, short_side), suffix="mp4")
                    info = video.inspect(item.video)
                _check_arrays(item.arrays, info.frames, promised)
                shards.write(item, info)
            except DataError as error:
                yield Rejected(item.file, str(error))
        if progress:
            progress(done)


def _check_arrays(arrays: dict[str, np.ndarray], frames: int, promised: Spec) -> None:
    dims = {"actions": promised.action_dim, "states": promised.state_dim}
    if missing := [name for name, dim in dims.items() if dim and name not in arrays]:
        raise DataError(f"no {missing[0]}")
    for name, array in arrays.items():
        rows = frames - (name == "actions")
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise DataError(f"{name}: not finite numbers (dtype {array.dtype})")
        if array.ndim < 1 or len(array) != rows:
            raise DataError(f"{name}: shape {array.shape}, but the video's {frames} frames need {rows} rows")
        if name in dims and array.shape[1:] != (dims[name],):
            raise DataError(f"{name}: shape {array.shape}, but rows of {dims[name]} are promised")


def _complete(promised: Spec, lines: list[dict[str, Any]]) -> Spec:
    """The promise with what the packed videos turned out to be."""

    def common(name: str) -> Any:
        values = {line[name] for line in lines}
        return values.pop() if len(values) == 1 else None

    return replace(promised, samples=len(lines), fps=common("fps"), width=common("width"), height=common("height"))


def _write_json_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
