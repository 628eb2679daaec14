"""Videos of one colour a class with their lists, and an encoder that stands for a pre-training run."""

import av
import numpy as np
from torch import nn

from jepa import checkpoint
from jepa.config import to_dict
from jepa.models.encoder import build_encoder

COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
SMALL = [
    *("size=16", "frames=4", "frame_step=2", "segments=2", "views=3", "depth=1", "heads=2", "epochs=2", "batch=5"),
    *("lr=[3e-3,1e-3]", "weight_decay=[0.1]", "workers=0", "validation=0.25"),
]


class Pretrained(nn.Module):
    """What a pre-training run saves, as far as `load_encoder` is concerned."""

    def __init__(self, config) -> None:
        super().__init__()
        self.encoder, self.target_encoder = build_encoder(config, 0), build_encoder(config, 7)


def write_run(folder, config, save_model):
    """A run with an encoder of `config`; returns its folder."""
    checkpoint.claim_run(folder, {"encoder": to_dict(config)})
    save_model(folder, Pretrained(config))
    return folder


def write_video(path, label, rng) -> None:
    """Ten frames of 48×32 px at 8 a second, noise around the colour of the class."""
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv420p", {"crf": "10", "threads": "1"}
        for _ in range(10):
            image = np.clip(COLOURS[label] + rng.integers(-30, 30, (32, 48, 3)), 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))


def write_lists(folder, videos) -> None:
    """`folder/train.csv` of that many videos of each class, and `test.csv` of half as many."""
    rng = np.random.default_rng(0)
    for split, count in (("train", videos), ("test", videos // 2)):
        lines = []
        for label in range(len(COLOURS)):
            for number in range(count):
                path = folder / f"{split}_{label}_{number}.mp4"
                write_video(path, label, rng)
                lines.append(f"{path} {label}\n")
        (folder / f"{split}.csv").write_text("".join(lines))
