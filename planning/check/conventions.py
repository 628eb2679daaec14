"""Would the recordings make more sense to a world with axes flipped or swapped, or the gripper the other way round?

A wrong sign or order puts the hand in a wrong place as well, and a world that reads the pose may then follow no action
at all, which leaves the regression of verdict.py with noise. But the energy of what was really done still says which
reading is right: with it the imagined outcome is the frame that followed.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from jepa.planning.check.fit import interval, weights
from jepa.planning.check.measure import Transitions, logged_energy
from jepa.planning.check.verdict import AXES, RIGHT, WRONG, Verdict
from jepa.planning.embodiment import Adapter, Embodiment
from jepa.worlds.base import WorldModel

AS_GIVEN = ("x", "y", "z")
SHARE = 0.1  # of the energy as given, that another convention must save
FOLLOWS = 0.85  # of the energy of doing nothing, that its logged actions may leave: else it explains nothing


@dataclass(frozen=True)
class Convention:
    """What the numbers that are read as x, y, z really are, and whether open and closed are exchanged.

    energy: mean one-step energy of the logged actions so; given: as they are read; still: of doing nothing.
    """

    axes: tuple[str, ...]
    gripper: bool
    energy: float
    given: float
    still: float


def otherwise(data: Transitions, axes: tuple[str, ...], gripper: bool = False) -> Transitions:
    """The same transitions in another convention, in states as in actions; `gripper`: open and closed exchanged."""
    adapter = Adapter(Embodiment(axes=axes, gripper=(1.0, 0.0) if gripper else (0.0, 1.0)))  # type: ignore[arg-type]
    return replace(data, pose=adapter.pose(data.pose), change=adapter.change(data.change, data.pose))


def likeliest(world: WorldModel, data: Transitions, rng: np.random.Generator) -> Convention:
    """The convention under which logged actions explain best what followed.

    It is the one of fewest changes that is not clearly worse than the best of all 48 orders and signs; clearly: by a
    99 % interval over a bootstrap of episodes. The gripper is exchanged where that saves as clearly, and `SHARE` by
    itself. It is the given one unless it saves `SHARE` of the energy, and leaves less than `FOLLOWS` of that of doing
    nothing when it is read so.
    """
    ids = np.unique(data.episode)
    of, counts = data.episode == ids[:, None], weights(len(ids), rng)
    sizes = counts @ of.sum(1)

    def means(energy: Tensor) -> np.ndarray:
        """(R) over transitions, for the data and each resample of episodes."""
        return np.asarray((counts @ (of @ energy.double().numpy())) / sizes)

    def worse(one: np.ndarray, other: np.ndarray) -> bool:
        return interval(one - other, 0.99)[0] > 0

    energies = {axes: means(logged_energy(world, otherwise(data, axes))) for axes in _orders()}
    best = min(energies.values(), key=lambda energy: energy[0])
    axes, energy = next((axes, own) for axes, own in energies.items() if not worse(own, best))
    exchanged = means(logged_energy(world, otherwise(data, axes, gripper=True)))
    gripper = worse(energy, exchanged) and bool(exchanged[0] < (1 - SHARE) * energy[0])
    found = float((exchanged if gripper else energy)[0])
    still = float(_still(world, data).mean())
    given = float(energies[AS_GIVEN][0])
    read = otherwise(data, axes, gripper)
    if found > (1 - SHARE) * given or found > FOLLOWS * float(_still(world, read).mean()):
        return Convention(AS_GIVEN, False, given, given, still)
    return Convention(axes, gripper, found, given, still)


def named(found: list[Verdict], convention: Convention) -> list[Verdict]:
    """The verdicts, with axes that the convention turns or exchanges named where the regression could not tell.

    They stay where the regression found one of those axes `right`, which then is no other, or finds a wrong scale, with
    which the energy of logged actions says little of signs. The gripper is told by itself.
    """
    if any(v.verdict == "mis-scaled" for v in found):
        return found
    fits = f"the logged actions then fit what followed: energy {convention.energy:.2g}, as it is {convention.given:.2g}"
    changed = {}
    for i, (own, name) in enumerate(zip(AS_GIVEN, convention.axes, strict=True)):
        if name == f"-{own}":
            changed[i] = ("flipped", f"turned round, {fits}")
        elif name != own:
            changed[i] = ("swapped", f"read it as {name.replace('-', '−')}: {fits}")
    if any(found[i].verdict == RIGHT for i in changed):
        changed = {}
    gripper = AXES.index("gripper")
    if convention.gripper and found[gripper].verdict != RIGHT:
        changed[gripper] = ("flipped", f"open and closed exchanged, {fits}")
    told = list(found)
    for i, (verdict, words) in changed.items():
        if told[i].verdict not in WRONG:
            told[i] = replace(told[i], verdict=verdict, words=words)
    return told


def _still(world: WorldModel, data: Transitions) -> Tensor:
    """(n) the energies of doing nothing."""
    return logged_energy(world, replace(data, change=torch.zeros_like(data.change)))


def _orders() -> list[tuple[str, ...]]:
    """The 48 orders and signs of x, y, z, those with fewer changes first."""
    signed = itertools.product(itertools.permutations(AS_GIVEN), itertools.product(("", "-"), repeat=3))
    orders = [tuple(sign + name for sign, name in zip(signs, names, strict=True)) for names, signs in signed]
    return sorted(orders, key=lambda axes: sum(name != own for name, own in zip(axes, AS_GIVEN, strict=True)))
