"""Turn a source of videos into shards: checked, spread over processes and machines, resumed where it stopped."""

import hashlib
import importlib
import importlib.resources
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from jepa.data import video
from jepa.data.clip import Spec
from jepa.data.duplicates import looks
from jepa.data.errors import DataError
from jepa.data.index import DATASET_FILE, LARGEST_MEMBER
from jepa.data.merge import PLAN_FILE, Merged, merge, partial_folder
from jepa.data.parallel import in_order, time_limit
from jepa.data.shards import BLOCKS, DATA, Packed, beside, block_path, check_arrays, write_block
from jepa.data.sources.base import Recording, Rejected
from jepa.data.transcode import Encoding, transcode

LARGEST_SAMPLE = LARGEST_MEMBER - (1 << 20)  # bytes; tar headers and metadata come on top
LONGEST = 3600.0  # seconds that one recording may take before it counts as unreadable


@dataclass(frozen=True)
class PackConfig:
    """How recordings become samples. Whoever goes on with a pack must give the same.

    `encoding` None keeps the files' bytes. A block of `per_shard` recordings is one shard. Recordings shorter than
    `min_seconds` are left out, and with `unique` those that look the same as an earlier one.
    """

    camera: str | None = None
    encoding: Encoding | None = None
    per_shard: int = 256
    min_seconds: float = 0.0
    unique: bool = False

    def __post_init__(self) -> None:
        if self.per_shard < 1 or self.min_seconds < 0:
            raise DataError("per_shard must be at least 1 and min_seconds at least 0")


def source_names() -> list[str]:
    """The kinds of source: the files of `jepa.data.sources`."""
    folder = importlib.resources.files("jepa.data.sources")
    names = (Path(entry.name) for entry in folder.iterdir())
    return sorted(n.stem for n in names if n.suffix == ".py" and n.stem not in ("base", "__init__"))


