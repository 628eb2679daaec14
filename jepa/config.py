"""Presets and overrides become one frozen, typed config; a `type:` picks a plugin file.

A preset is `configs/<group>/<name>.yaml`; its `base: [...]` names presets that it overlays; `key.sub=value`
overrides come last. The dataclass is the schema: unknown keys and wrong types are one-line errors.
"""

import dataclasses
import importlib
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


class ConfigError(ValueError):
    """A preset, key or value that the user must correct; the message is one line."""


def plugin(package: str, default: str, **values: Any) -> Any:
    """A dataclass field whose `type:` names a file of `package`; the file's `Config` is its schema."""
    return dataclasses.field(default_factory=lambda: {"type": default, **values}, metadata={"plugins": package})


def build(config: Any, *args: Any) -> Any:
    """Build what a plugin's `Config` describes: calls `build(config, *args)` of the file that defines it."""
    return importlib.import_module(type(config).__module__).build(config, *args)


def plugin_names(package: str) -> list[str]:
    """The choices of a plugin folder: its files, without `base`."""
    folder = importlib.resources.files(package)
    names = (Path(entry.name) for entry in folder.iterdir())
    return sorted(n.stem for n in names if n.suffix == ".py" and n.stem not in ("base", "__init__"))


def preset_names(group: str) -> list[str]:
    """The presets of a group (`pretrain`, `posttrain`, …)."""
    folder = importlib.resources.files("jepa.configs") / group
    return sorted(Path(e.name).stem for e in folder.iterdir() if e.name.endswith(".yaml"))


def load_config(schema: type[T], group: str, name: str, overrides: Sequence[str] = ()) -> T:
    """Read preset `name` (or a YAML path) of `group`, apply `overrides`, check against `schema`.

    Raises:
        ConfigError: unknown preset, key or plugin; wrong type; missing value.
    """
    types = {
        f.name: f.default_factory()["type"]  # type: ignore[misc, operator]
        for f in dataclasses.fields(schema)  # type: ignore[arg-type]
        if "plugins" in f.metadata
    }
    given: Any = _read(group, name, (), types)
    try:
        given = _overlay(types, given, OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, ValueError, TypeError) as error:  # TypeError: one entry of a list is overridden
        raise ConfigError(f"overrides {list(overrides)}: {_first_line(error)}") from error
    if bad := [o for o in overrides if "=" not in o]:
        raise ConfigError(f"override '{bad[0]}' is not of the form key.sub=value")
    return _typed(schema, given, f"{group}/{name}")


def from_dict(schema: type[T], values: dict[str, Any], where: str) -> T:
    """The typed config of a plain dict, as `to_dict` wrote it; `where` names the source in errors."""
    return _typed(schema, OmegaConf.create(values), where)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain, JSON-able dict of a config; plugin configs carry their `type`."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        kind = {"type": type(value).__module__.rsplit(".", 1)[1]} if "plugins" in f.metadata else None
        out[f.name] = _plain(value) if kind is None else {**kind, **to_dict(value)}
    return out


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _overlay(types: dict[str, str], *nodes: DictConfig) -> DictConfig:
    """The nodes merged, later over earlier; where one picks another plugin, what was said of the former is dropped.

    `types` are the default choices.
    """
    merged = OmegaConf.create({})
    for node in nodes:
        for key, default in types.items():
            chosen = node[key].get("type") if OmegaConf.is_dict(node.get(key)) else None
            if chosen and key in merged and chosen != merged[key].get("type", default):
                del merged[key]
        merged = OmegaConf.merge(merged, node)  # type: ignore[assignment]
    return merged


def _read(group: str, name: str, seen: tuple[str, ...], types: dict[str, str]) -> DictConfig:
    if name in seen:
        raise ConfigError(f"{group} preset '{name}' is its own base: {' -> '.join((*seen, name))}")
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"no such config file: {name}")
        text = path.read_text()
    else:
        resource = importlib.resources.files("jepa.configs") / group / f"{name}.yaml"
        if not resource.is_file():
            raise ConfigError(f"no {group} preset '{name}'; there are: {', '.join(preset_names(group))}")
        text = resource.read_text()
    try:
        node = OmegaConf.create(text)
    except Exception as error:  # PyYAML's errors have no common base that OmegaConf re-exports
        raise ConfigError(f"{name}: not valid YAML: {_first_line(error)}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{name}: a preset is a mapping of keys to values")
    bases = node.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else list(bases)
    return _overlay(types, *[_read(group, b, (*seen, name), types) for b in bases], node)


def _typed(schema: type[T], given: Any, where: str) -> T:
    plugins = {f.name: f for f in dataclasses.fields(schema) if "plugins" in f.metadata}  # type: ignore[arg-type]
    try:
        own = OmegaConf.masked_copy(given, [k for k in given if k not in plugins])
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), own))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {_explain(error)}") from error
    values = {f.name: getattr(typed, f.name) for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    for name, field in plugins.items():
        own_node: Any = OmegaConf.to_container(given[name]) if name in given else {}
        node = {**values[name], **own_node}
        if node["type"] != values[name]["type"]:
            node = own_node  # another type: the default's values do not apply
        kind = node.pop("type")
        choices = plugin_names(field.metadata["plugins"])
        if kind not in choices:
            raise ConfigError(f"{where}: {name}.type '{kind}' is not one of {', '.join(choices)}")
        module = importlib.import_module(f"{field.metadata['plugins']}.{kind}")
        values[name] = _typed(module.Config, OmegaConf.create(node), f"{where}: {name}")
    if missing := [k for k, v in values.items() if isinstance(v, str) and v == MISSING]:
        raise ConfigError(f"{where}: '{missing[0]}' must be given, as {missing[0]}=…")
    return schema(**{k: _tupled(v) for k, v in values.items()})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _explain(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    line = _first_line(error)
    return f"{line} (at '{key}')" if key and str(key) not in line else line


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
