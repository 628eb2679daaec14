"""Probe sweeps: 20 heads at once against 20 one by one, cached features against encoding again, halving against none.

    OMP_NUM_THREADS=1 python benchmarks/probe_sweep.py --out benchmarks/results/DATE-probe-sweep.md

The heads that are trained one by one are a plain reading of the reference's (benchmarks/reference/probe.py), from the
same weights and on the same tokens; their losses are compared at every step. Sides take turns in one process; time is
its CPU time, on one thread. About half an hour on a quiet core, most of it for 20 heads of depth 4 and for halving
on many clips.
"""

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from reference.probe import Classifier
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor

from jepa.data.transforms import normalize
from jepa.models.encoder import EncoderConfig, build_encoder
from jepa.models.pooler import build_classifier
from jepa.probes.kinds import attentive
from jepa.probes.kinds.base import Features
from jepa.probes.sweep import Setting, Sweep

LR, DECAY = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4, 0.8)  # the grid of 20 of V-JEPA 2
OURS, PLAIN, RECOMPUTE = "ours, one sweep", "reference, one by one", "reference, with its checkpointing"
Step = Callable[[Tensor, Tensor, float], Tensor]  # tokens, labels, share of the training -> losses (heads)


def sides(
    width: int, attention_heads: int, depth: int, classes: int, settings: list[Setting], dtype: torch.dtype
) -> dict[str, Step]:
    """{name: one update of all heads}, from the same weights."""
    generator = torch.Generator().manual_seed(0)
    models = [build_classifier(width, classes, depth, attention_heads, generator).to(dtype) for _ in settings]
    found = {OURS: partial(step_ours, Sweep(models, settings))}
    for name in (PLAIN, RECOMPUTE) if depth > 1 else (PLAIN,):
        plain = [Classifier(width, classes, depth, attention_heads, name == RECOMPUTE).to(dtype) for _ in settings]
        for mine, theirs in zip(models, plain, strict=True):
            theirs.load_state_dict(mine.state_dict())
        optimizers = [torch.optim.AdamW(model.parameters()) for model in plain]
        found[name] = partial(step_reference, plain, optimizers, settings)
    return found


def step_ours(sweep: Sweep, tokens: Tensor, labels: Tensor, share: float) -> Tensor:
    """One update of the sweep; returns losses (heads)."""

    def loss(logits: Tensor, rows: slice) -> Tensor:
        each = F.cross_entropy(logits.flatten(0, 1), labels[rows].repeat(len(logits)), reduction="none")
        return each.view(len(logits), -1).sum(1) / len(labels)

    return sweep.step(tokens, loss, share)


def step_reference(
    models: list[Classifier],
    optimizers: list[torch.optim.AdamW],
    settings: list[Setting],
    tokens: Tensor,
    labels: Tensor,
    share: float,
) -> Tensor:
    """One update of every model, one after the other; returns losses (heads)."""
    losses = []
    for model, optimizer, setting in zip(models, optimizers, settings, strict=True):
        optimizer.param_groups[0]["lr"] = setting.lr_at(share)
        optimizer.param_groups[0]["weight_decay"] = setting.weight_decay_at(share)
        loss = F.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def race(
    ways: dict[str, Step],
    shape: tuple[int, int, int],
    classes: int,
    rounds: int,
    progress: Callable[[str], None],
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, list[float]], list[float]]:
    """CPU seconds of each round, after one on a single clip; and how far apart the losses of all steps are."""
    generator = torch.Generator().manual_seed(1)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    apart = []
    for turn in range(rounds + 1):
        tokens = torch.randn(shape, generator=generator).to(dtype)
        labels = torch.randint(classes, shape[:1], generator=generator)
        part = slice(0, 1) if turn == 0 else slice(None)
        losses = []
        for k in range(len(ways)):
            name = list(ways)[(turn + k) % len(ways)]
            start = time.process_time()
            losses.append(ways[name](tokens[part], labels[part], turn / (rounds + 1)))
            if turn:
                seconds[name].append(time.process_time() - start)
        apart.append(max(float((one - losses[0]).abs().max()) for one in losses))
        progress(f"round {turn} of {rounds}: losses differ by {apart[-1]:.1e}")
    return seconds, apart


