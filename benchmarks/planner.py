"""Our imagining of candidate actions against a plain reading of the reference's (benchmarks/reference): CPU time.

    python benchmarks/planner.py            # 1.9 M parameters, 256 tokens, 48 candidates, on one CPU thread
    python benchmarks/planner.py --width 1024 --depth 24 --heads 16 --embed 1408 --samples 400 --iterations 10 \\
        --chunk 100 --horizons 1 2 --device cuda --bf16 --compile reduce-overhead      # ViT-g's, on a GPU

One plan is `--iterations` rounds of scoring `--samples` candidates from one frame; what the search itself does beside
that is the same on both sides and left out. Both have the same weights, frames, poses and candidates, and rotary
positions in the reference's layout, `tiled`. Energies are compared first, in fp32. Then the sides take turns in one
process, each first in every other round; a ratio is the median of the rounds' own ratios, with a bootstrap interval.
The same for moving `--poses` poses ten times, as a plan of ten iterations does. `--bf16` and `--compile` are for our
side alone.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from pretrain_step import clock, median_interval, peak_memory
from reference import planner as reference
from torch import Tensor

from jepa.models.ac_predictor import ACPredictorConfig
from jepa.models.layers import norm_features
from jepa.planning.goals import LastStepL1
from jepa.pose import integrate
from jepa.worlds import ac_jepa
from jepa.worlds.base import WorldSpec, score

MARKS = {"H=1": (1.2, 1.3), "H=2": (1.7, 2.0), "H=3": (2.4, 2.8), "pose": (50.0, 100.0)}  # required, aim


@dataclass(frozen=True)
class Pair:
    """Both models, frozen, and what they are asked: tokens, pose and goal of one row, and candidates (S, H, 7)."""

    world: ac_jepa.ACJepa
    predictor: reference.Predictor
    tokens: Tensor
    pose: Tensor
    goal: Tensor
    actions: Tensor


def make_pair(args: argparse.Namespace) -> Pair:
    """Models with random weights, sharpened, so that positions and actions matter; noise for frames."""
    rng = torch.Generator().manual_seed(1)
    grid, horizon = (args.grid, args.grid), max(args.horizons)
    shape = ACPredictorConfig(args.width, args.depth, args.heads, rope_layout="tiled")
    spec = WorldSpec(args.embed, 7, 7, grid)
    world = ac_jepa.build(ac_jepa.Config(shape, scale="layer_norm"), spec, rng).eval().requires_grad_(False)
    for name, parameter in world.named_parameters():
        if name.endswith("qkv.weight") or name.startswith("predictor.action_encoder"):
            parameter *= 5
    theirs = reference.Predictor(args.embed, grid, args.width, args.depth, args.heads, 4.0, horizon)
    theirs.load_state_dict(world.predictor.state_dict())
    tokens, goal = norm_features(torch.randn(2, 1, args.grid**2, args.embed, generator=rng))
    pose = torch.tensor([[0.58, -0.002, 0.25, -3.07, 0.03, -1.91, 0.5]])
    actions = torch.randn(args.samples, horizon, 7, generator=rng)
    device = args.device
    return Pair(
        world.to(device),
        theirs.eval().requires_grad_(False).to(device),
        *(part.to(device) for part in (tokens, pose, goal, actions)),
    )


def plan_ours(pair: Pair, horizon: int, chunk: int, iterations: int = 1, scored: Callable = score) -> Tensor:
    """Energies (S) by our world, of the last iteration."""
    with torch.no_grad():
        state = pair.world.observe(None, pair.tokens[:, None], pair.pose[:, None])
        goal, candidates = LastStepL1(pair.goal), pair.actions[None, :, :horizon]
        for _ in range(iterations):
            energy = scored(pair.world, state, candidates, goal, chunk=chunk)[0]
    return energy


def plan_theirs(pair: Pair, horizon: int, iterations: int = 1) -> Tensor:
    """Energies (S) by the reference's reading, of the last iteration."""
    for _ in range(iterations):
        energy = reference.energies(pair.predictor, pair.tokens, pair.pose, pair.goal, pair.actions[:, :horizon])
    return energy


def take_turns(sides: dict[str, Callable[[], object]], rounds: int, warmup: int, device: str) -> dict[str, list[float]]:
    """Seconds of each side in each round."""
    seconds = defaultdict(list)
    for turn in range(-warmup, rounds):
        for name in sorted(sides, reverse=turn % 2 == 0):
            start = clock(device)
            sides[name]()
            if turn >= 0:
                seconds[name].append(clock(device) - start)
    return seconds


def print_row(name: str, seconds: dict[str, list[float]]) -> None:
    """Medians in ms, the ratio and its interval, and what is asked of it."""
    ratios = [a / b for a, b in zip(seconds["reference"], seconds["ours"], strict=True)]
    middle, low, high = median_interval(ratios)
    medians = " | ".join(f"{1e3 * float(np.median(seconds[side])):.2f}" for side in ("reference", "ours"))
    marks = " | ".join(f"{mark:g}" for mark in MARKS.get(name, ()))
    print(f"| {name} | {medians} | {middle:.2f} ({low:.2f} to {high:.2f}) | {marks} |")


def main() -> None:
    """Compare all, then let them take turns, and print."""
    args = arguments()
    if args.device == "cpu":
        torch.set_num_threads(1)
    pair = make_pair(args)
    for h in args.horizons:
        ours, theirs = plan_ours(pair, h, args.chunk), plan_theirs(pair, h)
        print(f"H={h}: energies differ by {float((ours - theirs).abs().max()):.1e}, spread {float(theirs.std()):.1e}")
    rng = torch.Generator().manual_seed(2)
    poses, moves = pair.pose.repeat(args.poses, 1), 0.05 * torch.randn(args.poses, 7, generator=rng).to(args.device)
    by = float((integrate(poses, moves) - reference.move(poses, moves)).abs().max())
    print(f"poses differ by {by:.1e}; {sum(p.numel() for p in pair.predictor.parameters()) / 1e6:.1f} M parameters\n")
    scored = torch.compile(score, mode=args.compile) if args.compile else score

    def autocast_ours(horizon: int) -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            plan_ours(pair, horizon, args.chunk, args.iterations, scored)

    print("| ms | reference | ours | reference / ours (95 %) | required | aim |\n|---|--:|--:|--:|--:|--:|")
    for h in args.horizons:
        sides = {"reference": lambda h=h: plan_theirs(pair, h, args.iterations), "ours": lambda h=h: autocast_ours(h)}
        print_row(f"H={h}", take_turns(sides, args.rounds, args.warmup, args.device))
        if args.device == "cuda":
            print(*(f"{name}: peak {peak_memory(side):.2f} GiB beyond the weights" for name, side in sides.items()))
    ways = {"reference": reference.move, "ours": integrate}
    sides = {name: lambda move=move: [move(poses, moves) for _ in range(10)] for name, move in ways.items()}
    print_row("pose", take_turns(sides, args.rounds, args.warmup, args.device))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 192, "depth": 4, "heads": 3, "embed": 192, "grid": 16, "samples": 48, "chunk": 12}
    for name, size in (sizes | {"iterations": 1, "poses": 400, "rounds": 9}).items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--warmup", type=int, default=1, help="rounds that do not count")
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast our side to bfloat16")
    parser.add_argument("--compile", default="", help="torch.compile's mode for our side: default, reduce-overhead, …")
    return parser.parse_args()


if __name__ == "__main__":
    main()