def pack(
    kind: str,
    path: str | Path,
    out: str | Path,
    config: PackConfig = PackConfig(),
    *,
    part: tuple[int, int] = (0, 1),
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Merged | None:
    """Pack the recordings of source `kind` at `path` into WebDataset shards with an index at `out`.

    Unusable recordings are listed in the result and in rejected.jsonl. Everything is written to `<out>.partial`, which
    is renamed at the end; the same call goes on with a pack that was killed. With `part` (i, n) only every n-th block
    is packed, from the i-th on, and None is returned: `merge` puts the parts together. `progress` is called with the
    recordings done and to do, those of earlier calls included. The same input gives the same bytes, for any number of
    `workers` and parts.

    Raises:
        DataError: unknown kind or camera, bad path, `out` holds something (packs only yield to `overwrite`), a pack of
            other settings was begun there, no usable video.
    """
    path, out = Path(path), Path(out)
    if not 0 <= part[0] < part[1]:
        raise DataError(f"part {part[0]}/{part[1]}: parts are counted from 0 to {part[1] - 1}")
    if overwrite and part != (0, 1):
        raise DataError("--overwrite would remove what other parts have packed; give it to `jepa data merge`")
    source = _source(kind, config.camera)
    promised = source.spec(path)
    if config.encoding and config.encoding.fps and (promised.action_dim or promised.state_dim or promised.extra):
        raise DataError(f"'{path}' has arrays that belong to its frames; keep its frame rate (leave out fps)")
    _check_out(path, out, overwrite)
    folder = partial_folder(out)
    items = list(source.recordings(path, config.camera) if config.camera else source.recordings(path))
    items = list(_without_repeated_keys(items))
    blocks = [items[start : start + config.per_shard] for start in range(0, len(items), config.per_shard)]
    _begin(folder, _plan(kind, path, config, promised, items, len(blocks)), overwrite)
    mine = range(part[0], len(blocks), part[1])
    todo = [b for b in mine if not block_path(folder, b).exists()]
    total = sum(len(blocks[b]) for b in mine)
    done = total - sum(len(blocks[b]) for b in todo)
    work = partial(prepare, kind, path, config, promised)
    results = in_order(work, (item for b in todo for item in blocks[b]), workers, _crashed)
    for b in todo:
        block = []
        for _ in blocks[b]:
            block.append(next(results))
            done += 1
            if progress:
                progress(done, total)
        write_block(folder, b, block)
    return merge(out, overwrite=overwrite) if part == (0, 1) else None


def prepare(kind: str, path: Path, config: PackConfig, promised: Spec, item: Recording | Rejected) -> Packed | Rejected:
    """One recording, loaded, checked and re-encoded; or why it cannot be used."""
    if isinstance(item, Rejected):
        return item
    with time_limit(LONGEST):  # a decoder that hangs ends its process
        try:
            episode = importlib.import_module(f"jepa.data.sources.{kind}").load(path, item)
            info = video.inspect(episode.video, to_transcode=config.encoding is not None)
            if info.frames / info.fps < config.min_seconds:
                raise DataError(f"{info.frames / info.fps:.2f} s long, less than {config.min_seconds:g} s")
            if config.encoding:
                data, suffix = transcode(episode.video, config.encoding, info)
                episode, info = replace(episode, video=data, suffix=suffix), video.inspect(data)
            check_arrays(episode.arrays, info.frames, promised)
            if (size := len(episode.video) + sum(a.nbytes for a in episode.arrays.values())) > LARGEST_SAMPLE:
                raise DataError(
                    f"{size / 2**30:.1f} GiB as packed, more than can be read at once; cut it or re-encode it"
                )
            return Packed(item, episode, info, looks(episode.video, info) if config.unique else "")
        except DataError as error:
            return Rejected(item.file, str(error))


def _crashed(item: Recording | Rejected) -> Rejected:
    return Rejected(item.file, f"the process that read it died, or took more than {LONGEST:.0f} s")


def _without_repeated_keys(items: Iterable[Recording | Rejected]) -> Iterator[Recording | Rejected]:
    seen: set[str] = set()
    for item in items:
        if isinstance(item, Recording) and item.key in seen:
            yield Rejected(item.file, f"key '{item.key}' is taken by another recording; rename one")
        else:
            seen.add(item.key if isinstance(item, Recording) else "")
            yield item


def _source(kind: str, camera: str | None) -> ModuleType:
    if kind not in (names := source_names()):
        raise DataError(f"no source '{kind}'; there are: {', '.join(names)}")
    source = importlib.import_module(f"jepa.data.sources.{kind}")
    if camera and "camera" not in inspect.signature(source.recordings).parameters:
        raise DataError(f"source '{kind}' has one view only; leave out camera '{camera}'")
    return source


def _check_out(path: Path, out: Path, overwrite: bool) -> None:
    for folder in (out, partial_folder(out)):
        if path.resolve().is_relative_to(folder.resolve()):
            raise DataError(
                f"'{path}' lies inside '{folder}', which would be replaced; choose another folder to write to"
            )
    if out.resolve().is_relative_to(path.resolve()):
        raise DataError(f"'{out}' lies inside '{path}'; choose a folder outside of the source")
    if out.is_file():
        raise DataError(f"'{out}' is a file; choose a new folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / DATASET_FILE).is_file():
        raise DataError(f"'{out}' is not empty and holds no shards; choose a new folder")
    if not overwrite:
        left_over = partial_folder(out)
        if (left_over / PLAN_FILE).is_file() and not (left_over / DATA).exists():  # killed with the last move done
            shutil.rmtree(left_over)
        raise DataError(f"'{out}' holds shards already; choose a new folder or give --overwrite")


def _plan(
    kind: str, path: Path, config: PackConfig, promised: Spec, items: list[Recording | Rejected], blocks: int
) -> dict[str, Any]:
    """What must be the same for a pack to go on, and what `merge` needs."""
    names = "\n".join(item.key if isinstance(item, Recording) else f"- {item.file}" for item in items)
    digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
    plan = {"kind": kind, "path": str(path.resolve()), "config": asdict(config), "spec": asdict(promised)}
    return json.loads(json.dumps({**plan, "blocks": blocks, "recordings": digest}))


def _begin(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Make the folder of an unfinished pack, or check that what is there is the same pack; parts may begin together."""
    if overwrite and (folder / PLAN_FILE).is_file() and json.loads((folder / PLAN_FILE).read_text()) != plan:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    foreign = [p.name for p in folder.iterdir() if not p.name.startswith(PLAN_FILE)]  # or of a part with a plan by now
    if not (folder / PLAN_FILE).is_file():
        if foreign:
            raise DataError(f"'{folder}' is in the way and no pack of ours (it holds '{foreign[0]}'); move it away")
        temporary = beside(folder / PLAN_FILE)
        temporary.write_text(json.dumps(plan))
        with suppress(FileExistsError):  # another part was first
            os.link(temporary, folder / PLAN_FILE)
        temporary.unlink()
    begun = json.loads((folder / PLAN_FILE).read_text())
    if begun != plan:
        other = next(key for key in plan if begun.get(key) != plan[key])
        raise DataError(f"'{folder}' was begun with another {other}; give --overwrite to start over, or remove it")
    for name in (BLOCKS, DATA):
        (folder / name).mkdir(exist_ok=True)
