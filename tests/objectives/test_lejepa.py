"""SIGReg: a known mean for normal samples, large for others, equal to a slow reading, and it undoes collapse."""

import cmath
import math
from itertools import pairwise

import pytest
import torch

from jepa.config import ConfigError
from jepa.data.transforms import normalize
from jepa.masks.base import Masks
from jepa.objectives.lejepa import random_directions, sigreg

NULL = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)
"""Mean of the statistic of normal samples: the integral of (1 - exp(-t²)) · exp(-t²/2)."""


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("knots", [17, 8])
def test_sigreg_equals_a_slow_reading(knots):
    """Complex exponentials, one projection at a time, numpy-like trapezoids over the whole interval."""
    samples, directions = normal(5, 3, 4), random_directions(4, 6, (0, 1))
    statistics = []
    for place in range(3):
        for column in directions.T:
            values, points = [], [-5 + 10 * k / (knots - 1) for k in range(knots)]
            for t in points:
                found = sum(cmath.exp(1j * t * float(x @ column)) for x in samples[:, place]) / 5
                values.append(abs(found - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2))
            area = sum((a + b) / 2 for a, b in pairwise(values)) * 10 / (knots - 1)
            statistics.append(5 * area)
    assert sigreg(samples, directions, knots).item() == pytest.approx(sum(statistics) / len(statistics), rel=1e-4)


@pytest.mark.parametrize("n", [8, 512])
def test_normal_samples_score_the_known_mean_whatever_their_number(n):
    score = sigreg(normal(n, 200, 8), random_directions(8, 64, (0, 1)), 17).item()
    assert score == pytest.approx(NULL, rel=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: 0 * x,
        lambda x: x[:1].expand(512, -1, -1),
        lambda x: 0.5 * x,
        lambda x: x + 1,
        lambda x: x.exp() - math.exp(0.5),
        lambda x: x[..., :1] * torch.ones(8),
    ],
    ids=["zero", "one point", "narrow", "shifted", "skewed", "on a line"],
)
def test_samples_that_are_not_normal_score_more(wrong):
    directions = random_directions(8, 64, (0, 1))
    ours, theirs = (sigreg(x, directions, 17).item() for x in (normal(512, 4, 8), wrong(normal(512, 4, 8))))
    assert theirs > 3 * ours


def test_gradient_spreads_a_collapsed_cloud_to_unit_variance():
    cloud = (0.05 * normal(256, 8) + 0.5).requires_grad_()
    for step in range(150):
        (gradient,) = torch.autograd.grad(sigreg(cloud, random_directions(8, 64, (0, step)), 17), cloud)
        with torch.no_grad():
            cloud -= 1.0 * gradient
    assert cloud.mean(0).abs().max() < 0.1
    assert torch.linalg.eigvalsh(cloud.T.cov()).sub(1).abs().max() < 0.35


def test_directions_are_units_and_new_at_every_step():
    first, again, later = (random_directions(8, 64, key) for key in ((3, 0), (3, 0), (3, 1)))
    torch.testing.assert_close(first.norm(dim=0), torch.ones(64))
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_a_sample_is_a_clip_and_places_are_tested_apart(make, clip_of):
    objective, clip = make("lejepa", projections=4), clip_of(step=7)
    with torch.no_grad():
        features = objective.encoder(normalize(clip.frames))  # (B, t·N, D)
        score = objective(clip)[1]["sigreg"]
    directions = random_directions(32, 4, (objective._seed, 7))
    each = [sigreg(features[:, place], directions, 17) for place in range(features.shape[1])]
    torch.testing.assert_close(score, torch.stack(each).mean())


def test_every_step_looks_along_other_directions(make, clip_of):
    objective = make("lejepa", projections=4)
    scores = [objective(clip_of(step=step))[1]["sigreg"].item() for step in (0, 1, 0)]
    assert scores[0] == scores[2] != scores[1]


def test_collapse_pays_without_sigreg_and_not_with_it(make, clip_of, optimise):
    """Without a teacher the prediction alone is best served by features that are all the same."""
    spread = {}
    for weight in (0.0, 0.2):
        objective, clip = make("lejepa", sigreg_weight=weight, projections=32), clip_of()
        optimise(objective, clip, 20)
        with torch.no_grad():
            spread[weight] = objective(clip)[1]["std"].item()
    assert spread[0.0] < 0.1 and spread[0.2] > 0.3, spread


def test_the_target_has_a_gradient(make, clip_of):
    """Frames that no context shows still reach the encoder: through what is to be predicted."""
    objective = make("lejepa", sigreg_weight=0.0)
    unseen = Masks(torch.zeros(4, 1, dtype=torch.int64), torch.full((4, 1), 9))
    objective.masks.sample = lambda *_: [unseen, unseen]
    objective.predictor.requires_grad_(False)
    with torch.no_grad():
        objective.predictor.predictor_proj.weight.zero_()  # the context leads nowhere
    objective(clip_of())[0].backward()
    assert objective.encoder.patch_embed.proj.weight.grad.any()


@pytest.mark.parametrize("config", [{"sigreg_weight": 1.5}, {"projections": 0}, {"knots": 2}])
def test_a_config_without_a_meaning_is_refused(config, make):
    with pytest.raises(ConfigError, match=f"objective.{next(iter(config))}"):
        make("lejepa", **config)
