"""The evaluation transform of V-JEPA 2: uint8 video of any size -> the frames that released models were tested on."""

from torch import Tensor

from jepa.data.transforms import resize


def evaluation_frames(frames: Tensor, size: int) -> Tensor:
    """(T, 3, h, w) uint8 -> (T, 3, size, size) uint8: short side to int(size·256/224), antialiased, then the centre.

    `jepa.data.transforms.normalize` of it equals transformers' VJEPA2VideoProcessor within one grey level.
    """
    height, width = frames.shape[-2:]
    short, side = min(height, width), int(size * 256 / 224)
    frames = resize(frames, int(side * height / short), int(side * width / short))
    top, left = (round((length - size) / 2) for length in frames.shape[-2:])
    return frames[..., top : top + size, left : left + size]
