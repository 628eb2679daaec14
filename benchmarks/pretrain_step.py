"""Our pre-training step against a plain reading of the reference's (benchmarks/reference): seconds, parts, memory, MFU.

    python benchmarks/pretrain_step.py      # ViT-S, 16 frames of 128 px, B = 2, on one CPU thread
    python benchmarks/pretrain_step.py vit_large data.size=256 batch_size=24 --device cuda --bf16 --compile

A preset of `jepa pretrain` and overrides say what is trained; encoder.checkpointing=… is for our side alone. Both sides
have the same weights, clip and masks, and rotary positions in the reference's layout, `tiled`. Losses and gradients
are compared first, in fp32. Then the sides take turns in one process, each first in every other round; the ratio is the
median of the rounds' own ratios, with a bootstrap interval. On the CPU time is CPU time of the process.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from reference.pair import differences, make_pair
from reference.step import build_adamw as build_reference_adamw
from torch import nn

from jepa import cost
from jepa.config import load_config
from jepa.data.clip import Clip
from jepa.optim import build_adamw
from jepa.pretrain import PretrainConfig

NETWORKS = ("target_encoder", "encoder", "predictor")
PARTS = (*NETWORKS, "backward", "AdamW", "EMA")
Spans = dict[str, float]


def clock(device: str) -> float:
    """Seconds: of CPU time, or of the wall once the GPU is done with what it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def span(spans: Spans | None, name: str, device: str) -> Iterator[None]:
    """Add the seconds of the block to `spans`, if there are any to add to."""
    start = clock(device) if spans is not None else 0.0
    yield
    if spans is not None:
        spans[name] += clock(device) - start


@contextmanager
def networks_timed(model: nn.Module, spans: Spans, device: str) -> Iterator[None]:
    """Add the seconds of the networks' forward passes to `spans`."""
    started: list[float] = []
    hooks = []
    for name in NETWORKS:

        def stop(*_: object, name: str = name) -> None:
            spans[name] += clock(device) - started.pop()

        network = getattr(model, name)
        hooks.append(network.register_forward_pre_hook(lambda *_: started.append(clock(device))))
        hooks.append(network.register_forward_hook(stop))
    yield
    for hook in hooks:
        hook.remove()


def update(
    model: nn.Module, call: Callable, optimizer: torch.optim.Optimizer, clip: Clip, device: str, spans: Spans | None
) -> float:
    """One whole step, its forward pass by `call(clip)`; returns its seconds, and adds those of the parts to `spans`."""
    start = clock(device)
    with networks_timed(model, spans, device) if spans is not None else nullcontext():
        loss, _ = call(clip)
    with span(spans, "backward", device):
        loss.backward()
    with span(spans, "AdamW", device):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with span(spans, "EMA", device):
        model.after_step(1, 1)
    return clock(device) - start


def median_interval(ratios: list[float]) -> tuple[float, float, float]:
    """Median, and its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).choice(ratios, (4000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def peak_memory(step: Callable[[], object]) -> float:
    """GiB on the GPU that one step takes beyond what is there before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def print_parts(parts: dict[str, list[Spans]]) -> None:
    """A row of medians for each side; on a GPU of steps that wait after every part, and are not compiled."""
    print("| s | " + " | ".join((*PARTS, "rest", "total")) + " |\n|---" + "|--:" * (len(PARTS) + 2) + "|")
    for name, rounds in parts.items():
        *medians, total = (float(np.median([spans[part] for spans in rounds])) for part in (*PARTS, "total"))
        print(f"| {name} | " + " | ".join(f"{x:.4f}" for x in (*medians, total - sum(medians), total)) + " |")


def print_totals(totals: dict[str, list[float]], config: PretrainConfig, peak_tflops: float) -> None:
    """Seconds and achieved FLOPs of each side, and the ratio."""
    objective = cost.build_objective(config)
    grid = objective.encoder.grid(config.data.frames, config.data.size, config.data.size)
    sizes = cost.mask_sizes(config, grid, config.batch_size, steps=1)
    flops = config.batch_size * sum(
        p.total("none") for p in cost.step_flops(objective, int(np.prod(grid)), sizes).values()
    )
    print(f"{flops / 1e9:.4g} GFLOP a step, in {grid} tokens, contexts and targets {sizes}")
    for name, rounds in totals.items():
        achieved = flops / float(np.median(rounds)) / 1e12
        share = f", {achieved / peak_tflops:.1%} of {peak_tflops:g}" if peak_tflops else ""
        print(f"{name}: median {np.median(rounds):.4f} s, least {min(rounds):.4f} s, {achieved:.4g} TFLOP/s{share}")
    ratios = [a / b for a, b in zip(totals["reference"], totals["ours"], strict=True)]
    middle, low, high = median_interval(ratios)
    print(f"reference / ours: {middle:.3f} (95 % {low:.3f} to {high:.3f}); rounds {[round(r, 3) for r in ratios]}")


def main() -> None:
    """Compare, warm up, take turns, print."""
    args = arguments()
    if args.device == "cpu":
        torch.set_num_threads(1)
    given = [*args.overrides, "out=nowhere", "encoder.rope_layout=tiled"]
    config = load_config(PretrainConfig, "pretrain", args.preset, given)
    ours, theirs, clip = make_pair(config, args.device, args.recompute_reference)
    print("loss differs by {:.1e}, gradients by {:.1e} of a tensor's largest".format(*differences(ours, theirs, clip)))
    optim = config.loop.optim
    named = [(n, p) for n, p in ours.named_parameters() if p.requires_grad]
    sides = {
        "ours": (ours, build_adamw(named, optim)),
        "reference": (theirs, build_reference_adamw(theirs, optim.lr, optim.weight_decay)),
    }
    fast = {"ours": torch.compile(ours, dynamic=False) if args.compile else ours, "reference": theirs}

    def step(name: str, spans: Spans | None) -> float:
        def call(clip: Clip):
            with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
                return (fast[name] if spans is None or args.device == "cpu" else sides[name][0])(clip)

        return update(sides[name][0], call, sides[name][1], clip, args.device, spans)

    totals: dict[str, list[float]] = defaultdict(list)
    parts: dict[str, list[Spans]] = defaultdict(list)
    for turn in range(-args.warmup, args.rounds):
        for name in sorted(sides, reverse=turn % 2 == 0):
            spans: Spans = defaultdict(float)
            spans["total"] = step(name, spans)
            # To wait after every part would slow a GPU down, so there the whole is timed in a step of its own.
            whole = spans["total"] if args.device == "cpu" else step(name, None)
            if turn >= 0:
                totals[name].append(whole)
                parts[name].append(spans)
    print_parts(parts)
    print_totals(totals, config, args.peak_tflops)
    if args.device != "cpu":
        for name in sides:
            print(f"{name}: peak of a step {peak_memory(lambda name=name: step(name, None)):.2f} GiB beyond the state")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", nargs="?", default="vit_small", help="preset of `jepa pretrain`")
    parser.add_argument("overrides", nargs="*", default=["data.size=128", "batch_size=2"], help="key.sub=value …")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=1, help="rounds that do not count")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile our side")
    parser.add_argument("--recompute-reference", action="store_true", help="full checkpointing in the reference")
    parser.add_argument(
        "--peak-tflops", type=float, default=0.0, help="of the device, for MFU: 989 for an H100 in bf16"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