def race_table(seconds: dict[str, list[float]], title: str) -> Iterator[str]:
    """Lines of Markdown: seconds of a step, and the median of the rounds' own ratios with all of them beside it."""
    yield f"## {title}"
    yield ""
    yield "| | CPU s a step, median | times ours, median | rounds |"
    yield "|---|--:|--:|---|"
    for name, rounds in seconds.items():
        ratios = [a / b for a, b in zip(rounds, seconds[OURS], strict=True)]
        each = "" if name == OURS else ", ".join(f"{r:.2f}" for r in ratios)
        yield f"| {name} | {np.median(rounds):.3f} | {np.median(ratios):.2f} | {each} |"
    yield ""


def races(args: argparse.Namespace, progress: Callable[[str], None]) -> Iterator[str]:
    """Lines of Markdown for every depth: the race, and how far apart the losses are at every step of it.

    AdamW's first steps have the size of the learning rate whatever the gradient's, so that rounding grows from step to
    step; a few heads in double precision tell it from a mistake.
    """
    settings = [Setting(lr, decay) for lr, decay in product(LR, DECAY)][: args.heads]
    shape = (args.batch, args.tokens, args.width)
    for depth in args.depths:
        sizes = (args.width, args.attention_heads, depth, args.classes)
        rounds = args.rounds if depth > 1 else 3 * args.rounds
        seconds, apart = race(sides(*sizes, settings, torch.float32), shape, args.classes, rounds, progress)
        ways = sides(*sizes, settings[:: max(1, len(settings) // 3)], torch.float64)
        _, exact = race(ways, (1, *shape[1:]), args.classes, 4, progress, torch.float64)
        title = f"{len(settings)} heads of depth {depth}: D = {args.width}, N = {args.tokens}, B = {args.batch}"
        yield from race_table(seconds, title)
        steps = ", ".join(f"{a:.1e}" for a in apart)
        yield f"Largest difference of a loss at each step: {steps} (wanted: 1e-5); in double precision {max(exact):.1e}"
        yield ""


def cached(rounds: int, clips: int, config: EncoderConfig, frames: int) -> Iterator[str]:
    """Lines of Markdown: reading minibatches of float16 tokens from a file, against encoding the same clips."""
    encoder = build_encoder(config, 0).eval()
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (8, frames, 3, config.size, config.size), dtype=torch.uint8, generator=generator)
    shape = (clips, int(np.prod(config.grid(frames, config.size, config.size))), config.width)
    read, encode = [], []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "tokens.bin")
        np.memmap(path, np.float16, "w+", shape=shape)[:] = np.random.default_rng(0).standard_normal(shape[1:])
        values = torch.from_numpy(np.memmap(path, np.float16, "r+", shape=shape))
        mean, std = torch.zeros(shape[-1]), torch.ones(shape[-1])
        for _ in range(rounds + 1):
            rows = torch.randperm(clips, generator=generator)[: len(video)]
            start = time.process_time()
            _ = (values[rows] - mean) / std
            read.append(time.process_time() - start)
            with torch.no_grad():
                encoder(normalize(video))
            encode.append(time.process_time() - start - read[-1])
    ours, theirs = (1000 * float(np.median(each[1:])) / len(video) for each in (read, encode))
    yield f"## Cached features: {frames} frames of {config.size} px, {shape[1]} tokens of {shape[2]}"
    yield ""
    yield f"Float16 from a memory-mapped file, to float32 and standardised: {ours:.2f} CPU ms a clip. The encoder of"
    yield f"{config.depth} blocks: {theirs:.1f} ms. Reading is {100 * ours / theirs:.2f} % of that (required: < 5 %)."
    yield ""


def digits(seed: int, noise: float, train: int) -> tuple[Features, Tensor, Features, Tensor]:
    """scikit-learn's digits as 16 tokens of 2×2 pixels and a place each, with noise; 5 clips an episode."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    pixels = images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 4)[order] / 8 - 1
    pixels = np.concatenate((pixels, np.broadcast_to(np.eye(16), (len(pixels), 16, 16))), axis=2)
    tokens = pixels @ rng.standard_normal((20, 32)) + noise * rng.standard_normal((len(pixels), 16, 32))
    values, truth = torch.from_numpy(tokens).float(), torch.from_numpy(labels[order])
    features = Features(values, torch.arange(len(values)) // 5)
    rows = torch.arange(len(values))
    return features.rows(rows[:train]), truth[:train], features.rows(rows[train:]), truth[train:]


def pruning(seeds: int, train: int, base: attentive.Config, progress: Callable[[str], None]) -> Iterator[str]:
    """Lines of Markdown: test scores of the head that the full sweep chooses, and of the one that halving leaves."""
    yield f"## Halving: digits, {train} clips to learn from, 20 heads, {seeds} seeds"
    yield ""
    yield "| | work | CPU time | balanced accuracy on test, mean | minus the full sweep's, points (95 %) |"
    yield "|---|--:|--:|--:|--:|"
    full: list[float] = []
    seconds_full: list[float] = []
    for halving in (0, 3):
        scores, seconds, work = [], [], 0.0
        for seed in range(seeds):
            seen, targets, unseen, truth = digits(seed, 1.0, train)
            config = attentive.Config(**{**vars(base), "halving": halving})
            probe = attentive.build(config, np.random.default_rng(seed))
            start = time.process_time()
            probe.fit(seen, targets)
            seconds.append(time.process_time() - start)
            scores.append(probe.score(unseen, truth)["balanced_accuracy"])
            work = probe.heads.work
            progress(f"{halving} halvings, seed {seed}: {scores[-1]:.3f}, {probe.chosen}")
        if not halving:
            full, seconds_full = scores, seconds
        change = 100 * (np.array(scores) - full)
        half = float(stats.t.ppf(0.975, max(1, seeds - 1)) * change.std(ddof=min(1, seeds - 1)) / np.sqrt(seeds))
        against = f"{change.mean():+.2f} (±{half:.2f})" if halving else ""
        time_share = float(np.median(np.array(seconds) / seconds_full))
        yield f"| {halving or 'no'} halvings | {work:.0%} | {time_share:.0%} | {np.mean(scores):.4f} | {against} |"
    yield ""


def machine() -> str:
    """The processor, and the packages that decide speed."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Race, read, prune; print the tables, and write them where asked."""
    args = arguments()
    torch.set_num_threads(1)
    progress = partial(print, file=sys.stderr, flush=True)
    before = os.getloadavg()[0]
    lines = list(races(args, progress))
    lines += cached(args.rounds, args.clips, EncoderConfig(args.pixels, width=args.width, depth=12, heads=6), 16)
    base = attentive.Config(depth=2, heads=4, epochs=args.epochs, batch=32)
    for train in args.train:
        lines += pruning(args.seeds, train, base, progress)
    load = f"Load average (1 minute): {before:.1f} before, {os.getloadavg()[0]:.1f} after; this process is 1 of it."
    command = f"OMP_NUM_THREADS=1 python benchmarks/probe_sweep.py {' '.join(sys.argv[1:])}".rstrip()
    title = f"# Probe sweeps, cached features, halving: {datetime.date.today()}"
    text = "\n".join([title, "", machine(), "", "```", command, "```", "", load, "", *lines])
    print(text)
    if args.out:
        args.out.write_text(text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("rounds", 3, "of every side; three times as many at depth 1"),
        ("heads", 20, "of the grid, its first ones"),
        ("width", 384, "D"),
        ("tokens", 512, "N"),
        ("batch", 8, "B"),
        ("attention-heads", 16, "of each probe"),
        ("classes", 174, "of the race"),
        ("pixels", 128, "a side of the encoder's clips"),
        ("clips", 64, "in the file of features"),
        ("seeds", 10, "of the halving"),
        ("epochs", 20, "of the halving"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--train", type=int, nargs="*", default=[450, 1200], help="clips to halve on (450 1200)")
    parser.add_argument("--depths", type=int, nargs="*", default=[1, 4], help="of the probes (1 4)")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
