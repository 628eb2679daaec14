"""The shape of the code base: imports go one way, a folder is its own registry, optional packages stay optional."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"jepa": "jepa", "data": "jepa.data", "probes": "jepa.probes", "planning": "jepa.planning"}
"""Top-level folder -> the package it is installed as."""

PLUGINS = {
    "jepa/masks": ("Config", "build"),
    "jepa/objectives": ("Config", "build"),
    "jepa/worlds": ("Config", "build"),
    "data/sources": ("spec", "recordings", "load"),
    "probes/annotations": ("Config", "read"),
    "probes/kinds": ("Config", "build"),
    "planning/planners": ("Config", "build"),
    "planning/envs": ("Config", "build"),
}
"""Plugin folder -> the names that every file of it but `base.py` has."""

EXTRAS = ("mujoco", "gymnasium", "gym_pusht", "pymunk", "pygame", "gymnasium_robotics", "pyarrow", "h5py", "aiohttp")
EXTRAS += ("metaworld", "ogbench", "dm_control", "deepspeed", "transformers", "OpenGL", "glfw")
ROOTS = re.compile(r"jepa\.(cli(_\w+)?|__main__|demo|report(_\w+)?)$")
"""Composition roots: they put the parts together and may import everything."""


def sources():
    """(path, module name) of every Python file of the package."""
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield path, ".".join([package, *parts]).removesuffix(".__init__")


def imports(source: str, module: str):
    """Every module that `source` names: import statements anywhere, and dotted names in strings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            yield from (name, *(f"{name}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Constant) and re.fullmatch(r"jepa(\.\w+)+\.?", str(node.value)):
            yield node.value.rstrip(".")


def inside(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)


def violations(source: str, module: str) -> list[str]:
    """The imports of `source` that go against the arrows."""
    plugin_packages = [".".join([PACKAGES[f.split("/")[0]], f.split("/")[1]]) for f in PLUGINS]
    found = []
    for name in set(imports(source, module)):
        if inside(module, "jepa.data"):
            wrong = inside(name, "jepa") and not (inside(name, "jepa.data") or name == "jepa")
        elif inside(module, "jepa.probes"):
            wrong = inside(name, "jepa.planning")
        elif inside(module, "jepa.planning"):
            wrong = inside(name, "jepa.probes")
        else:
            wrong = inside(name, "jepa.probes", "jepa.planning") and not ROOTS.match(module)
        for package in plugin_packages:
            if inside(module, package) and inside(name, package):
                wrong |= not inside(name, module, f"{package}.base") and name != package
        if wrong:
            found.append(f"{module} imports {name}")
    return sorted(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jepa.data.pack", "from jepa.config import load_config"),
        ("jepa.data.pack", "from jepa import models"),
        ("jepa.data.sources.folder", "from ... import config"),
        ("jepa.models.encoder", "import jepa.probes"),
        ("jepa.worlds.ac_jepa", "def f():\n    from jepa.planning.planners import cem"),
        ("jepa.pretrain", "importlib.import_module('jepa.probes.run')"),
        ("jepa.pretrain", "importlib.import_module(f'jepa.planning.planners.{name}')"),
        ("jepa.reporting", "from jepa import planning"),
        ("jepa.probes.run", "from jepa.planning.goals import LastStepL1"),
        ("jepa.planning.mpc", "from ..probes import features"),
        ("jepa.planning.planners.icem", "from jepa.planning.planners.cem import CEM"),
        ("jepa.probes.kinds.linear", "from . import knn"),
        ("jepa.masks.tube", "from .multiblock import Config"),
    ],
)
def test_an_import_against_the_arrows_is_found(module, source):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jepa.data.sources.folder", "from jepa.data.sources.base import Episode\nimport jepa.data"),
        ("jepa.probes.run", "import jepa.config, jepa.models.encoder, jepa.data.index"),
        ("jepa.planning.planners.icem", "from .base import Plan"),
        ("jepa.report", "from jepa import planning, probes"),
    ],
)
def test_an_import_along_the_arrows_is_allowed(module, source):
    assert not violations(source, module)


def test_imports_go_one_way():
    checked = list(sources())
    assert len(checked) > 50
    assert not [v for path, module in checked for v in violations(path.read_text(), module)]


def test_every_file_says_first_what_it_is_for():
    files = [path for path, _ in sources()] + sorted((ROOT / "tests").rglob("*.py"))
    mute = []
    for path in files:
        text = path.read_text()
        if path.name == "__init__.py" and not text:
            continue  # nothing in it to explain
        if not text.startswith(('"""', 'r"""')) or not ast.get_docstring(ast.parse(text)):
            mute.append(str(path.relative_to(ROOT)))
    assert not mute


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugin_folder_holds_plugins_and_their_base_alone(folder):
    entries = {p.name for p in (ROOT / folder).iterdir() if p.name != "__pycache__"}
    assert {"__init__.py", "base.py"} < entries
    assert all(name.endswith(".py") for name in entries)


def test_plugin_files_need_no_extra_and_have_what_their_folder_asks():
    """In a process of its own, where the extras cannot be imported."""
    names = {m: PLUGINS[f] for f in PLUGINS for p, m in sources() if p.parent == ROOT / f and p.name != "__init__.py"}
    asked = {m: () if m.endswith(".base") else wanted for m, wanted in names.items()}
    script = f"""
import importlib, sys
for extra in {EXTRAS}:
    sys.modules[extra] = None  # importing it now raises ModuleNotFoundError
lacking = []
for name, wanted in {asked}.items():
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        lacking.append(f"{{name}}: {{error}}")
        continue
    lacking += [f"{{name}} has no {{thing}}" for thing in wanted if not hasattr(module, thing)]
print(*lacking, sep="\\n")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stdout.strip(), ran.stdout


def test_models_can_be_imported_before_torch():
    """torch asks for our module at the end of its import: that must not be the import that began it."""
    done = subprocess.run([sys.executable, "-c", "import jepa.models.layers"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
