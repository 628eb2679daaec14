"""The verbs of `jepa` that take an encoder out to use: `features` of whole videos, and `deploy`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jepa.models.encoder import Encoder
    from jepa.models.image_encoder import ImageEncoder

Which = Annotated[
    str, typer.Option(help="Which encoder of a checkpoint: target (the EMA), encoder, target_encoder or ema_encoder.")
]
Heads = Annotated[str, typer.Option(help="Attention heads where nothing says them: 16, or encoder=16,predictor=12 ….")]
Weights = Annotated[str, typer.Option(help="For timm/NAME: a .safetensors file, hub, or random.")]


def features(
    videos: Annotated[list[Path], typer.Argument(help="Video or image files.")],
    encoder: Annotated[
        str, typer.Option(help="A run folder, a released model (hub id, folder or file), or timm/NAME.")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .safetensors, or .npy for one video.")],
    level: Annotated[str, typer.Option(help="pooled: a vector for each window; tokens: all of them.")] = "pooled",
    window: Annotated[int, typer.Option(min=1, help="Frames that the encoder sees at once.")] = 16,
    stride: Annotated[int, typer.Option(min=0, help="Frames from one window to the next; 0: the window.")] = 0,
    fps: Annotated[float, typer.Option(min=0, help="Frames a second; 0: every frame of the file.")] = 0.0,
    pca: Annotated[
        Path | None, typer.Option(help="MP4 file for a film of the tokens' principal components.", show_default=False)
    ] = None,
    which: Which = "target",
    heads: Heads = "",
    weights: Weights = "hub",
    device: Annotated[str, typer.Option(help="cpu, cuda, …; empty: a GPU if there is one.")] = "",
) -> None:
    """Write features of videos of any length, in a sliding window and constant memory."""
    from rich.markup import escape

    from jepa.config import ConfigError
    from jepa.features import Sliding, extract
    from jepa.interop.encoders import load_encoder
    from jepa.interop.shapes import parse_counts
    from jepa.logs import console, progress_bar
    from jepa.pca_film import write_pca_film

    if pca and (len(videos) > 1 or pca.suffix != ".mp4"):
        raise ConfigError(f"--pca {pca}: must end with .mp4, and takes one video")
    if pca and pca.resolve() == videos[0].resolve():
        raise ConfigError(f"--pca {pca}: is the video itself, which would be overwritten")
    sliding = Sliding(window, stride or window, fps)
    model = _on(device, load_encoder(encoder, weights, which=which, heads=parse_counts(heads, "heads"))[0])
    with progress_bar() as bar:
        task = bar.add_task("features", total=len(videos), figures="")
        order = {video: i for i, video in enumerate(videos)}

        def progress(video: Path, share: float, count: int) -> None:
            bar.update(task, completed=order[video] + share, figures=f"{video.name}: {count} windows")

        bad = extract(videos, model, out, level, sliding, encoder, progress)
        bar.update(task, completed=len(videos))
    for video, reason in bad.items():
        console.print(f"[yellow]cannot be used[/] {escape(str(video))}: {escape(reason)}", soft_wrap=True)
    console.print(f"{level} features of {len(videos) - len(bad)} videos in {out}", soft_wrap=True)
    if pca:
        console.print(f"{write_pca_film(pca, videos[0], model, sliding)} frames in {pca}", soft_wrap=True)


def deploy(
    checkpoint: Annotated[
        str, typer.Argument(help="A run folder (pre- or post-training), a released model, or timm/NAME.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the files.")],
    kind: Annotated[str, typer.Option("--format", help="torch (torch.export) or onnx.")] = "onnx",
    frames: Annotated[
        int, typer.Option(min=0, help="Frames of a clip, or of a world model's history; 0: 16, or 1.")
    ] = 0,
    batch: Annotated[int, typer.Option(min=0, help="Size of the batch; 0: any.")] = 0,
    which: Which = "target",
    heads: Heads = "",
    weights: Weights = "hub",
) -> None:
    """Export an encoder, or a world model with its encoder, and compare the files with the model."""
    from jepa.config import ConfigError
    from jepa.deploy import deploy as run
    from jepa.deploy import encoder_part, world_parts
    from jepa.interop.encoders import load_encoder
    from jepa.interop.shapes import parse_counts
    from jepa.logs import console
    from jepa.runs import load_world

    if (Path(checkpoint) / "encoder.safetensors").is_file():  # a post-training run
        if which != "target" or heads:
            raise ConfigError(f"{checkpoint} is a run with one encoder: leave --which and --heads out")
        parts = world_parts(*load_world(checkpoint), frames or 1)
    else:
        encoder, world = load_encoder(checkpoint, weights, which=which, heads=parse_counts(heads, "heads"))
        parts = world_parts(encoder, world, frames or 1) if world else [encoder_part(encoder, frames or 16)]
    for name, part in run(parts, out, kind, batch, checkpoint)["parts"].items():
        console.print(f"{name}: {out / part['file']}, within {part['difference']:.1e} of the model", soft_wrap=True)


def _on(device: str, encoder: "Encoder | ImageEncoder") -> "Encoder | ImageEncoder":
    import torch

    from jepa.config import ConfigError

    try:
        return encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from error
