"""Each command has a directory of its own, and says at once where it cannot write."""

import errno
from importlib import import_module

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from tlab.config.hydra import conf_dir, prepare_hydra
from tlab.core.errors import UserError
from tlab.runs.directory import RunDirectory
from tlab.runs.unique_directory import ClaimRunDirectory


def test_two_runs_of_the_same_second_have_two_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    HydraConfig.instance().cfg = None
    prepare_hydra([])
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        configs = [hydra.compose("train", ["data.root=photos"], return_hydra_config=True) for _ in range(2)]
    stamp = "outputs/runs/${now:%S}_${backbone.name}_${hydra:runtime.choices.finetune}"
    claimed = []
    for config in configs:
        config.hydra.run.dir = stamp
        ClaimRunDirectory().on_run_start(config)
        claimed.append(config.hydra.run.dir)
    assert claimed[0] != claimed[1]
    assert all((tmp_path / path).is_dir() and "_resnet18_lp_ft" in path for path in claimed)
    assert HydraConfig.instance().cfg is None


@pytest.mark.parametrize(
    ("key", "place", "said"),
    [
        ("hydra.run.dir", "file/${now:%Y-%m-%d_%H-%M-%S}", "tlab: file cannot be written"),
        ("hydra.run.dir", "file/mine", "tlab: file/mine cannot be written"),
        ("dir", "file/study", "tlab: file/study cannot be written"),
    ],
)
def test_a_place_that_cannot_be_written_ends_the_command(tmp_path, monkeypatch, capsys, key, place, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    HydraConfig.instance().cfg = None
    prepare_hydra([])
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("train", ["data.root=photos"], return_hydra_config=True)
    config.hydra.run.dir = place
    with pytest.raises(SystemExit) as end:
        ClaimRunDirectory(key).on_run_start(config)
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(said)
    assert f"{key}=DIR" in printed


@pytest.mark.parametrize("command", ["predict", "evaluate", "compare"])
def test_an_output_that_cannot_be_written_is_noticed_before_anything_is_read(tmp_path, command):
    (tmp_path / "file").write_text("")
    asked = {"run": "nowhere", "input": "nowhere", "sweep": str(tmp_path), "output": str(tmp_path / "file" / "out")}
    keys = {"monitor": None, "target": None, "interval": "t", "test": "t"}
    with pytest.raises(UserError, match=r"file(/out)? cannot be written .*output="):
        import_module(f"tlab.{command}").run(OmegaConf.create(asked | (keys if command == "compare" else {})))


def test_without_locks_no_other_process_loses_its_temporary_files(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    written = [tmp_path / ".run.json.ab12cd09", tmp_path / "checkpoints" / ".last.ckpt.ab12cd09"]
    written[1].parent.mkdir()
    for file in written:
        file.write_text("half")
    with monkeypatch.context() as patch:
        patch.setattr("tlab.core.locks.fcntl.lockf", lockf)
        with RunDirectory(tmp_path).recording({}):
            assert all(file.exists() for file in written)
    RunDirectory(tmp_path).record_failure(RuntimeError())  # alone in it
    assert not any(file.exists() for file in written)
