"""What a user should know of a loaded model: its parts, and where released weights differ from what one expects."""

import os

from torch import nn

from jepa.interop.model import Model
from jepa.interop.shapes import MASK_INDEX
from jepa.logs import console
from jepa.models.pooler import EPS

_TOLD: set[str] = set()  # of this process: a probe loads the same encoder for every row


def tell(model: Model) -> None:
    """Print the notes on stderr, once for each model; of several processes the first one does it."""
    text = "\n".join([f"{model.config.origin}:", *notes(model)])
    if text not in _TOLD and os.environ.get("RANK", "0") == "0":
        _TOLD.add(text)
        console.print(text, soft_wrap=True, markup=False, highlight=False)


def notes(model: Model) -> list[str]:
    """One line for each part and each choice that was made."""
    c = model.config
    lines = []
    if e := c.encoder:
        chosen = c.which or "the one in the file, which does not say whether it is the EMA"
        lines.append(
            f"encoder: {e.depth} blocks of width {e.width}, {e.heads} heads, tubelets {e.tubelet}×{e.patch}×{e.patch}, "
            f"{_millions(model.encoder)}, clips of {c.frames}×{e.size}×{e.size}; taken: {chosen}"
        )
        stretched = ", rows and columns stretched to the grid of training" if e.rope_interpolate else ""
        lines.append(f"positions: rope_layout={e.rope_layout}{stretched}; LayerNorm eps 1e-6")
    if c.levels:
        blocks = ", ".join(map(str, c.levels))
        lines.append(f"levels: V-JEPA 2.1, after blocks {blocks}; a clip of one frame is embedded as an image")
    if c.predictor and model.predictor is not None:
        p = c.predictor
        lines.append(
            f"predictor: {p.depth} blocks of width {p.width}, {p.heads} heads, {_millions(model.predictor)}, "
            f"{c.mask_tokens} mask tokens"
        )
        lines += _mask_tokens(model)
    if a := c.ac_predictor:
        lines.append(
            f"ac_predictor: {a.depth} blocks of width {a.width}, {a.heads} heads, rope_layout={a.rope_layout}, "
            f"{_millions(model.ac_predictor)}; " + ("scales: its run's" if c.ac_standardised else _AC_INPUT)
        )
    if k := c.classifier:
        heads = ", ".join(f"{name} {count}" for name, count in k.classes.items())
        lines.append(
            f"classifier: {k.depth} blocks, {k.heads} heads, LayerNorm eps {k.eps:g}, {_millions(model.classifier)}; "
            f"classes: {heads}"
        )
        if k.heads != 16:
            lines.append("classifier: Meta's probes were trained with 16 heads; heads={'classifier': 16} reads it so")
    return lines + list(c.remarks)


def differences(model: Model, to: str) -> list[str]:
    """One line for everything that a layout says otherwise, though the weights are the same."""
    c = model.config
    lines = []
    theirs = {"hf": 1e-6, "meta": EPS}.get(to)
    if c.classifier and theirs and c.classifier.eps != theirs:
        lines.append(
            f"classifier: LayerNorm eps {c.classifier.eps:g} here, {theirs:g} there: logits will differ a little"
        )
    if to != "ours" and c.mask_tokens and c.mask_index != (theirs_index := MASK_INDEX % c.mask_tokens):
        lines.append(f"predictor: inference uses mask token {c.mask_index} here, and {theirs_index} there")
    if to == "hf" and c.encoder and c.encoder.rope_bf16:
        lines.append("positions: rope_bf16=true here; transformers rounds angles only where it computes in bf16")
    if to == "meta" and c.ac_predictor:
        lines.append("ac_predictor: extrinsics_encoder, which no released model reads, is written as zeros")
    return lines


_AC_INPUT = "it reads layer-normed tokens, and its predictions are layer-normed again"


def _mask_tokens(model: Model) -> list[str]:
    """The norm of each; one that was never trained is exactly zero, or so it began."""
    assert model.predictor is not None
    norms = [float(token.norm()) for token in model.predictor.mask_tokens]
    used = model.config.mask_index
    lines = ["mask token norms: " + ", ".join(f"{i}: {norm:.3g}" for i, norm in enumerate(norms))]
    lines[0] += f"; inference uses {used}"
    if not norms[used] and any(norms):
        trained = ", ".join(str(i) for i, norm in enumerate(norms) if norm)
        lines.append(f"mask token {used} is zero and so was never trained; trained: {trained} (pass it as mask_index)")
    return lines


def _millions(module: nn.Module | None) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M parameters" if module is not None else ""
