"""Near-duplicates: the same pictures re-encoded or resized are found, others are not, and few comparisons are made."""

import numpy as np
import pytest
import torch

from jepa.data.duplicates import BITS, CLOSE, looks, near_duplicates
from jepa.data.remux import encode_images
from jepa.data.transcode import Encoding, transcode
from jepa.data.video import inspect


def film(seed: int, frames: int = 12) -> bytes:
    """A smooth random picture that drifts over frames."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=rng)
    picture = torch.nn.functional.interpolate(coarse, (64, 96), mode="bicubic").clamp(0, 1)[0]
    rolled = [torch.roll(picture, 2 * i, -1) for i in range(frames)]
    return encode_images((torch.stack(rolled) * 255).byte().permute(0, 2, 3, 1).numpy(), 10)


def bits(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def hashed(data: bytes) -> str:
    return looks(data, inspect(data))


@pytest.mark.parametrize("seed", range(5))
def test_re_encoded_and_resized_films_look_the_same_and_others_do_not(seed: int) -> None:
    data = film(seed)
    own = hashed(data)
    assert len(own) == BITS // 4
    for encoding in (Encoding(short_side=32), Encoding("jpeg", short_side=48), Encoding(short_side=0)):
        assert bits(own, hashed(transcode(data, encoding)[0])) <= CLOSE
    assert all(bits(own, hashed(film(other))) > 4 * CLOSE for other in range(5) if other != seed)


def test_every_pair_within_the_limit_is_found() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        value = int.from_bytes(rng.bytes(BITS // 8), "big")
        flips = rng.permutation(BITS)[: int(rng.integers(0, 2 * CLOSE))]
        other = value ^ sum(1 << int(k) for k in flips)
        names = [("a", f"{value:048x}"), ("far", "f" * 48), ("b", f"{other:048x}")]
        expected = [("b", "a")] if len(flips) <= CLOSE else []
        assert list(near_duplicates(names)) == expected


def test_a_duplicate_of_a_duplicate_names_the_first() -> None:
    names = [("a", "0" * 48), ("b", "0" * 47 + "1"), ("c", "0" * 48)]
    assert list(near_duplicates(names)) == [("b", "a"), ("c", "a")]
