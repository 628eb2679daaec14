"""MuJoCo without a display: import it and open an offscreen renderer, or say in one line what is missing."""

import os
from types import ModuleType
from typing import Any


class SimulatorError(ValueError):
    """The simulator cannot run as asked or on this machine; the message says what to do."""


def import_mujoco() -> ModuleType:
    """The mujoco module, set to render through EGL unless MUJOCO_GL says otherwise.

    Raises:
        SimulatorError: MuJoCo or OpenGL is not installed.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise SimulatorError("MuJoCo is not installed: pip install 'openjepa[sim]'") from error
    except (ImportError, AttributeError) as error:  # PyOpenGL without libEGL
        raise SimulatorError(_no_opengl(error)) from error
    return mujoco


def open_renderer(mujoco: ModuleType, model: Any, pixels: int) -> Any:
    """A `mujoco.Renderer` of `pixels` × `pixels`, whatever the model's own buffer size.

    Raises:
        SimulatorError: there is no usable OpenGL.
    """
    model.vis.global_.offwidth = model.vis.global_.offheight = pixels
    try:
        return mujoco.Renderer(model, pixels, pixels, max_geom=1000)
    except Exception as error:  # PyOpenGL and MuJoCo raise many kinds here, from ImportError to FatalError
        raise SimulatorError(_no_opengl(error)) from error


def _no_opengl(error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    backend = os.environ.get("MUJOCO_GL")
    return f"offscreen OpenGL ({backend}) cannot be opened ({reason}): apt-get install libegl1 libgl1-mesa-dri"
