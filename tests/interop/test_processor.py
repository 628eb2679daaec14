"""The evaluation transform is transformers' VJEPA2VideoProcessor, within one grey level, at any size of video."""

import pytest
import torch

from jepa.data.transforms import IMAGENET_STD, normalize
from jepa.interop.processor import evaluation_frames
from jepa.torchvision_ops import declare_missing_operators

declare_missing_operators()  # before transformers asks for torchvision
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(("height", "width", "size"), [(240, 427, 64), (97, 61, 64), (64, 80, 96), (73, 73, 64)])
def test_the_processor_of_transformers_gives_the_same_frames(height, width, size):
    g = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (2, 3, height // 8, width // 8), generator=g).float()
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    frames = (smooth + 20 * torch.randn(smooth.shape, generator=g)).clamp(0, 255).to(torch.uint8)
    processor = transformers.VJEPA2VideoProcessor(crop_size={"height": size, "width": size})
    wanted = processor(frames, return_tensors="pt")["pixel_values_videos"][0]
    given = normalize(evaluation_frames(frames, size))
    assert given.shape == wanted.shape == (2, 3, size, size)
    grey = (given - wanted).abs() * 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert grey.max() < 1.01
    assert grey.mean() < 0.1
