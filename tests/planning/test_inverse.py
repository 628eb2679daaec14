"""Inverse dynamics: learns the action between frames, is the same from its file, and trains on a post-training run."""

import json
from dataclasses import replace

import pytest
import torch

from jepa import runs
from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.planning import inverse
from jepa.planning.inverse import InverseConfig
from jepa.worlds.base import WorldModel

SMALL = InverseConfig(token_width=4, width=32, steps=300, batch_size=32, learning_rate=3e-3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def walks(episodes: int = 64, frames: int = 6):
    """A point in the plane that is seen through two tokens of three numbers; actions and states are its own."""
    actions = torch.rand(episodes, frames - 1, 2, generator=generator()) * 0.4 - 0.2
    states = torch.cat((torch.zeros(episodes, 1, 2), actions.cumsum(1)), dim=1)
    view = torch.randn(2, 6, generator=generator(1))
    return (states @ view).unflatten(-1, (2, 3)), actions, states


def joined(features: torch.Tensor, actions: torch.Tensor, states: torch.Tensor):
    """The same end to end, with the lengths of the episodes."""
    lengths = torch.full((len(states),), states.shape[1])
    return features.flatten(0, 1), actions.flatten(0, 1), states.flatten(0, 1), lengths


@pytest.fixture(scope="module")
def learned():
    return inverse.train(*joined(*walks()), SMALL, generator())


def test_it_learns_the_action_that_leads_from_frame_to_frame(learned):
    features, actions, states = walks()
    predicted = learned(features[:, 1], features[:, 2], states[:, 1])
    assert (predicted - actions[:, 1]).abs().mean() < 0.02 < 0.2 * actions.abs().mean()
    assert not any(p.requires_grad for p in learned.parameters())


def test_with_gaps_it_learns_the_first_action_of_the_way():
    features, _, states = walks()
    states = torch.linspace(0, 1, 6)[None, :, None] * states[:, -1:]  # straight ways, at constant pace
    actions, features = states.diff(dim=1), (states @ torch.randn(2, 6, generator=generator(1))).unflatten(-1, (2, 3))
    net = inverse.train(*joined(features, actions, states), replace(SMALL, max_gap=5), generator())
    far = net(features[:, 0], features[:, 5], states[:, 0])
    long = actions[:, 0].norm(dim=-1) > 0.05
    assert torch.nn.functional.cosine_similarity(far, actions[:, 0])[long].mean() > 0.9
    assert far.norm(dim=-1).mean() == pytest.approx(float(actions[:, 0].norm(dim=-1).mean()), rel=0.4)  # not 5


def test_the_same_generator_gives_the_same_net_and_no_other_matters(learned):
    torch.manual_seed(5)
    again = inverse.train(*joined(*walks()), SMALL, generator())
    for name, value in learned.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_its_file_holds_all_of_it(learned, tmp_path):
    inverse.save(learned, tmp_path / "net.safetensors")
    features, _, states = walks()
    loaded = inverse.load(tmp_path / "net.safetensors")
    inputs = (features[:, 0], features[:, 3], states[:, 0])
    assert torch.equal(loaded(*inputs), learned(*inputs)) and loaded.config == learned.config
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_mistakes_are_one_line(learned, tmp_path):
    features, actions, states = walks()
    with pytest.raises(ConfigError, match="max_gap=6 is too much for episodes of 6 frames"):
        inverse.train(*joined(features, actions, states), InverseConfig(max_gap=6), generator())
    with pytest.raises(ConfigError, match="proprio=false"):
        learned(features[:, 0], features[:, 1])
    with pytest.raises(CheckpointError, match="nothing"):
        inverse.load(tmp_path / "nothing.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"no net")
    with pytest.raises(CheckpointError, match="not an inverse-dynamics net"):
        inverse.load(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="run `jepa posttrain` again"):
        inverse.train_on_run(tmp_path, SMALL, tmp_path / "net.safetensors")


def test_it_trains_on_the_cache_of_a_run_in_the_scale_of_its_world(tmp_path, monkeypatch):
    class Doubled(WorldModel):
        def observe(self, state, tokens, proprio=None, actions=None):
            return {"x": 2 * tokens[:, -1].float()}

        def features(self, state):
            return state["x"]

    features, actions, states = walks()
    run = tmp_path / "run"
    tokens, actions, states, lengths = joined(features.half(), actions, states)
    cached = {"tokens": tokens, "actions": actions, "states": states, "lengths": lengths}
    runs.write_cache(run / "features" / "train" / "00000-of-00001.safetensors", "key", cached)
    monkeypatch.setattr(runs, "load_world", lambda path: (None, Doubled()))
    ticks = []
    config = replace(SMALL, steps=3, seed=4)
    path = inverse.train_on_run(run, config, tmp_path / "deep" / "net.safetensors", lambda: ticks.append(0))
    net = inverse.load(path)
    expected = inverse.train((2 * tokens.float()).half(), actions, states, lengths, config, generator(4))
    assert torch.equal(net.embed.weight, expected.embed.weight) and len(ticks) == 3
    assert json.dumps(net.shape) == "[2, 3, 2, 2]"


def test_it_learns_from_episodes_of_any_length():
    """Each way goes at a pace of its own; a frame of one episode is never paired with one of another."""
    lengths = torch.tensor([1, 2, 6, 3, 1, 5] * 12)
    pace = torch.rand(len(lengths), 2, generator=generator()) * 0.4 - 0.2
    states = torch.cat([p * torch.arange(n)[:, None] for p, n in zip(pace, lengths.tolist(), strict=True)])
    actions = torch.cat([p.expand(n - 1, 2) for p, n in zip(pace, lengths.tolist(), strict=True)])
    features = (states @ torch.randn(2, 6, generator=generator(1))).unflatten(-1, (2, 3))
    net = inverse.train(features, actions, states, lengths, replace(SMALL, max_gap=4), generator())
    first = (lengths.cumsum(0) - lengths)[lengths > 1]
    assert (net(features[first], features[first + 1], states[first]) - pace[lengths > 1]).abs().mean() < 0.05
