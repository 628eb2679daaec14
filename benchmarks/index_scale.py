"""How an index of 20 million clips in 20,000 shards opens: seconds, memory of a process, and `order()` calls a second.

    python benchmarks/index_scale.py [--samples 20000000] [--shards 20000]

The shards are empty files of the right length (sparse: they take no space); the index is as large as a real one. Times
are of fresh processes with the page cache warm. Memory is all that the process holds beyond that of the imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jepa.data.clip import Spec
from jepa.data.index import DATASET_FILE, FORMAT, MEMBER, SAMPLE

VIDEO, META = 500_000, 150  # bytes of one clip's two members

READER = """
import json, sys, time
import jepa.data.loader, jepa.data.order  # imports are no part of opening
from jepa.data.index import Manifest
from jepa.data.order import Mixture, order

def memory():
    lines = open("/proc/self/smaps_rollup").read().splitlines()[1:]
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kb["Rss"] / 1024

before = memory()
start = time.perf_counter()
manifest = Manifest.load(sys.argv[1])
entry = manifest[len(manifest) // 2]
opened = time.perf_counter() - start
at_open = memory() - before
mixture = Mixture((len(manifest),), 1024, 0)
start = time.perf_counter()
draws = [order(mixture, 10**6 + step, slot) for step in range(100) for slot in range(0, 1024, 8)]
ordered = len(draws) / (time.perf_counter() - start)
weights = Mixture((len(manifest), 10**6, 5 * 10**5), 1024, 0, (4.0, 2.0, 1.0), (16, 16, 64))
start = time.perf_counter()
mixed = [order(weights, 10**6 + step, slot) for step in range(100) for slot in range(0, 1024, 8)]
ordered_mixed = len(mixed) / (time.perf_counter() - start)
start = time.perf_counter()
entries = [manifest[draw.sample] for draw in draws]  # touches pages of the index all over
looked_up = len(draws) / (time.perf_counter() - start)
after = memory() - before
figures = {
    "open_s": opened, "order_per_s": ordered, "order_mixed_per_s": ordered_mixed, "entries_per_s": looked_up,
    "MiB_open": at_open, "MiB_after_12800_entries": after,
}
print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))
"""


def build(folder: Path, samples: int, shards: int) -> None:
    """A folder of shards that only lacks the videos' bytes."""
    per_shard = -(-samples // shards)
    index = folder / "index"
    index.mkdir(parents=True)
    ids = np.arange(samples)
    rows = np.lib.format.open_memmap(index / "samples.npy", "w+", SAMPLE, (samples,))
    for name, value in {"frames": 300, "fps": 30.0, "width": 340, "height": 256, "label": -1}.items():
        rows[name] = value
    rows["shard"], rows["member"], rows["key"] = ids // per_shard, 2 * ids, 12 * ids
    members = np.lib.format.open_memmap(index / "members.npy", "w+", MEMBER, (2 * samples,))
    start = ids % per_shard * (VIDEO + META + 2048)
    for k, (offset, size) in enumerate(((start + 512, VIDEO), (start + VIDEO + 1536, META))):
        members["extension"][k::2], members["offset"][k::2], members["size"][k::2] = k, offset, size
    keys = np.lib.format.open_memmap(index / "keys.npy", "w+", np.dtype("u1"), (12 * samples,))
    keys[:] = np.char.add("clip", np.char.zfill(ids.astype("U8"), 8)).astype("S12").view("u1")
    for array in (rows, members, keys):
        array.flush()
    size = per_shard * (VIDEO + META + 2048)
    names = [f"shard-{i:06d}.tar" for i in range(shards)]
    for name in names:
        with (folder / name).open("wb") as file:
            file.truncate(size)
    dataset = {
        "format": FORMAT,
        "spec": asdict(Spec(samples=samples, fps=30.0, width=340, height=256)),
        "statistics": {"labelled": False},
        "extensions": ["mp4", "json"],
        "arrays": [],
        "index": {},
        "shards": [[name, size, "0" * 64] for name in names],
    }
    (folder / DATASET_FILE).write_text(json.dumps(dataset))


def main() -> None:
    """Build, then measure three fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000_000)
    parser.add_argument("--shards", type=int, default=20_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shards"
        build(folder, args.samples, args.shards)
        size = sum(path.stat().st_size for path in (folder / "index").iterdir())
        print(f"{args.samples:,} samples in {args.shards:,} shards; index of {size / 1e9:.2f} GB")
        command = [sys.executable, "-c", READER, str(folder)]
        for _ in range(3):
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
