"""V-JEPA 2's loss against a slow reading of its definition; which mask token is used for which clip."""

import pytest
import torch
import torch.nn.functional as F

from jepa.config import ConfigError
from jepa.data.transforms import normalize


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_loss_equals_a_slow_reading(power, make, clip_of, optimise):
    """Token by token: encode the context, predict each target, mean |prediction - normed target feature|^p / p."""
    objective, clip = make("vjepa2", loss_exp=power), clip_of(2)
    optimise(objective, clip, 2)
    with torch.no_grad():
        objective.target_encoder.norm.weight.uniform_(1, 3, generator=torch.Generator().manual_seed(0))
        frames = normalize(clip.frames)
        features = objective.target_encoder(frames)
        features = F.layer_norm(features, features.shape[-1:])
        per_config = []
        for index, mask in enumerate(objective.masks.sample((2, 4, 4), clip.sample_id, clip.epoch, clip.step)):
            errors = []
            for b in range(2):
                context = objective.encoder(frames[b : b + 1], mask.context[b : b + 1])
                predicted = objective.predictor(
                    context, mask.context[b : b + 1], mask.target[b : b + 1], (2, 4, 4), index
                )[0]
                errors += [(predicted[i] - features[b, n]).abs() for i, n in enumerate(mask.target[b].tolist())]
            per_config.append((torch.stack(errors) ** power / power).mean())
        torch.testing.assert_close(objective(clip)[0], torch.stack(per_config).mean())


def test_predictor_answers_in_the_order_it_was_asked(make):
    predictor = make("vjepa2").predictor
    generator = torch.Generator().manual_seed(0)
    context, ids, targets = torch.randn(1, 3, 32, generator=generator), torch.tensor([[4, 9, 20]]), [1, 30, 7]
    straight = predictor(context, ids, torch.tensor([targets]), (2, 4, 4), 0)
    turned = predictor(context[:, [2, 0, 1]], ids[:, [2, 0, 1]], torch.tensor([targets])[:, [1, 2, 0]], (2, 4, 4), 0)
    torch.testing.assert_close(turned, straight[:, [1, 2, 0]], atol=1e-5, rtol=1e-5)


def trained_tokens(objective, clip):
    objective.zero_grad()
    objective(clip)[0].backward()
    return [token.grad is not None and bool(token.grad.any()) for token in objective.predictor.mask_tokens]


def test_a_mask_token_for_each_mask_or_for_each_clip_length(make, clip_of):
    assert trained_tokens(make("vjepa2"), clip_of()) == [True, True]
    objective = make("vjepa2", mask_token="per_length", lengths=(2, 4, 8))
    assert trained_tokens(objective, clip_of(frames=4)) == [False, True, False]
    assert trained_tokens(objective, clip_of(frames=8)) == [False, False, True]
    with pytest.raises(ConfigError, match=r"objective\.lengths \(2, 4, 8\): add 6"):
        objective(clip_of(frames=6))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mask_token": "per_clip"}, "per_mask or per_length, not 'per_clip'"),
        ({"mask_token": "per_length"}, "objective.lengths"),
        ({"mask_token": "per_length", "lengths": (8, 4)}, "ascending"),
        ({"lengths": (4,)}, "else empty"),
        ({"loss_exp": 0.0}, "must be positive"),
    ],
)
def test_a_config_without_a_meaning_is_refused(config, message, make):
    with pytest.raises(ConfigError, match=message):
        make("vjepa2", **config)
