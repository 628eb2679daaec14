"""How figures are written: a verdict from intervals, null for what JSON cannot hold, text for tables."""

import math
from collections.abc import Sequence

VERDICTS = {"better": "[green]better", "worse": "[red]worse", "not separated": "–"}
"""As a terminal shows them."""


def verdict(*bounds: float) -> str:
    """`better` where all bounds of the intervals are above zero, `worse` where all are below, else `not separated`.

    An interval that is undefined (NaN) separates nothing.
    """
    if all(b > 0 for b in bounds):
        return "better"
    return "worse" if all(b < 0 for b in bounds) else "not separated"


def number(value: float) -> float | None:
    """JSON has no NaN: an undefined number is null."""
    return round(float(value), 6) if math.isfinite(value) else None


def numbers(values: Sequence[float]) -> list[float | None]:
    """The same for several."""
    return [number(value) for value in values]


def shown(value: float | None, sign: str = "") -> str:
    """Three decimals, one where it is large; `sign` + writes that of positive numbers too."""
    return "n/a" if value is None else f"{value:{sign}.{3 if abs(value) < 10 else 1}f}".replace("-", "−")


def between(bounds: Sequence[float | None], sign: str = "", brackets: str = "[]") -> str:
    """An interval in brackets; a dash where it is undefined."""
    if None in bounds:
        return "–"
    left, right = brackets
    return f"{left}{', '.join(shown(b, sign) for b in bounds)}{right}"
