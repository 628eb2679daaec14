"""The picture sections of the suite's page: neighbours, principal components, and where a probe looks."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from jepa import report_html as page
from jepa.config import build
from jepa.models.encoder import Encoder
from jepa.probes import made
from jepa.probes.clips import ClipSet
from jepa.probes.config import ProbeConfig
from jepa.probes.features import encode
from jepa.probes.kinds.base import Features, ProbeError
from jepa.probes.suite import pictures as suite_pictures
from jepa.probes.suite.attention import attention

PCA_CLIPS = 32  # that the components are fitted to
SHOWN = 3  # clips in a picture
RANDOM = "random init"


def some(clips: ClipSet, count: int) -> ClipSet:
    """At most `count` of the clips, at even distances: of as many episodes as can be."""
    rows = np.linspace(0, len(clips.frames) - 1, min(count, len(clips.frames))).round().astype(int)
    arrays = {name: values[rows] for name, values in clips.arrays.items()}
    return replace(
        clips, frames=clips.frames[rows], episodes=clips.episodes[rows], coins=clips.coins[rows], arrays=arrays
    )


def picture_sections(
    encoders: dict[str, Encoder], config: ProbeConfig, train: ClipSet, test: ClipSet
) -> Iterator[tuple[str, str]]:
    """Headings and HTML; of clips on both sides, by the last of `encoders`, and beside it by `RANDOM`."""
    encoder, few, side = list(encoders.values())[-1], some(test, SHOWN), 96
    text = (
        "Clips of the test episodes, and the train clips nearest to them by pooled features (cosine, standardised), at "
        "most one of an episode. Not one label is read: what a row has in common with its clip is what the encoder "
        "takes for alike."
    )
    strips = suite_pictures.nearest(encoder, train, few)
    plain = suite_pictures.nearest(encoders[RANDOM], train, few)
    both = page.strips(strips, side) + page.paragraph("The same for a random encoder:") + page.strips(plain, side)
    yield "Nearest neighbours", page.paragraph(text) + both
    text = "Tokens as colours: three principal components, fitted to each encoder's tokens of some clips."
    strips = suite_pictures.components(encoders, some(test, PCA_CLIPS).frames, SHOWN)
    yield "Principal components", page.paragraph(text) + page.strips(strips, side)
    try:
        yield "Attention of the probe", _attention(encoder, config, train, few, side)
    except ProbeError as error:
        yield "Attention of the probe", page.absent(error)


def _attention(encoder: Encoder, config: ProbeConfig, train: ClipSet, few: ClipSet, side: int) -> str:
    probe = build(config.attentive, np.random.default_rng(config.seed))
    frames, backwards = made.arrow(train.frames, train.coins)
    probe.fit(Features(encode(encoder, frames), train.episodes), backwards)
    coins = torch.arange(len(few.frames)) % 2  # 0 is played backwards
    frames, backwards = made.arrow(few.frames, coins)
    tokens = encode(encoder, frames)
    said = probe.predict(Features(tokens, few.episodes))
    weights = attention(probe.model.cpu(), (tokens - probe.heads.mean) / probe.heads.std)
    words = ("forwards", "backwards")
    labels = [f"{words[a]}, taken for {words[b]}" for a, b in zip(backwards.tolist(), said.tolist(), strict=True)]
    text = (
        "Which tokens the attentive probe of the arrow of time reads, mean over its heads: bright where most, dim "
        "where least in the clip, however little that differs. Near 1 × even it looks at all tokens alike."
    )
    return page.paragraph(text) + page.strips(suite_pictures.looks(weights, encoder, frames, labels), side)
