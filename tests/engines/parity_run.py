"""What each of two processes runs for test_parity.py: every engine, its losses and weights written to a folder."""

import json
import os
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.engines.base import rank
from jepa.engines.launch import engine, launched
from jepa.masks import multiblock
from jepa.models.encoder import EncoderConfig, build_encoder
from jepa.models.predictor import PredictorConfig
from jepa.objectives import vjepa2, vjepa2_1
from jepa.optim import OptimConfig, build_adamw, set_schedule
from jepa.update import update

STEPS, ROWS, CLIP = 20, 8, 0.5
NAN_STEP, SWAP, END = 3, 5, 8  # of the run with events, in two slices a step
OPTIM = OptimConfig(lr=1e-3, start_lr=1e-4, warmup=6, clip=CLIP)
KINDS = {  # name -> (ZeRO's stage, below how many numbers ZeRO-3 keeps a parameter gathered)
    "ddp": (0, 0),
    "zero1": (1, 0),
    "zero2": (2, 0),
    "zero3": (3, 0),
    "zero3_default": (3, 100_000),
}


def objective(module=vjepa2):
    """A tiny V-JEPA 2, the same at every call, that counts the draws of drop path; `poison` makes its loss NaN."""
    encoder = EncoderConfig(size=16, patch=4, tubelet=2, width=32, depth=2, heads=2, drop_path=1e-12)
    parts = build_encoder(encoder, 0), PredictorConfig(24, 1, 2), multiblock.build(multiblock.Config(), 0)
    averaged = {"ema_start": 0.9, "ema_end": 0.99} if hasattr(module.Config(), "ema_start") else {}
    built = module.build(module.Config(**averaged), *parts, torch.Generator().manual_seed(1))
    built.poison = False
    built.register_forward_hook(lambda module, _, out: (out[0] * float("nan"), out[1]) if module.poison else out)
    return built


def adamw(trainable):
    return build_adamw(((n, p) for n, p in trainable.named_parameters() if p.requires_grad), OPTIM)


def batch(step, first=0, every=1):
    """Rows first, first + every, … of the batch of a step."""
    rng = torch.Generator().manual_seed(step)
    frames = torch.randint(0, 256, (ROWS, 4, 3, 16, 16), generator=rng, dtype=torch.uint8)[first::every]
    ids, valid = torch.arange(ROWS)[first::every], torch.ones(len(frames), 4, dtype=torch.bool)
    return Clip(frames=frames, sample_id=ids, epoch=torch.zeros_like(ids), step=step, valid=valid)


def image(clip):
    """The first frames of a batch."""
    return replace(clip, frames=clip.frames[:, :1], valid=clip.valid[:, :1])


def start(kind, accumulate, module=vjepa2):
    """An engine around a new objective."""
    AcceleratorState._reset_state(True)
    stage, threshold = KINDS[kind]
    os.environ["ACCELERATE_USE_DEEPSPEED"] = str(stage > 0)
    os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"], os.environ["ACCELERATE_DEEPSPEED_ZERO3_INIT"] = str(stage), "false"
    accelerator = Accelerator(**launched())
    if stage:
        zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        zero["stage3_param_persistence_threshold"] = threshold
    trainable = objective(module)
    return engine(accelerator, trainable, adamw(trainable), CLIP, accumulate)


def train(own, first, last, accumulate, nan_step=0):
    """The records of steps first … last; this process's state before and after the step that is not finite."""
    records, around = [], []
    for step in range(first, last + 1):
        own.trainable.poison = step == nan_step and rank() == 1
        around += [copied(own)] if step == nan_step else []
        set_schedule(own.optimizer, OPTIM, step, STEPS)
        record = update(own, batch(step, rank(), dist.get_world_size()), accumulate)
        if "nonfinite" not in record:
            own.trainable.after_step(step, STEPS)
        around += [copied(own)] if step == nan_step else []
        records.append(record)
    return records, around


def copied(own):
    return {name: piece.values.clone() for name, piece in own.pieces().items()}


def same(before, after):
    """Whether a skipped step left all as it was, but for the counters of drop path, which belong to the forward."""
    return before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before if not name.endswith("_extra_state")
    )


def whole(own):
    """Every tensor from the pieces of all processes, and how often each number is there at the least and most."""
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own.pieces())
    tensors, counts = {}, {}
    for name, piece in ((n, p) for part in parts for n, p in part.items()):
        full = tensors.setdefault(name, torch.zeros(piece.shape, dtype=piece.values.dtype))
        span = slice(piece.start, piece.start + piece.values.numel())
        full.view(-1)[span] = piece.values
        counts.setdefault(name, torch.zeros(full.numel(), dtype=torch.int64))[span] += 1
    seen = torch.cat(list(counts.values()))
    return tensors, (int(seen.min()), int(seen.max()))


def target_features(own):
    """The target encoder alone, outside the engine's forward."""
    with torch.no_grad(), own.evaluating():
        return own.trainable.target_encoder(normalize(batch(0).frames)).float()


def straight(kind):
    """20 steps; the target before and after."""
    own = start(kind, 1)
    features = {"features/before": target_features(own)}
    records, _ = train(own, 1, STEPS, 1)
    features["features/after"] = target_features(own)
    tensors, counts = whole(own)
    return {"records": records, "counts": counts}, tensors | features


def eventful(kind, following):
    """In two slices, with one step that is NaN on one process, and half of it by another engine."""
    own = start(kind, 2)
    fresh = copied(own)
    own.add_gradient(batch(1, rank(), 2), 1, last=True)
    own.grad_norm()
    own.skip(overflow=False)  # of a gradient that is finite
    untouched = {"untouched_finite": same(fresh, copied(own))}
    records, around = train(own, 1, SWAP, 2, NAN_STEP)
    untouched["untouched"] = same(*around)
    tensors, _ = whole(own)
    other = start(following, 2)
    other.load(tensors.get)
    loaded, _ = whole(other)
    kept = loaded.keys() == tensors.keys() and all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    records += train(other, SWAP + 1, END, 2)[0]
    return {"records": records, "kept": kept, **untouched}, whole(other)[0]


def partial(kind):
    """A video and then an image for V-JEPA 2.1, of which either leaves parameters out."""
    own = start(kind, 1, vjepa2_1)
    records = [update(own, clip, 1) for clip in (batch(1, rank(), 2), image(batch(2, rank(), 2)))]
    return {"records": records}, {"none": torch.zeros(())}


def main(folder):
    torch.set_num_threads(1)
    kinds = list(KINDS)
    for kind, following in pairwise([*kinds, kinds[0]]):
        runs = {"straight": straight(kind), "eventful": eventful(kind, following), "partial": partial(kind)}
        for name, (figures, tensors) in runs.items():
            save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{kind}_{name}_{rank()}.safetensors")
            (folder / f"{kind}_{name}_{rank()}.json").write_text(json.dumps(figures))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
