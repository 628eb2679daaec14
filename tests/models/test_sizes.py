"""Every size has the published number of parameters, counted without memory for them."""

import dataclasses

import pytest
import torch

from jepa.models.encoder import Encoder
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.rope import Rope
from jepa.models.sizes import SIZES

MILLIONS = {
    "vit_tiny": 5.63,
    "vit_small": 21.88,
    "vit_base": 86.24,
    "vit_large": 303.89,
    "vit_huge": 631.65,
    "vit_giant": 1012.17,
    "vit_giant_xformers": 1012.17,
    "vit_gigantic": 1843.9,
    "vit_gigantic_xformers": 1843.9,
}


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def encoder_of(name: str, **changes) -> Encoder:
    with torch.device("meta"):
        return Encoder(dataclasses.replace(SIZES[name], **changes), torch.Generator())


def test_encoders():
    assert SIZES.keys() == MILLIONS.keys()
    for name, wanted in MILLIONS.items():
        encoder = encoder_of(name)
        assert all(p.is_meta for p in encoder.parameters())
        assert millions(encoder) == pytest.approx(wanted, abs=0.006 if wanted < 1800 else 0.06), name


def test_gigantic_with_the_ratio_that_its_first_code_built():
    assert millions(encoder_of("vit_gigantic", mlp_ratio=4)) == pytest.approx(1598.5, abs=0.06)


def test_swiglu_has_as_many_weights():
    assert millions(encoder_of("vit_large", swiglu=True)) == pytest.approx(MILLIONS["vit_large"], rel=2e-3)


def test_options_leave_meta_initialisation_alone():
    encoder = encoder_of("vit_tiny", swiglu=True, drop_path=0.1, checkpointing="selective", rope_interpolate=True)
    assert all(p.is_meta for p in encoder.parameters())


@pytest.mark.parametrize(("embed_dim", "wanted"), [(1024, 22.09), (1280, 22.28), (1408, 22.38)])
def test_predictors_with_ten_mask_tokens(embed_dim, wanted):
    with torch.device("meta"):
        predictor = Predictor(PredictorConfig(), embed_dim, 10, Rope(), torch.Generator())
    assert millions(predictor) == pytest.approx(wanted, abs=0.006)
