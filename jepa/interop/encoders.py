"""Any encoder by its name: a run's, a released model's, or an image encoder of timm."""

from collections.abc import Mapping

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.interop.load import load
from jepa.interop.model import DenseEncoder
from jepa.logs import console
from jepa.models.ac_predictor import ACPredictor
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder, build_image_encoder


def load_encoder(
    name: str, weights: str = "hub", seed: int = 0, which: str = "target", heads: Mapping[str, int] | None = None
) -> tuple[Encoder | ImageEncoder, ACPredictor | None]:
    """The frozen encoder `name`, and the action-conditioned predictor that came with it.

    `name`, `which` and `heads` are whatever `jepa.load` takes; or `name` is timm/NAME, and `weights` as of
    `build_image_encoder`. To the encoder a single frame is a still video, also of V-JEPA 2.1.

    Raises:
        CheckpointError, ConfigError: there is no such encoder, or it cannot be read safely and as a whole.
    """
    if name.startswith("timm/"):
        if heads or which != "target":
            raise ConfigError(f"{name} is one encoder, whose heads timm knows: leave --which and --heads out")
        if weights == "hub":
            console.print(f"asking the Hugging Face hub for the weights of {name}", soft_wrap=True, highlight=False)
        return build_image_encoder(name.removeprefix("timm/"), weights, seed), None
    model = load(name, heads, which)
    if model.encoder is None:
        raise CheckpointError(f"{name} holds no encoder; give the checkpoint that does")
    encoder = model.encoder.plain() if isinstance(model.encoder, DenseEncoder) else model.encoder
    return encoder, model.ac_predictor
