"""The sections of a report on data and pre-training: contact sheet, curves, collapse criteria, masks, PCA."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from sklearn.decomposition import PCA

from jepa.config import build, from_dict
from jepa.data import transforms
from jepa.data.clip import Clip
from jepa.data.index import Manifest
from jepa.data.loader import read_frames
from jepa.data.transforms import normalize
from jepa.models.encoder import Encoder, build_encoder
from jepa.pretrain import PretrainConfig, heldout_clips
from jepa.report_figures import CYCLE, GREY, OURS, Line, Panel, curves, smooth
from jepa.report_files import (
    Records,
    last_third,
    pretrain_folder,
    read_json,
    read_log,
    series,
    shards,
    start_of_last_third,
    stays_above_half,
)
from jepa.report_html import absent, legend, mosaic, paragraph, plot, strips
from jepa.runs import load_encoder

SHEET = 36  # episodes on the contact sheet
SHEET_SIDE = 64  # pixels
COLUMNS = 6  # pictures in a row of masks or features
PCA_CLIPS, PCA_TOKENS = 32, 16384  # at most, clips and tokens of all of them
TOKENS = {"context": "#2f7fd6", "target": "#f08a24", "unused": "#6b7276"}


def data(run: Path) -> str:
    """What was trained on: counts, one frame of many episodes, and a few episodes over time."""
    train = shards(run, "train")
    spec = train.spec
    size = f"{spec.width}×{spec.height} px" if spec.width else "pictures of several sizes"
    rate = f"{spec.fps:g} frames a second" if spec.fps else "several frame rates"
    robot = f"; actions in {', '.join(spec.action_units)}" if spec.action_dim else "; no actions"
    frames = int(train.samples["frames"].sum())
    text = f"{len(train)} training videos with {frames} frames, {size}, {rate}{robot}."
    try:
        text += f" Held out: {len(shards(run, 'heldout'))} others."
    except ValueError as error:
        text += f" Held out: none ({error})."
    chosen = np.linspace(0, len(train) - 1, min(SHEET, len(train))).astype(int).tolist()
    middles = np.concatenate([_frames(train, i, [train[i].frames // 2]) for i in chosen])
    sheet = mosaic(middles, 12, f"The middle frame of {len(chosen)} training videos.")
    rows = []
    for i in chosen[:: max(1, len(chosen) // 3)][:3]:
        ids = np.linspace(0, train[i].frames - 1, 10).astype(int).tolist()
        rows.append((_behaviour(train, i), _frames(train, i, ids)))
    return paragraph(text) + sheet + paragraph("Three of them from start to end:") + strips(rows, SHEET_SIDE)


def training(run: Path) -> str:
    """Loss, learning rate and health over the run, and whether the features collapsed."""
    folder = pretrain_folder(run)
    log = read_log(folder, "pretrain")
    steps = int(log[-1]["step"])
    names = _mask_names(folder)
    window = max(1, steps // 60)
    losses = [
        Line(f"{names.get(i, i)} masks", *smooth(*series(log, key), window), CYCLE[i])
        for i, key in enumerate(k for k in log[-1] if k.startswith("loss_mask"))
    ] or [Line("loss", *smooth(*series(log, "loss"), window))]
    rate = Line("", *series(log, "lr"), colour=GREY)
    panels = [Panel("loss", "step", losses), Panel("learning rate", "step", [rate], zero=True)]
    caption = f"Pre-training, {steps} steps." + (f" The loss is a running mean over {window}." if window > 1 else "")
    return plot(curves(panels), caption) + _health(log)


def _health(log: Records) -> str:
    if "health/rankme" not in log[0]:
        return absent("health figures need held-out shards; give `heldout=…` to `jepa pretrain`")
    found = {name: series(log, f"health/{name}") for name in ("rankme", "std_over_time", "std")}
    titles = {
        "rankme": "RankMe of pooled features",
        "std_over_time": "std over time, at a position",
        "std": "std of pooled features over clips",
    }
    panels = []
    for name, (steps, values) in found.items():
        levels = {"random init": values[0]}
        if name == "std_over_time":
            levels["half of the initial value"] = values[0] / 2
        marks = {"last third begins": start_of_last_third(steps)} if name == "rankme" and len(steps) > 1 else {}
        panels.append(Panel(titles[name], "step", [Line("", steps, values, OURS)], "", levels, marks, zero=True))
    caption = "Health of the target encoder on held-out clips; dashed: the same encoder before training (step 0)."
    return plot(curves(panels), caption) + paragraph(verdict(log))


def verdict(log: Records) -> str:
    """Whether both collapse criteria hold, with the numbers."""
    spread = series(log, "health/std_over_time")[1]
    holds = stays_above_half(spread)
    text = (
        f"Std over time {'stays' if holds else 'does not stay'} above half of its initial value: lowest "
        f"{min(spread):.4f}, last {spread[-1]:.4f}, initial {spread[0]:.4f} (half: {spread[0] / 2:.4f})."
    )
    means = last_third(*series(log, "health/rankme"))
    if means is None:
        return f"{text} RankMe was measured too rarely to say whether it falls in the last third of the run."
    early, late = means
    return (
        f"{text} RankMe {'does not fall' if late >= early else 'falls'} in the last third of the run: mean "
        f"{early:.3f} in its first half, {late:.3f} in its second. "
        f"{'No collapse by either criterion.' if holds and late >= early else 'Not both criteria hold.'}"
    )


def masks(run: Path) -> str:
    """One held-out clip, with the tokens of every mask config coloured by what they are used for."""
    config = _config(run)
    clip = _clips(run, config, 1)
    sampler = build(config.masks, config.seed)
    c = config.encoder
    grid = c.grid(clip.frames.shape[1], *clip.frames.shape[3:])
    frames = _pictures(clip)[0]
    shown = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).astype(int)
    rows, shares = [("frames", frames[shown])], []
    samples = sampler.sample(grid, clip.sample_id, clip.epoch, clip.step)
    for name, mask in zip(sampler.names, samples, strict=True):
        kind = np.full(np.prod(grid), 2)
        kind[mask.context[0]], kind[mask.target[0]] = 0, 1
        rows.append((f"{name} masks", _tint(frames, kind.reshape(grid), c.patch, c.tubelet)[shown]))
        used = (
            f"{len(m[0]) / len(kind):.0%} {part}" for part, m in (("context", mask.context), ("target", mask.target))
        )
        shares.append(f"{name}: {', '.join(used)}")
    text = (
        f"The encoder sees the context, the predictor fills in the targets; {'; '.join(shares)} of "
        f"{np.prod(grid)} tokens ({grid[0]}×{grid[1]}×{grid[2]})."
    )
    return paragraph(text) + legend(TOKENS) + strips(rows, 128)


def pca(run: Path) -> str:
    """Features of held-out clips as colours: the three main directions of each encoder."""
    config = _config(run)
    tokens = np.prod(config.encoder.grid(config.data.frames, config.data.size, config.data.size))
    clip = _clips(run, config, int(np.clip(PCA_TOKENS // tokens, 1, PCA_CLIPS)))
    trained = load_encoder(pretrain_folder(run), "target")
    steps = clip.frames.shape[1] // config.encoder.tubelet
    count = min(max(1, COLUMNS // steps), len(clip.frames))
    stills = _pictures(clip)[:count, :: config.encoder.tubelet].reshape(-1, *clip.frames.shape[3:], 3)
    rows = [("frames", stills[:COLUMNS])]
    for name, encoder in (("pre-trained", trained), ("random init", build_encoder(config.encoder, config.seed))):
        colours, share = _pca_colours(encoder.eval(), clip)
        rows.append((f"{name} ({share:.0%} of variance)", colours[:count].reshape(-1, *stills.shape[1:])[:COLUMNS]))
    text = (
        f"The first three principal components of the encoder's tokens as red, green and blue, fitted over the tokens "
        f"of {len(clip.frames)} held-out clips, each encoder its own. One picture a tubelet, {count} clips."
    )
    return paragraph(text) + strips(rows, 128)


@torch.no_grad()
def _pca_colours(encoder: Encoder, clip: Clip) -> tuple[np.ndarray, float]:
    """Pictures (B, t, h, w, 3) uint8 of the tokens of clips, and the share of variance that they show."""
    frames = normalize(clip.frames)
    t, rows, columns = encoder.grid(frames.shape[1], *frames.shape[-2:])
    tokens = torch.cat([encoder(part) for part in frames.split(8)]).float().numpy()  # (B, t·N, D)
    fitted = PCA(3, svd_solver="covariance_eigh").fit(tokens.reshape(-1, tokens.shape[-1]))
    found = fitted.transform(tokens.reshape(-1, tokens.shape[-1]))
    low, high = np.percentile(found, (2, 98), axis=0)
    scaled = (255 * ((found - low) / np.maximum(high - low, 1e-9)).clip(0, 1)).astype(np.uint8)
    patch = encoder.config.patch
    pictures = repeat(
        scaled.reshape(len(tokens), t, rows, columns, 3), "b t r c rgb -> b t (r p) (c q) rgb", p=patch, q=patch
    )
    return pictures, float(fitted.explained_variance_ratio_.sum())


def _tint(frames: np.ndarray, kind: np.ndarray, patch: int, tubelet: int) -> np.ndarray:
    """Grey frames (T, h, w, 3) with their tokens (t, rows, columns) of kind 0, 1, 2 in the colours of TOKENS."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in TOKENS.values()])
    colours = repeat(rgb[kind], "t r c rgb -> (t tt) (r p) (c q) rgb", tt=tubelet, p=patch, q=patch)
    return (0.5 * frames.mean(-1, keepdims=True) + 0.5 * colours).astype(np.uint8)


