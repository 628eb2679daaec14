"""Any encoder by its name: a run's, a released model's, or an image ViT of timm."""

from jepa.checkpoint import CheckpointError
from jepa.interop.load import load
from jepa.models.ac_predictor import ACPredictor
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder, build_image_encoder


def load_encoder(name: str, weights: str = "hub", seed: int = 0) -> tuple[Encoder | ImageEncoder, ACPredictor | None]:
    """The frozen encoder `name`, and the action-conditioned predictor that came with it.

    `name` is whatever `jepa.load` takes, or timm/NAME; for the latter `weights` is as of `build_image_encoder`.

    Raises:
        CheckpointError, ConfigError: there is no such encoder, or it cannot be read safely and as a whole.
    """
    if name.startswith("timm/"):
        return build_image_encoder(name.removeprefix("timm/"), weights, seed), None
    model = load(name)
    if model.encoder is None:
        raise CheckpointError(f"{name} holds no encoder; give the checkpoint that does")
    return model.encoder, model.ac_predictor
