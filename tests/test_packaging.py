"""What is shipped is what is in the tree, and what README says works: packages, data files, commands."""

import fnmatch
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
from omegaconf import OmegaConf

from jepa.cli import app
from jepa.config import ConfigError, load_config, preset_names
from jepa.planning.bench.config import PlanConfig
from jepa.planning.offline.rows import OfflineConfig
from jepa.posttrain import PosttrainConfig
from jepa.pretrain import PretrainConfig
from jepa.probes.config import ProbeConfig
from jepa.probes.dense.run import DenseConfig
from jepa.probes.published.anticipation import AnticipationConfig
from jepa.probes.published.benchmark_config import BenchmarkConfig

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
SCHEMAS = {
    "pretrain": PretrainConfig,
    "probe": ProbeConfig,
    "benchmark": BenchmarkConfig,
    "anticipation": AnticipationConfig,
    "dense": DenseConfig,
    "posttrain": PosttrainConfig,
    "plan": PlanConfig,
    "offline": OfflineConfig,
}
"""Of the presets in each folder of configs/."""

SHORT = {"probe": "run", "plan": "bench"}
"""The verb of a group that may be left out."""

VERBS = typer.main.get_command(app).commands
README = (ROOT / "README.md").read_text()
DOCS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))]


def folders():
    """(package, folder) of every folder of the tree that holds Python files of the package."""
    for package, folder in SETUPTOOLS["package-dir"].items():
        top = ROOT / folder
        for found in sorted({path.parent for path in top.rglob("*.py")}):
            yield ".".join([package, *found.relative_to(top).parts]), found


def commands(text):
    """The command lines of all `sh` blocks, without comments."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def mistakes(words):
    """What is wrong with a command line of ours; nothing for other programs."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [f"make has no target {w}" for w in words[1:] if w not in targets and "=" not in w]
    if words[:2] == ["accelerate", "launch"]:
        if "--config_file" in words and not (ROOT / words[words.index("--config_file") + 1]).is_file():
            return [f"no file {words[words.index('--config_file') + 1]}"]
        words = words[words.index("-m") + 1 :]
    if words[0] != "jepa":
        return []
    if words[1] not in VERBS:
        return [f"no verb {words[1]}"]
    return verb_mistakes(words[1], words[2:])


def verb_mistakes(verb, arguments):
    command = VERBS[verb]
    if hasattr(command, "commands"):
        if verb in SHORT and arguments and arguments[0] not in command.commands:
            arguments = [SHORT[verb], *arguments]
        if not arguments or arguments[0] not in command.commands:
            return [f"no verb {verb} {arguments[:1]}"]
        command, arguments = command.commands[arguments[0]], arguments[1:]
        verb = command.name if command.name in SCHEMAS else verb
    try:
        values = command.make_context(verb, list(arguments)).params
        if "overrides" in values and verb in SCHEMAS:
            load_config(SCHEMAS[verb], verb, values["preset"], values["overrides"] or ())
    except ConfigError as error:
        return [f"{verb}: {error}"]
    except Exception as error:
        if not hasattr(error, "format_message"):  # what click's errors have; typer may carry a click of its own
            raise
        return [f"{verb}: {error.format_message()}"]
    if verb == "demo" and values["preset"] not in preset_names("demo"):
        return [f"no demo preset {values['preset']}"]
    return []


def test_packages_are_the_folders_of_the_tree():
    assert sorted(SETUPTOOLS["packages"]) == sorted(package for package, _ in folders())
    assert all((folder / "__init__.py").is_file() for _, folder in folders())


def test_every_file_that_is_not_python_is_shipped():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *SETUPTOOLS["package-dir"].values()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split():
        top, _, rest = name.partition("/")
        package = next(p for p, folder in SETUPTOOLS["package-dir"].items() if folder == top)
        patterns = SETUPTOOLS["package-data"].get(package, [])
        shipped = name.endswith(".py") or any(fnmatch.fnmatch(f"./{rest}", p.replace("**", "*")) for p in patterns)
        assert shipped, f"{name} is not in package-data of {package}"


def test_the_constraints_are_within_the_declared_ranges():
    from packaging.requirements import Requirement

    extras = PROJECT["project"]["optional-dependencies"].values()
    declared = [Requirement(r) for r in [*PROJECT["project"]["dependencies"], *(r for extra in extras for r in extra)]]
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        assert any(r.name == name and r.specifier.contains(version) for r in declared), line


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *DOCS])
def test_every_command_of_a_document_exists(document):
    found = list(commands((ROOT / document).read_text()))
    assert len(found) >= 3
    assert not [m for words in found for m in mistakes(words)]


@pytest.mark.parametrize(
    "line",
    [
        "make nosuch",
        "jepa nosuch",
        "jepa collect",
        "jepa collect out --nosuch 3",
        "jepa data nosuch shards",
        "jepa data show shards --nosuch 3",
        "jepa collect out --episodes many",
        "jepa demo --preset nosuch",
        "accelerate launch -m jepa pretrain nosuch data.shards=x",
        "accelerate launch -m jepa pretrain demo optim.nosuch=3",
        "accelerate launch --config_file nosuch.yaml -m jepa pretrain demo",
        "jepa probe demo encoder=a",
        "jepa probe benchmark nosuch",
        "jepa probe dense depth nosuch=1",
        "jepa probe suite",
    ],
)
def test_a_wrong_command_would_be_noticed(line):
    assert mistakes(shlex.split(line))


def test_readme_lists_every_verb_and_names_files_that_exist():
    table = set(re.findall(r"^\| `jepa ([a-z]+)", README, re.MULTILINE))
    assert table == set(VERBS)
    for name in re.findall(r"`((?:configs|planning)/[a-z_/]+(?:\.\w+|/))`", README):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("document", ["README.md", *DOCS])
def test_links_lead_somewhere(document):
    path = ROOT / document
    for name in re.findall(r"\]\(([^):]+)\)", path.read_text()):
        assert (path.parent / name).exists(), name


@pytest.mark.parametrize("verb", SCHEMAS)
def test_every_preset_is_valid(verb):
    names = preset_names(verb)
    assert "debug" in names or verb in ("benchmark", "anticipation", "dense", "offline")
    given = {
        "pretrain": ["out=a"],
        "probe": ["encoder=a", "shards_train=b"],
        "benchmark": ["encoder=a", "out=b"],
        "anticipation": ["encoder=a", "out=b"],
        "dense": ["encoder=a", "out=b", "images_train=c", "labels_train=c", "images_test=d", "labels_test=d"],
        "posttrain": [],
        "plan": ["world=a", "out=b"],
        "offline": ["world=a", "shards=b"],
    }
    for name in names:
        load_config(SCHEMAS[verb], verb, name, given[verb])


def test_presets_say_first_what_they_are_for():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert path.read_text().startswith("# "), path
        assert OmegaConf.load(path), path


def test_changelog_names_the_version():
    assert f"## [{PROJECT['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text()
