"""What the lowest energies say of each axis: right, flipped, mis-scaled, swapped, turned, or not to be told.

The action of least energy is regressed on the logged one, all axes together. Where the numbers are right the matrix is
the identity: a negative diagonal is a flipped axis, another size a wrong unit, a large number beside it a swap.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jepa.planning.check.fit import Fit, interval, regress, toward, weights

AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
GROUPS = ((0, 1, 2), (3, 4, 5), (6,))  # axes that can be taken for each other
RIGHT, UNSURE, UNKNOWN = "right", "right way", "cannot tell"
WRONG = ("flipped", "mis-scaled", "swapped", "turned")
TOLERANCE = 1.5  # a scale within this factor of 1 counts as right
SHARE = 0.5  # of the own axis's effect that another may have before the axes count as turned
FIT = 0.1  # R² below which nothing is said
UNITS = {1000.0: "mm taken for m", 100.0: "cm taken for m", 57.3: "degrees taken for radians"}


@dataclass(frozen=True)
class Verdict:
    """One axis: the slope of the lowest energy against the logged action, with 95 % intervals over episodes.

    slope: least squares. scale: what the slope can be if both are noisy, from least squares to its reverse.
    fit: R² on all axes. toward: share of goals in whose direction the energy falls, of the larger half of moves.
    """

    axis: str
    verdict: str
    words: str
    slope: float | None = None
    slope95: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    fit: float | None = None
    toward: float | None = None
    toward95: tuple[float, float] | None = None


def verdicts(
    lowest: np.ndarray,
    logged: np.ndarray,
    falls: np.ndarray,
    episode: np.ndarray,
    reach: np.ndarray,
    rng: np.random.Generator,
) -> list[Verdict]:
    """A verdict on each of the 7 axes.

    Args:
        lowest: (n, 7) the actions of least energy. logged: (n, 7) the actions taken.
        falls: (n, 7) the energy one way along each axis minus that the other way: above 0 where +axis is lower.
        episode: (n) which episode each transition is of; they are resampled whole.
        reach: (7) how far each axis was searched; 0 where it was not.
    """
    ids = np.unique(episode)
    counts, of = weights(len(ids), rng), episode == ids[:, None]
    moving = [i for i in range(7) if reach[i] > 0 and logged[:, i].std() > 1e-5 * reach[i]]
    found = regress(lowest[:, moving], logged[:, moving], of, counts) if moving else None
    out = []
    for axis, name in enumerate(AXES):
        if found is None or axis not in moving:
            out.append(Verdict(name, UNKNOWN, "the logged actions hardly move along it"))
            continue
        falling = toward(falls[:, axis], logged[:, axis], of, counts)
        size = float(np.quantile(np.abs(logged[:, axis]), 0.95) / reach[axis])
        out.append(_judge(moving.index(axis), moving, found, falling, size))
    return out


def summary(found: list[Verdict]) -> dict[str, Any]:
    """JSON-able: the axes, whether all is well (`ok`), and one sentence."""
    wrong = [v for v in found if v.verdict in WRONG]
    told = [v for v in found if v.verdict in (RIGHT, UNSURE)]
    if wrong:
        text = "; ".join(f"{v.axis} looks {v.verdict}: {v.words}" for v in wrong)
    elif told:
        untold = [v.axis for v in found if v not in told]
        text = f"nothing looks wrong; confirmed: {', '.join(v.axis for v in told)}"
        text += f"; cannot tell: {', '.join(untold)}" if untold else ""
    else:
        text = "nothing can be told: the lowest energies do not follow the logged actions on any axis"
    return {"ok": bool(told) and not wrong, "summary": text, "axes": [asdict(v) for v in found]}


def _judge(i: int, moving: list[int], fit: Fit, falling: np.ndarray, size: float) -> Verdict:
    """The verdict on axis `moving[i]`; `size` is that of its logged actions, in units of the search."""
    axis, own, share = moving[i], fit.slopes[:, i, i], np.abs(fit.effects[:, i])  # (R), (R, m)
    partial, fits = fit.partial[:, i, i], fit.fits[:, i]
    ends = np.sort(np.stack([own, own / partial.clip(1e-6)]), axis=0)  # least squares, and its reverse
    scale = (float(np.quantile(ends[0, 1:], 0.025)), float(np.quantile(ends[1, 1:], 0.975)))
    numbers = (float(own[0]), interval(own), scale, float(fits[0]), float(falling[0]), interval(falling))

    def say(verdict: str, words: str) -> Verdict:
        return Verdict(AXES[axis], verdict, words, *numbers)

    if fits[0] < FIT or np.quantile(fits[1:], 0.025) < FIT / 2:
        words = f"the lowest energy does not follow the logged action (R² {fits[0]:.2f})"
        return say(UNKNOWN, words + (f"; logged actions are {size:.3g} times the search: check the unit" * (size > 4)))
    group = next(g for g in GROUPS if axis in g)
    others = [j for j, other in enumerate(moving) if other in group and j != i]
    for j in sorted(others, key=lambda j: -share[0, j]):
        name, sign = AXES[moving[j]], "−" if fit.slopes[0, i, j] < 0 else ""
        clear = share[0, j] > share[0, i] / SHARE or fits[0] <= 0.5  # else they are about the same
        if clear and interval(share[:, j] - share[:, i])[0] > 0:
            return say("swapped", f"it follows the logged {sign}{name}")
        if fits[0] > 0.5 and interval(share[:, j] - SHARE * share[:, i])[0] > 0:
            angle = np.degrees(np.arctan2(*np.abs(fit.slopes[0, i, [j, i]])))
            return say("turned", f"it follows the logged {sign}{name} as well, as if axes were turned by {angle:.0f}°")
    low, high = numbers[1]
    if low <= 0 <= high or partial[0] < FIT:
        return say(UNKNOWN, f"too weak a link to the logged action (slope {low:.2g} to {high:.2g})")
    near, far = sorted(np.abs(scale)) if scale[0] * scale[1] > 0 else (0.0, np.inf)
    factor = float(np.abs(own[0]) / np.sqrt(partial[0]))
    off = "" if near < TOLERANCE and far > 1 / TOLERANCE else _by(factor)
    if high < 0:
        return say("flipped", "the energy falls the other way" + (f", and {off}" if off else ""))
    if off:
        return say("mis-scaled", off)
    if near > 1 / TOLERANCE and far < TOLERANCE:
        return say(RIGHT, f"the lowest energy lies at {own[0]:.2f} times the logged action")
    return say(UNSURE, f"the sign is right; the scale is not to be told (between {near:.2g} and {far:.2g})")


def _by(factor: float) -> str:
    """How logged numbers are off if the world sees `factor` times what they say."""
    times, way = (1 / factor, "large") if factor < 1 else (factor, "small")
    unit = next((f" ({unit}, perhaps)" for n, unit in UNITS.items() if way == "large" and 0.8 < times / n < 1.25), "")
    return f"the logged numbers look {times:.{1 if times < 10 else 0}f} times too {way}{unit}"
