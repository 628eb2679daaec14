"""How fast clips load: CPU time from 480p files and from shards, against a plain reading of V-JEPA 2's own method.

    OMP_NUM_THREADS=1 python benchmarks/loader.py --out benchmarks/results/DATE-loader.md

Makes its own H.264 clips in a temporary folder, packs them three ways, and loads them from the files and the shards in
turn, round by round. The result says how it was measured. About 5 minutes, of which 1 prepares the clips.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from scipy.stats import quantile_test
from torch import Tensor

from jepa.data import loader, pack, slots, transforms
from jepa.data.config import DataConfig
from jepa.data.index import Manifest
from jepa.data.transcode import Encoding

CONFIG = DataConfig(frames=16, fps=4, size=256)
WIDTH, HEIGHT, FPS, SECONDS = 854, 480, 30, 10
STAGES = ("read", "decode", "transform", "collate")
PACKED: dict[str, tuple[Encoding | None, float, float | None]] = {  # the encoding, the ratio required, the one aimed at
    "ours, the same files": (None, 1.15, 1.25),
    "ours, default shards (h264 256 px, GOP 16)": (Encoding(), 4.0, None),
    "ours, JPEG frames (256 px, 4 fps)": (Encoding(codec="jpeg", fps=4), 15.0, 20.0),
}
REFERENCE = "reference"
NOTES = """\
Clips of 16 frames at 4 per second and 256 px, from 10 s of H.264 at 480p, 30 frames per second, a key frame every 250.
CPU time of one process, one thread (but decord's as many as it likes in the reference). The ways take turns; in every
round each loads a window and a box of every clip, drawn from the same random numbers. A ratio is the median over rounds
of (reference / ours). Ours gives uint8, to be normalised on the device; the last columns add that, on this CPU."""


class Watch(Counter[str]):
    """CPU seconds by stage: `with watch("decode"): ...`, or `watch("decode")(function)`."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self[stage] += time.process_time() - start


Way = Callable[[int, Watch], Tensor]  # an epoch's batch


def scenery(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Discs of all sizes that hide each other ("dead leaves", with edges like photographs) and noise of all scales."""
    image = Image.new("RGB", (width, height), "grey")
    for radius in 4.5 / rng.uniform(0.02, 1, 2800) ** 0.8:
        x, y = rng.uniform((0, 0), (width, height))
        colour = (rng.normal(128, 38) + rng.normal(0, 15, 3)).clip(0, 255).astype(int)
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), tuple(colour))
    noise = np.zeros((height, width), np.float32)
    for scale in (64, 32, 16, 8, 4, 2):
        coarse = Image.fromarray(rng.normal(0, 1.4 * scale**0.5, (height // scale, width // scale)).astype(np.float32))
        noise += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((np.asarray(image) + noise[..., None]).clip(0, 255).astype(np.uint8))


def film(rng: np.random.Generator, width: int, height: int, frames: int) -> Iterator[np.ndarray]:
    """Frames (h, w, 3) uint8: a camera that pans and zooms over a scene, things that move before it, sensor noise."""
    scene = scenery(rng, 2 * width, 2 * height)
    things = [scenery(rng, height // 3, height // 3) for _ in range(3)]
    y, x = np.mgrid[-1 : 1 : height // 3 * 1j, -1 : 1 : height // 3 * 1j]
    disc = Image.fromarray(((x**2 + y**2 < 1) * 255).astype(np.uint8))
    phase, speed = rng.uniform(0, 2 * np.pi, (4, 3)), rng.uniform(0.2, 0.7, (4, 3))  # rad, rad per second
    for t in np.arange(frames) / FPS:
        sway = np.sin(phase + speed * t)  # (4, 3): the camera, then the things
        w, h = width * (1 + 0.2 * sway[0, 2]), height * (1 + 0.2 * sway[0, 2])
        left, top = (width - w / 2) + 0.35 * width * sway[0, 0], (height - h / 2) + 0.35 * height * sway[0, 1]
        frame = scene.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + w, top + h))
        for thing, (across, down, _) in zip(things, sway[1:], strict=True):
            frame.paste(thing, (int(width * (0.4 + 0.5 * across)), int(height * (0.35 + 0.5 * down))), disc)
        noise = rng.normal(0, 2, (height, width, 1))
        yield (np.asarray(frame) + noise).clip(0, 255).astype(np.uint8)


def write_clip(
    path: Path, rng: np.random.Generator, width: int = WIDTH, height: int = HEIGHT, seconds: float = SECONDS
) -> None:
    """One film as video sites would store it: x264, a key frame every 250."""
    import av

    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23", "g": "250", "threads": "1"}
        for frame in film(rng, width, height, round(seconds * FPS)):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))


def reference_ids(total: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """V-JEPA 2's frames of a clip, in a video that is longer than the clip's window."""
    step = int(np.ceil(rate)) // int(CONFIG.fps)
    window = CONFIG.frames * step
    end = rng.integers(window, total)
    return np.linspace(end - window, end, CONFIG.frames).clip(max=end - 1).astype(np.int64)


def reference_frames(path: Path, rng: np.random.Generator, watch: Watch) -> np.ndarray:
    """Frames (T, h, w, 3) uint8 of a file by decord, as V-JEPA 2 calls it; the file is closed before they are used."""
    import decord

    with watch("read"):
        reader = decord.VideoReader(str(path), num_threads=-1)
    with watch("decode"):
        frames = reader.get_batch(reference_ids(len(reader), reader.get_avg_fps(), rng)).asnumpy()
        del reader  # ends its threads, which decode ahead
    return frames


def reference_transform(frames: np.ndarray, rng: np.random.Generator) -> Tensor:
    """V-JEPA 2's way to (3, T, size, size) float32: whole frames to float, then cut, resized, mirrored, normalised."""
    clip = torch.from_numpy(frames).float().permute(3, 0, 1, 2)
    c = transforms.random_crop(
        *clip.shape[-2:], scale=CONFIG.crop_scale, aspect=CONFIG.crop_aspect, hflip=CONFIG.hflip, rng=rng
    )
    box = clip[..., c.top : c.top + c.height, c.left : c.left + c.width]
    clip = F.interpolate(box, (CONFIG.size, CONFIG.size), mode="bilinear", align_corners=False)
    clip = clip.flip(-1) if c.mirror else clip
    mean, std = (255 * torch.tensor(x).view(3, 1, 1, 1) for x in (transforms.IMAGENET_MEAN, transforms.IMAGENET_STD))
    return (clip - mean) / std


def reference(paths: list[Path], epoch: int, watch: Watch) -> Tensor:
    """A batch (B, 3, T, size, size) float32 of the windows and boxes that our loader draws in that epoch."""
    batch = []
    for i, path in enumerate(paths):
        rng = transforms.generator(0, epoch, i)
        frames = reference_frames(path, rng, watch)
        with watch("transform"):
            batch.append(reference_transform(frames, rng))
    with watch("collate"):
        return torch.stack(batch)


def ours(batches: loader.Clips, watch: Watch) -> Tensor:
    """The next batch (B, T, 3, size, size) uint8; stages are what the loader calls on its way."""
    with ExitStack() as stack:
        for place, name, stage in (
            (Manifest, "read", "read"),
            (slots, "decode", "decode"),
            (transforms, "shrink", "transform"),
            (transforms, "cut", "transform"),
            (torch, "stack", "collate"),
        ):
            stack.enter_context(patch.object(place, name, watch(stage)(getattr(place, name))))
        return next(batches).frames


def prepare(videos: Path, shards: Path, batches: int) -> tuple[dict[str, Way], dict[str, float]]:
    """Pack the videos three ways; {name: what loads a batch} and {name: MB per clip}, of the reference too."""
    paths = sorted(videos.iterdir())
    ways: dict[str, Way] = {REFERENCE: lambda epoch, watch: reference(paths, epoch, watch)}
    size = {REFERENCE: sum(path.stat().st_size for path in paths)}
    for i, (name, (encoding, _, _)) in enumerate(PACKED.items()):
        pack.pack("folder", videos, shards / str(i), pack.PackConfig(encoding=encoding))
        manifest = Manifest.load(shards / str(i))
        clips = loader.clips([manifest], CONFIG, batch_size=len(paths), seed=0, steps=batches)
        ways[name] = lambda epoch, watch, clips=clips: ours(clips, watch)
        size[name] = sum(shard.bytes for shard in manifest.shards)
    return ways, {name: value / 1e6 / len(paths) for name, value in size.items()}


def measure(ways: dict[str, Way], rounds: int, progress: Callable[[str], None]) -> dict[str, list[Watch]]:
    """{way: what each round's batch cost}, after a round that does not count; who is first changes every round."""
    costs: dict[str, list[Watch]] = {name: [] for name in ways}
    for epoch in range(rounds + 1):
        for k in range(len(ways)):
            name = list(ways)[(epoch + k) % len(ways)]
            watch = Watch()
            with watch("all"):
                frames = ways[name](epoch, watch)
            if not frames.is_floating_point():  # the reference has done it
                with watch("normalize"):
                    transforms.normalize(frames)
            del frames  # its memory is given back outside of what is measured
            costs[name].append(watch)
        progress(f"round {epoch} of {rounds}" + " (warm-up)" * (epoch == 0))
    return {name: watches[1:] for name, watches in costs.items()}


def median(values: list[float]) -> tuple[float, float, float]:
    """The median and the 95 % interval that order statistics give it; NaN with fewer than 6 values."""
    interval = quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(np.median(values)), float(interval.low), float(interval.high)


def verdict(ratio: float, low: float, required: float, aim: float | None) -> str:
    """What a ratio with the lower end of its interval says of the goals."""
    if ratio < required:
        return "**missed**"
    if not low >= required:
        return "met, but not beyond doubt"
    return "met" if aim is None or ratio < aim else "met, and the aim"


def table(costs: dict[str, list[Watch]], size: dict[str, float], clips: int) -> Iterator[str]:
    """Lines of Markdown: cost by stage, then ratios to the reference and whether they are as required."""
    yield "| CPU ms per clip, medians | MB | read | decode | transform | collate | other | all | clips/s per core |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for name, watches in costs.items():
        ms = {stage: float(np.median([1000 * w[stage] / clips for w in watches])) for stage in (*STAGES, "all")}
        other = ms["all"] - sum(ms[stage] for stage in STAGES)
        cells = " | ".join(f"{value:.1f}" for value in (*(ms[s] for s in STAGES), other, ms["all"]))
        yield f"| {name} | {size[name]:.2f} | {cells} | {1000 / ms['all']:.1f} |"
    yield ""
    yield "| times as fast as the reference | ratio (95 %) | required | aim | | with `normalize` on this CPU | its ms |"
    yield "|---|--:|--:|--:|---|--:|--:|"
    for name, (_, required, aim) in PACKED.items():
        pairs = list(zip(costs[REFERENCE], costs[name], strict=True))
        ratio, low, high = median([r["all"] / w["all"] for r, w in pairs])
        whole, *_ = median([r["all"] / (w["all"] + w["normalize"]) for r, w in pairs])
        extra, *_ = median([1000 * w["normalize"] / clips for _, w in pairs])
        goals = f"{required:g} | {'' if aim is None else f'{aim:g}'} | {verdict(ratio, low, required, aim)}"
        yield f"| {name} | {ratio:.2f} ({low:.2f}–{high:.2f}) | {goals} | {whole:.2f} | {extra:.1f} |"


def machine() -> str:
    """The processor, and what decides speed among the installed packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "decord2", "av", "simplejpeg"))
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(versions)}"


def main() -> None:
    """Make clips, measure, print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    progress = partial(print, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as name:
        videos = Path(name, "videos")
        videos.mkdir()
        for i in range(args.clips):
            write_clip(videos / f"clip{i:02d}.mp4", np.random.default_rng(i))
            progress(f"clip {i + 1} of {args.clips}")
        progress("packing three ways")
        ways, size = prepare(videos, Path(name, "shards"), args.rounds + 1)
        before = os.getloadavg()[0]
        lines = list(table(measure(ways, args.rounds, progress), size, args.clips))
    load = f"Processes at work on this machine (load average, 1 minute): {before:.1f} before the rounds, "
    load += f"{os.getloadavg()[0]:.1f} after them. This one is 1; more make CPU time itself dearer."
    command = f"OMP_NUM_THREADS=1 python benchmarks/loader.py --rounds {args.rounds} --clips {args.clips}"
    title = f"# Loading clips: {datetime.date.today()}"
    about = (title, "", machine(), "", "```", command, "```", "", NOTES, "", load, "")
    text = "\n".join([*about, *lines, ""])
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