def _config(run: Path) -> PretrainConfig:
    path = pretrain_folder(run) / "config.json"
    return from_dict(PretrainConfig, read_json(path, "pretrain"), str(path))


def _clips(run: Path, config: PretrainConfig, count: int) -> Clip:
    """The first held-out clips of the run's health figures, read once and not kept."""
    data = replace(config.data, cache_gb=0.0)
    heldout = shards(run, "heldout").location
    return heldout_clips(replace(config, data=data, heldout=heldout, heldout_clips=count))[0]


def _pictures(clip: Clip) -> np.ndarray:
    return rearrange(clip.frames, "b t c h w -> b t h w c").numpy()


def _mask_names(folder: Path) -> dict[int, str]:
    """Names of the mask configs by number, as the sampler's config calls them."""
    path = folder / "config.json"
    values = read_json(path, "pretrain").get("masks", {}) if path.is_file() else {}
    return dict(enumerate(name for name, value in values.items() if isinstance(value, dict)))


def _frames(manifest: Manifest, i: int, ids: Sequence[int]) -> np.ndarray:
    """Frames (T, SHEET_SIDE, SHEET_SIDE, 3) of a sample, their centred square."""
    pixels, _ = read_frames(manifest, i, ids)
    crop = transforms.centre_crop(*pixels.shape[-2:])
    return transforms.cut(pixels, crop, SHEET_SIDE).permute(0, 2, 3, 1).numpy()


def _behaviour(manifest: Manifest, i: int) -> str:
    """What is shown, in order, where the frames carry a label; else the sample's name."""
    arrays = manifest.read(i).arrays
    for name, classes in manifest.spec.labels.items():
        if name in arrays:
            ids = arrays[name].tolist()
            return " → ".join(classes[k] for n, k in enumerate(ids) if n == 0 or ids[n - 1] != k)
    return manifest[i].key
