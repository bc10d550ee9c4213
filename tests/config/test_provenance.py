"""What a run and its checkpoints keep of a configuration."""

from tlab.config.provenance import plain


def test_what_asks_a_resolver_is_resolved_and_the_rest_may_still_be_changed(compose_run, monkeypatch):
    monkeypatch.setenv("TASK", "7")
    config = plain(compose_run("seed=${oc.env:TASK}", "data.split_seed=${seed}", "logger=mlflow"))
    assert config["seed"] == 7
    assert config["data"]["split_seed"] == "${seed}"
    assert config["logger"]["mlflow"]["tracking_uri"].startswith(
        "${oc.env:MLFLOW_TRACKING_URI"
    )  # may hold a secret
