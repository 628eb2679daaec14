"""From raw video to a robot that reaches a goal image: pre-train, probe, post-train, plan."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa.interop.load import load as load


def __getattr__(name: str) -> Any:
    """`jepa.load`, imported when it is asked for: `import jepa` alone brings no torch."""
    if name == "load":
        from jepa.interop.load import load

        return load
    raise AttributeError(f"module 'jepa' has no attribute '{name}'")
