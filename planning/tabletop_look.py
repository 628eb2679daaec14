"""The tabletop's look: shapes, sizes, colours, texture, light, camera and distractors, which vary by episode.

A look is one structured array, so that it flattens into the simulator state, and it is written into the compiled
model in place: one model serves every scene without recompiling.
"""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from jepa.planning.offscreen import SimulatorError
from jepa.planning.tabletop_scene import DISTRACTORS, MATERIALS, MAX_OBJECT

_SHAPES = ("box", "cylinder")  # index = a look's object_shape and distractor_shape


@dataclass(frozen=True)
class Variation:
    """How much scenes differ in looks, by factor: 0 (not at all) to 1 (the full range).

    All but `size` leave the physics alone.

    Raises:
        SimulatorError: a strength outside 0..1.
    """

    color: float = 0.0  # of objects, table (and its texture), floor and arm
    light: float = 0.0  # direction and levels
    camera: float = 0.0  # up to 3 cm off its place and 1 cm off its aim, each way
    size: float = 0.0  # and shape, of objects
    distractors: float = 0.0  # at 1 none to three along the edge, out of reach

    def __post_init__(self) -> None:
        for name, strength in vars(self).items():
            if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0.0 <= strength <= 1.0:
                raise SimulatorError(f"tabletop: variation {name} must lie in 0..1, got {strength}")

    @classmethod
    def of(cls, given: "float | Mapping[str, float] | Variation") -> "Variation":
        """One strength for every factor, or strengths by name (what is not named stays as usual).

        Raises:
            SimulatorError: no such factor, or a strength outside 0..1.
        """
        names = [f.name for f in fields(cls)]
        if isinstance(given, Variation):
            return given
        if not isinstance(given, Mapping):
            return cls(*[given] * len(names))
        if unknown := [name for name in given if name not in names]:
            raise SimulatorError(f"tabletop: no variation '{unknown[0]}'; there are: {', '.join(names)}")
        return cls(**given)


def look_dtype(num_objects: int) -> np.dtype:
    """The look's fields. All float64, so that it flattens into the state vector without loss."""
    n, d = num_objects, DISTRACTORS
    fields: list[tuple[str, tuple[int, ...]]] = [
        ("object_shape", (n,)),
        ("object_size", (n, 3)),
        ("object_rgb", (n, 3)),
        ("table_material", ()),
        ("table_rgb", (3,)),
        ("floor_rgb", (3,)),
        ("arm_rgb", (3,)),
        ("grip_rgb", (3,)),
        ("light_dir", (3,)),
        ("light_level", ()),
        ("ambient_level", ()),
        ("camera_pos", (3,)),
        ("camera_target", (3,)),
        ("distractor_shape", (d,)),
        ("distractor_pos", (d, 3)),
        ("distractor_size", (d, 3)),
        ("distractor_rgba", (d, 4)),
    ]
    return np.dtype([(name, np.float64, shape) for name, shape in fields])


def sample_look(rng: np.random.Generator, variation: Variation, num_objects: int) -> np.ndarray:
    """One scene's look, a 0-d structured array.

    The draws are the same at any strength: what is drawn after a look, and the factors at 0, do not depend on the rest.
    """
    n = num_objects
    look = np.zeros((), look_dtype(n))

    def near(strength: float, usual: Any, low: Any, high: Any) -> np.ndarray:
        usual, low, high = (np.asarray(v, np.float64) for v in (usual, low, high))
        return usual + strength * (rng.uniform(low, high) - usual)

    def colour(usual: tuple[float, float, float], saturation: tuple, value: tuple) -> np.ndarray:
        hsv = rng.uniform([0, saturation[0], value[0]], [1, saturation[1], value[1]])
        return np.asarray(usual) + variation.color * (np.array(colorsys.hsv_to_rgb(*hsv)) - usual)

    def choice(strength: float, usual: int, count: int) -> int:
        other = int(rng.integers(count))
        return other if rng.random() < strength else usual

    for i in range(n):
        look["object_shape"][i] = choice(variation.size, i % 2, len(_SHAPES))
        look["object_size"][i] = near(variation.size, 0.0275, 0.025, MAX_OBJECT)
        look["object_rgb"][i] = colour(((0.85, 0.1, 0.1), (0.1, 0.3, 0.85))[i % 2], (0.75, 1.0), (0.6, 1.0))
    look["table_material"] = choice(variation.color, 0, len(MATERIALS))
    look["table_rgb"] = colour((0.72, 0.66, 0.58), (0.0, 0.35), (0.45, 0.9))
    look["floor_rgb"] = colour((0.25, 0.28, 0.32), (0.0, 0.5), (0.25, 0.7))
    look["arm_rgb"] = near(variation.color, [0.8, 0.8, 0.82], [0.6, 0.6, 0.6], [0.95, 0.95, 0.95])
    look["grip_rgb"] = near(variation.color, [0.1, 0.85, 0.35], [0.0, 0.6, 0.1], [0.2, 1.0, 0.6])
    look["light_dir"] = near(variation.light, [0.2, 0.4, -1.0], [-0.7, -0.2, -1.0], [0.7, 0.9, -1.0])
    look["light_level"] = near(variation.light, 0.55, 0.4, 0.75)
    look["ambient_level"] = near(variation.light, 0.45, 0.3, 0.55)
    look["camera_pos"] = near(variation.camera, [0.0, -0.62, 1.01], [-0.03, -0.65, 0.98], [0.03, -0.59, 1.04])
    look["camera_target"] = near(variation.camera, [0.0, 0.07, 0.06], [-0.01, 0.06, 0.06], [0.01, 0.08, 0.06])
    shown = rng.integers(DISTRACTORS + 1)
    for i in range(DISTRACTORS):  # along the edge, outside the reach of the arm
        size = rng.uniform(0.012, 0.025, 3)
        edge, along = rng.uniform(0.215, 0.235), rng.uniform(-0.21, 0.21)
        side = int(rng.integers(3))  # left, right, back: in front they would hide the table
        x, y = ((-edge, along), (edge, along), (along, edge + 0.03))[side]
        look["distractor_shape"][i] = rng.integers(len(_SHAPES))
        look["distractor_size"][i] = size
        look["distractor_pos"][i] = x, y, size[1] if look["distractor_shape"][i] == 1 else size[2]
        hsv = rng.uniform([0, 0.3, 0.3], [1, 1, 1])
        alpha = float(i < shown and rng.random() < variation.distractors)
        look["distractor_rgba"][i] = (*colorsys.hsv_to_rgb(*hsv), alpha)
    return look


