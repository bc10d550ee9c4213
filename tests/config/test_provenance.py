"""What a run and its checkpoints keep of a configuration."""

import pytest

from tlab.config.diff import differences
from tlab.config.provenance import plain


def test_what_asks_a_resolver_is_resolved_and_the_rest_may_still_be_changed(compose_run, monkeypatch):
    monkeypatch.setenv("TASK", "7")
    config = plain(compose_run("seed=${oc.env:TASK}", "data.split_seed=${seed}", "logger=mlflow"))
    assert config["seed"] == 7
    assert config["data"]["split_seed"] == "${seed}"
    assert config["logger"]["mlflow"]["tracking_uri"].startswith(
        "${oc.env:MLFLOW_TRACKING_URI"
    )  # may hold a secret


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        ([], 0.03),
        (["backbone=efficientnet_lite0"], 0.003),
        (["backbone=efficientnet_lite0", "optimizer.lr=0.02"], 0.02),
        (["backbone=efficientnet_lite0", "optimizer=adamw"], 0.001),
        (["backbone=ones_own"], 0.03),
        (["backbone=resnet34", "backbone.sgd_lr=0.01"], 0.01),
    ],
)
def test_a_backbone_may_have_its_own_rate_of_which_a_run_keeps_the_number(compose_run, tmp_path, overrides, rate):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone/ones_own.yaml").write_text("_target_: mine.build\nname: mine\n")
    config = plain(compose_run(f"hydra.searchpath=[{tmp_path}]", *overrides))
    assert config["optimizer"]["lr"] == rate
    before = {**config, "backbone": {key: value for key, value in config["backbone"].items() if key != "sgd_lr"}}
    assert differences(before, config) == set()  # of a run that began before backbones had one
    assert differences({**before, "optimizer": {**config["optimizer"], "lr": 1.0}}, config) == {"optimizer.lr"}
