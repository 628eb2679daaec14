"""What the verbs that run an experiment share: a preset, overrides, the config that they make, a verb left out."""

from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

Preset = Annotated[str, typer.Argument(help="Preset name (configs/<verb>/NAME.yaml) or path of a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value …, applied last.", show_default=False)]


def configured(schema: Any, group: str, preset: str, overrides: list[str] | None) -> Any:
    """The config of a verb. Raises ConfigError for an unknown preset or key, or a wrong value."""
    from jepa.config import load_config

    return load_config(schema, group, preset, overrides or ())


def group(usual: str) -> type[TyperGroup]:
    """A group of verbs of which `usual` may be left out: `jepa probe PRESET` is `jepa probe run PRESET`."""

    class Group(TyperGroup):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            if args and args[0] not in self.commands and not args[0].startswith("-"):
                args = [usual, *args]
            return super().parse_args(ctx, args)

    return Group


def pairs(text: str, what: str) -> dict[str, float]:
    """`a=1,b=0.5` as a dict. Raises ConfigError for anything else."""
    from jepa.config import ConfigError

    try:
        return {name: float(value) for name, value in (part.split("=") for part in text.split(",") if part)}
    except ValueError:
        raise ConfigError(f"{what} {text}: must look like name=1,other=0.5") from None