class LookWriter:
    """Writes a look into a compiled model, in place."""

    def __init__(self, mujoco: Any, model: Any, num_objects: int) -> None:
        self.model = model
        self.shapes = np.array([int(mujoco.mjtGeom.mjGEOM_BOX), int(mujoco.mjtGeom.mjGEOM_CYLINDER)])

        def geoms(*names: str) -> np.ndarray:
            return np.array([model.geom(name).id for name in names])

        self.objects = geoms(*(f"object{i}" for i in range(num_objects)))
        self.distractors = geoms(*(f"distractor{i}" for i in range(DISTRACTORS)))
        self.table, self.floor = geoms("table", "floor")
        self.rims = geoms("rim_l", "rim_r", "rim_f", "rim_b")
        self.arm = geoms("post", "beam", "spindle")
        self.grip = geoms("palm", "pad_l", "pad_r")
        self.materials = np.array([model.material(name).id for name in MATERIALS])

    def write(self, look: np.ndarray) -> None:
        """Apply `look`; the next rendering and step see it."""
        m = self.model
        m.geom_type[self.objects] = self.shapes[look["object_shape"].astype(int)]
        m.geom_size[self.objects] = look["object_size"]
        m.geom_rgba[self.objects, :3] = look["object_rgb"]
        m.geom_matid[self.table] = self.materials[int(look["table_material"])]
        m.geom_rgba[self.table, :3] = look["table_rgb"]
        m.geom_rgba[self.rims, :3] = 0.7 * look["table_rgb"]
        m.geom_rgba[self.floor, :3] = look["floor_rgb"]
        m.geom_rgba[self.arm, :3] = look["arm_rgb"]
        m.geom_rgba[self.grip, :3] = look["grip_rgb"]
        m.geom_rgba[self.grip[0], :3] = 0.6 * look["arm_rgb"]
        m.light_dir[0] = look["light_dir"] / np.linalg.norm(look["light_dir"])
        m.light_diffuse[0] = look["light_level"]
        m.light_specular[0] = 0.0
        m.vis.headlight.ambient[:] = look["ambient_level"]
        m.vis.headlight.diffuse[:] = 0.2
        m.vis.headlight.specular[:] = 0.0
        m.cam_pos[0] = look["camera_pos"]
        m.cam_quat[0] = _looking_at(look["camera_pos"], look["camera_target"])
        m.geom_type[self.distractors] = self.shapes[look["distractor_shape"].astype(int)]
        m.geom_pos[self.distractors] = look["distractor_pos"]
        m.geom_size[self.distractors] = look["distractor_size"]
        m.geom_rgba[self.distractors] = look["distractor_rgba"]


def _looking_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Quaternion (w, x, y, z) of a camera at `position` that looks at `target` with its image up-axis upright."""
    back = (position - target) / np.linalg.norm(position - target)  # a MuJoCo camera looks along its -z
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    w = np.sqrt(1.0 + right[0] + up[1] + back[2]) / 2  # upright cameras above the table: the trace never nears -1
    return np.array([w, (up[2] - back[1]) / (4 * w), (back[0] - right[2]) / (4 * w), (right[1] - up[0]) / (4 * w)])
