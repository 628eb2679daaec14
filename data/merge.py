"""Put the blocks of a pack together: the index, the statistics, the ledger of what was rejected."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.clip import Spec
from jepa.data.duplicates import near_duplicates
from jepa.data.errors import DataError
from jepa.data.index import (
    DATASET_FILE,
    FORMAT,
    INDEX_FILES,
    MEMBER,
    REJECTED_FILE,
    SAMPLE,
)
from jepa.data.shards import DATA, block_path, file_sha256, write_whole
from jepa.data.sources.base import Rejected

PLAN_FILE = "plan.json"
SIZES = ("frames", "fps", "width", "height")


@dataclass(frozen=True)
class Merged:
    """A finished data set."""

    packed: int
    rejected: tuple[Rejected, ...]
    shards: int
    statistics: dict[str, Any]


def partial_folder(out: Path) -> Path:
    """Where a pack lies until it is finished."""
    return out.with_name(out.name + ".partial")


def merge(out: str | Path, *, overwrite: bool = False) -> Merged:
    """Finish the pack at `<out>.partial`, all of whose blocks are there, as `out`.

    Raises:
        DataError: nothing to merge, a block is missing (named, with the part that packs it), no usable recording.
    """
    out = Path(out)
    folder = partial_folder(out)
    try:
        plan = json.loads((folder / PLAN_FILE).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: nothing to merge; begin with `jepa pack … {out} --part 0/N`") from error
    if missing := [b for b in range(plan["blocks"]) if not block_path(folder, b).exists()]:
        raise DataError(f"{folder}: {len(missing)} of {plan['blocks']} blocks are not packed yet, e.g. {missing[0]}")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise DataError(f"'{out}' is not empty; choose a new folder or give --overwrite")
    merged = _write_index(folder, plan, _repeated(folder, plan))
    if not merged.packed:
        reasons = "; ".join(f"{r.file}: {r.reason}" for r in merged.rejected[:3])
        shutil.rmtree(folder)
        raise DataError(f"no usable video in '{plan['path']}'" + (f": {reasons}" if reasons else ""))
    for left_over in (folder / DATA).glob("*.tmp"):  # of calls that were killed
        left_over.unlink()
    if out.exists():
        out.rename(folder / "old")
    (folder / DATA).rename(out)  # in one move: what is there is finished
    shutil.rmtree(folder)
    return merged


def _blocks(folder: Path, plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number in range(plan["blocks"]):
        yield json.loads(block_path(folder, number).read_bytes())


def _repeated(folder: Path, plan: dict[str, Any]) -> dict[str, str]:
    """Near-duplicates by key, with the key that each repeats."""
    if not plan["config"]["unique"]:
        return {}
    lines = (line for block in _blocks(folder, plan) for line in block["samples"])
    return dict(near_duplicates((line["key"], line["looks"]) for line in lines))


def _write_index(folder: Path, plan: dict[str, Any], repeated: dict[str, str]) -> Merged:
    """Two passes over the blocks: one to count, one to fill arrays that never are in memory as a whole."""
    extensions: dict[str, int] = {}
    counts = [0, 0, 0]
    arrays: set[str] | None = None
    for block in _blocks(folder, plan):
        for line in _kept(block, repeated):
            counts = [a + b for a, b in zip(counts, (1, len(line["members"]), len(line["key"].encode())), strict=True)]
            for ext in line["members"]:
                extensions.setdefault(ext, len(extensions))
            names = {ext.removesuffix(".npy") for ext in line["members"] if ext.endswith(".npy")}
            arrays = names if arrays is None else arrays & names
    rejected = [Rejected(**r) for block in _blocks(folder, plan) for r in block["rejected"]]
    rejected += [
        Rejected(line["file"], f"looks the same as {repeated[line['key']]}")
        for block in _blocks(folder, plan)
        for line in block["samples"]
        if line["key"] in repeated
    ]
    if not counts[0]:
        return Merged(0, tuple(rejected), 0, {})
    data = folder / DATA
    (data / "index").mkdir(exist_ok=True)
    samples, members, keys = (
        np.lib.format.open_memmap(data / name, "w+", dtype, (count,))
        for name, dtype, count in zip(INDEX_FILES, (SAMPLE, MEMBER, np.dtype("u1")), counts, strict=True)
    )
    shards = _fill(samples, members, keys, _blocks(folder, plan), repeated, extensions)
    statistics = _statistics(samples, members, [block["moments"] for block in _blocks(folder, plan)])
    for array in (samples, members, keys):
        array.flush()
    (data / REJECTED_FILE).write_text("".join(json.dumps(asdict(r)) + "\n" for r in rejected))
    dataset = {
        "format": FORMAT,
        "spec": asdict(_complete(Spec.from_json(plan["spec"]), statistics)),
        "statistics": statistics,
        "extensions": list(extensions),
        "arrays": sorted(arrays or ()),
        "index": {name: file_sha256(data / name) for name in INDEX_FILES},
        "shards": shards,
    }
    write_whole(data / DATASET_FILE, (json.dumps(dataset, indent=1) + "\n").encode())
    return Merged(counts[0], tuple(rejected), len(shards), statistics)


def _fill(
    samples: np.ndarray,
    members: np.ndarray,
    keys: np.ndarray,
    blocks: Iterator[dict[str, Any]],
    repeated: dict[str, str],
    extensions: dict[str, int],
) -> list[list[Any]]:
    """Write every line of the blocks into the arrays; the shards in their order."""
    shards: list[list[Any]] = []
    i = member = key = 0
    for block in blocks:
        if block["shard"]:
            shards.append(block["shard"])
        for line in _kept(block, repeated):
            name = np.frombuffer(line["key"].encode(), np.uint8)
            keys[key : key + len(name)] = name
            row = [line[n] for n in (*SIZES, "rotation", "label")]
            samples[i] = (len(shards) - 1, member, key, *row)
            for ext, (offset, size, digest) in line["members"].items():
                members[member] = (extensions[ext], offset, size, np.frombuffer(bytes.fromhex(digest), np.uint8))
                member += 1
            key += len(name)
            i += 1
    return shards


def _kept(block: dict[str, Any], repeated: dict[str, str]) -> Iterator[dict[str, Any]]:
    return (line for line in block["samples"] if line["key"] not in repeated)


def _statistics(samples: np.ndarray, members: np.ndarray, moments: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = samples["frames"] / samples["fps"]
    ranges = {"seconds": seconds, **{name: samples[name] for name in SIZES}}
    return {
        "samples": len(samples),
        "frames": int(samples["frames"].sum(dtype=np.int64)),
        "hours": float(seconds.sum() / 3600),
        "bytes": int(members["size"].sum(dtype=np.int64)),
        "labelled": bool((samples["label"] >= 0).all()),
        "ranges": {
            name: {"min": float(x.min()), "mean": float(x.mean(dtype=np.float64)), "max": float(x.max())}
            for name, x in ranges.items()
        },
        **{name: _together([m[name] for m in moments if m[name]]) for name in ("actions", "states")},
    }


def _together(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean, standard deviation and bounds of all rows from those of the blocks (Chan et al. 1979)."""
    if not parts:
        return None
    count, mean, m2 = 0, np.zeros(1), np.zeros(1)
    for part in parts:
        n, other = part["count"], np.array(part["mean"])
        delta = other - mean
        m2 = m2 + np.array(part["m2"]) + delta**2 * count * n / (count + n)
        mean = mean + delta * n / (count + n)
        count += n
    bounds = {name: f([p[name] for p in parts], axis=0).tolist() for name, f in (("min", np.min), ("max", np.max))}
    return {"count": count, "mean": mean.tolist(), "std": np.sqrt(m2 / count).tolist(), **bounds}


def _complete(promised: Spec, statistics: dict[str, Any]) -> Spec:
    """The promise with what the packed videos turned out to be."""

    def common(name: str) -> Any:
        bounds = statistics["ranges"][name]
        value = bounds["min"] if math.isclose(bounds["min"], bounds["max"], rel_tol=1e-9) else None
        return int(value) if value is not None and name != "fps" else value

    found = {name: common(name) for name in ("fps", "width", "height")}
    return replace(promised, samples=statistics["samples"], **found)
