"""Launch files that accelerate reads as they are meant; launches of which it would silently make another: refused."""

import os
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from jepa.config import ConfigError
from jepa.engines.launch import launched

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.fixture
def environment(monkeypatch):
    """set(*arguments): the environment that accelerate's launcher of one process gives for these arguments."""
    for name in [n for n in os.environ if n.startswith(("ACCELERATE_", "MASTER_"))]:
        monkeypatch.delenv(name)

    def set_from(*arguments):
        args, *_ = _validate_launch_command(launch_command_parser().parse_args([*arguments, "script.py"]))
        for name, value in prepare_simple_launcher_cmd_env(args)[1].items():
            monkeypatch.setenv(name, value)

    return set_from


def test_the_files_are_those_that_the_documents_promise():
    gpu = ("ddp", "zero1", "zero2", "zero3", "zero3_offload")
    promised = {"cpu", "single_gpu", *gpu, *(f"{name}_2nodes" for name in gpu), *(f"zero{n}_cpu" for n in (1, 2, 3))}
    assert set(FILES) == promised


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_a_file_as_its_name_says(name):
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))  # an unknown key is an error
    assert str(path.relative_to(FOLDER.parents[1])) in path.read_text().split("\ncompute_environment")[0]
    assert config.num_machines == (2 if "2nodes" in name else 1)
    assert config.use_cpu == (name == "cpu")  # DeepSpeed would be left out
    assert config.num_processes == 1 if name in ("cpu", "single_gpu") else config.num_processes >= 2
    kind = {"cpu": "NO", "single": "NO", "ddp": "MULTI_GPU"}.get(name.split("_")[0], "DEEPSPEED")
    assert config.distributed_type.value == kind
    given = config.deepspeed_config
    assert bool(given) == (kind == "DEEPSPEED")
    assert given.keys() <= {action.dest for action in launch_command_parser()._actions}
    if given:
        assert given["zero_stage"] == int(name[4]) and given["zero3_init_flag"] is False
        offloaded = "cpu" if "offload" in name else "none"
        assert given["offload_optimizer_device"] == given["offload_param_device"] == offloaded


def test_an_unknown_key_would_be_found(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load((FOLDER / "cpu.yaml").read_text()), "num_proceses": 2}))
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(path))


@pytest.mark.parametrize("arguments", [["--cpu"], ["--config_file", str(FOLDER / "cpu.yaml")]])
def test_several_cpu_processes_of_which_accelerate_starts_one_are_refused(environment, monkeypatch, arguments):
    environment(*arguments, "--num_processes", "2")
    with pytest.raises(ConfigError, match=r"has started one: use `torchrun --nproc_per_node 2 -m jepa …`"):
        launched()
    monkeypatch.setenv("WORLD_SIZE", "2")  # of torchrun
    launched()


def test_one_process_is_launched_as_it_is_asked_for(environment):
    environment("--config_file", str(FOLDER / "cpu.yaml"))
    assert launched().keys() == {"cpu", "kwargs_handlers"}


def test_fsdp_is_refused(environment, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"FSDP is not supported.*zero3_cpu\.yaml"):
        launched()
