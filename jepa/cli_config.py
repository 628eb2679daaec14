"""What the verbs that run an experiment share: a preset, overrides, and the config that they make."""

from typing import Annotated, Any

import typer

Preset = Annotated[str, typer.Argument(help="Preset name (configs/<verb>/NAME.yaml) or path of a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value …, applied last.", show_default=False)]


def configured(schema: Any, group: str, preset: str, overrides: list[str] | None) -> Any:
    """The config of a verb. Raises ConfigError for an unknown preset or key, or a wrong value."""
    from jepa.config import load_config

    return load_config(schema, group, preset, overrides or ())
