"""What a run and its checkpoints keep of a configuration."""

import pytest
from omegaconf import OmegaConf

from tlab.config.diff import differences
from tlab.config.provenance import plain, resolved


def test_what_asks_a_resolver_is_resolved_and_the_rest_may_still_be_changed(compose_run, monkeypatch):
    monkeypatch.setenv("TASK", "7")
    config = plain(compose_run("seed=${oc.env:TASK}", "data.split_seed=${seed}", "logger=mlflow"))
    assert config["seed"] == 7
    assert config["data"]["split_seed"] == "${seed}"
    assert config["logger"]["mlflow"]["tracking_uri"].startswith(
        "${oc.env:MLFLOW_TRACKING_URI"
    )  # may hold a secret


def test_other_processes_ask_for_secrets_themselves(compose_run, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    given = ("seed=${oc.env:NOT_SET,7}", "logger=csv", "logger.csv.name=x${oc.env:SECRET}")
    cfg = resolved(compose_run(*given))
    assert OmegaConf.to_container(cfg)["seed"] == 7
    assert "hunter2" not in OmegaConf.to_yaml(cfg)
    assert cfg.logger.csv.name == "xhunter2"
    assert cfg.logger.csv.save_dir == cfg.run_dir


@pytest.mark.parametrize(
    ("overrides", "scale"),
    [
        ([], 0.3),
        (["backbone=efficientnet_lite0"], 0.03),
        (["backbone=efficientnet_lite0", "finetune.phases.all.lr_scale=0.2"], 0.2),
        (["backbone=efficientnet_lite0", "finetune=full"], 1.0),
        (["backbone=ones_own"], 0.3),
        (["backbone=resnet34", "backbone.unfrozen_lr_scale=0.1"], 0.1),
    ],
)
def test_a_backbone_may_bear_lower_rates_of_which_a_run_keeps_the_number(compose_run, tmp_path, overrides, scale):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone/ones_own.yaml").write_text("_target_: mine.build\nname: mine\n")
    config = plain(compose_run(f"hydra.searchpath=[{tmp_path}]", *overrides))
    assert config["finetune"]["phases"]["all"]["lr_scale"] == scale
    backbone = dict(config["backbone"])
    del backbone["unfrozen_lr_scale"]
    before = {**config, "backbone": backbone}  # of a run that began before backbones had one
    assert differences(before, config) == set()
    finetune = {**config["finetune"], "phases": {**config["finetune"]["phases"], "all": {"lr_scale": 1.5}}}
    assert "finetune.phases.all.lr_scale" in differences({**before, "finetune": finetune}, config)
