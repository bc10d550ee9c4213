"""A checkpoint builds nothing but what tlab lists, whoever wrote it."""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from tlab.config.hydra import compose, conf_dir
from tlab.config.safe_loading import NEVER_BUILT, TARGETS, read_config, read_loss
from tlab.core.errors import UserError
from tlab.evaluate import evaluate
from tlab.predict import predict
from tlab.runs.load import instantiate_backbone, load_trained
from tlab.train import train

OWN_STEP = {"_target_": "torchvision.transforms.v2.RandomSolarize", "threshold": 128, "p": 0.5}  # not in conf/


def small_run(photos: Path, run_dir: Path, *overrides: str) -> list[str]:
    quick = (
        "data.image_size=32",
        "data.batch_size=12",
        "data.num_workers=0",
        "backbone.weights=null",
        "logger=none",
    )
    short = ("backbone.upto=layer1", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1")
    return [*quick, *short, "finetune=head", f"data.root={photos}", f"run_dir={run_dir}", *overrides]


@pytest.fixture(scope="module")
def checkpoint(photos, tmp_path_factory) -> dict[str, Any]:
    """The content of best.ckpt of a real run, in whose augmentation is a step that conf/ does not have."""
    run = tmp_path_factory.mktemp("run")
    step = "{" + ", ".join(f"{key}: {value}" for key, value in OWN_STEP.items()) + "}"
    train(compose(small_run(photos, run, f"+aug.transforms.mine={step}")))
    return torch.load(run / "checkpoints/best.ckpt", weights_only=True)


@pytest.fixture
def config(checkpoint) -> dict[str, Any]:
    return copy.deepcopy(checkpoint["tlab"]["config"])


@pytest.fixture
def written(checkpoint, tmp_path):
    """Write the checkpoint with other entries under `tlab`, and return its path."""

    def write(weights: Any = None, **tlab: Any) -> Path:
        file = tmp_path / "stranger.ckpt"
        about = {**checkpoint["tlab"], **tlab}
        torch.save({"state_dict": weights or checkpoint["state_dict"], "tlab": about}, file)
        return file

    return write


@pytest.fixture
def attacks(tmp_path, monkeypatch) -> dict[str, dict[str, Any]]:
    """Five nodes each of which leaves a file in `harm` when it is built, by a way that Hydra lets pass."""
    harm = tmp_path / "harm"
    harm.mkdir()
    script = f"open({str(harm / 'ran')!r}, 'w').close()\n"
    (tmp_path / "hubconf.py").write_text(f"{script}def model(*args, **kwargs): pass\n")
    (tmp_path / "a_strangers_module.py").write_text(script)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {
        "torch.hub.load": {"repo_or_dir": str(tmp_path), "model": "model", "source": "local"},
        "torch.save": {"obj": 1, "f": str(harm / "saved")},
        "numpy.save": {"file": str(harm / "array.npy"), "arr": 1},
        "logging.FileHandler": {"filename": str(harm / "log")},
        "a_strangers_module.anything": {"_partial_": True},
    }


def ask(file: Path, photos: Path, **other: Any) -> Any:
    common = {"batch_size": 5, "num_workers": 0, "accelerator": "cpu", "precision": None, "split": None}
    where = {"run": str(file), "input": str(photos / "test/red"), "data": {"root": None}}
    return OmegaConf.create({**common, **where, **other})


def places(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where each node lies, leaves included."""
    yield place
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*place, key))


def put(config: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another node at a place."""
    if not place:
        return value
    changed = copy.copy(config)
    changed[place[0]] = put(config[place[0]], place[1:], value)
    return changed


def never_built(place: tuple[Any, ...]) -> bool:
    """Tell whether `read_config` leaves out what a node would build; a loss is read apart."""
    return any(
        len(place) >= len(known) and all(k in ("*", p) for k, p in zip(known, place, strict=False))
        for known in (pattern.split(".") for pattern in (*NEVER_BUILT, "loss"))
    )


def test_the_list_is_that_of_conf():
    found: dict[str, set[str]] = {"data.module.source": set(TARGETS["data.source"])}  # there as ${data.source}
    for file in conf_dir().glob("*/*.yaml"):
        group = file.parent.name
        for place in places(yaml.safe_load(file.read_text(encoding="utf-8"))):
            if place and place[-1] == "_target_" and group not in ("hydra", "experiment"):
                where = (group, *place[:-1])
                node: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
                for key in place:
                    node = node[key]
                if not never_built(where) or group == "loss":
                    found.setdefault(".".join(where), set()).add(node)
    assert found == {place: set(targets) for place, targets in TARGETS.items()}


def test_a_run_with_ones_own_augmentation_needs_no_trust(checkpoint, config, written, photos):
    assert config["aug"]["transforms"]["mine"] == OWN_STEP
    config["aug"]["transforms"]["mine"]["_target_"] = "is.not.there"
    config["optimizer"] = {"_target_": "not.there.either"}
    config["logger"] = {"mlflow": {"_target_": "not.there", "uri": "${oc.env:NOT_SET}"}}
    config["loss"], config["callbacks"] = {"_target_": "not.there"}, {"mine": {"_target_": "not.there"}}
    file = written(config=config)
    assert 0 <= evaluate(ask(file, photos))["test/acc"] <= 1
    assert len(predict(ask(file, photos))) == 6


@pytest.mark.parametrize("command", [predict, evaluate])
@pytest.mark.parametrize("target", ["torch.hub.load", "torch.save"])
def test_a_checkpoint_runs_no_code(config, written, attacks, photos, tmp_path, command, target):
    config["backbone"]["name"] = {"_target_": target, **attacks[target]}
    with pytest.raises(UserError, match=rf"backbone\.name\._target_={target} .* trust=true"):
        command(ask(written(config=config), photos))
    assert list((tmp_path / "harm").iterdir()) == []


def test_no_node_of_the_configuration_builds_anything(config, attacks, written, photos, tmp_path):
    """Each of five targets in each place: refused, or left out of what is never built."""
    nodes = [{"_target_": target, **arguments} for target, arguments in attacks.items()]
    refused = [place for place in places(config) if not never_built(place)]
    assert len(refused) > 80
    read = read_config(config, tmp_path)
    assert read_loss(config, read, tmp_path) == config["loss"]
    for place in [*refused, *(place for place in places(config) if place[:1] == ("loss",))]:
        for changed in (put(config, place, node) for node in nodes):
            with pytest.raises(UserError, match=r"_target_"):
                read_loss(changed, read, tmp_path) if place[:1] == ("loss",) else read_config(changed, tmp_path)
    for depth in range(1, max(map(len, places(config))) + 1):  # all places of a depth at once
        changed = config
        for place in places(config):
            if never_built(place) and len(place) == depth:
                changed = put(changed, place, {"these": nodes, "_args_": [nodes[0]], **nodes[1]})
        read = places(OmegaConf.to_container(read_config(changed, tmp_path)))
        assert not [place for place in read if place[-1:] in (("_target_",), ("_args_",)) and never_built(place)]
    for pattern in (*NEVER_BUILT, "loss"):
        place = tuple("head" if key == "*" else key for key in pattern.split("."))
        if place != ("callbacks",):
            config = put(config, place, {"mine": nodes[0], "others": nodes, **nodes[1]})
    assert 0 <= evaluate(ask(written(config=config), photos))["test/acc"] <= 1
    assert list((tmp_path / "harm").iterdir()) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("backbone", "_args_"), ["resnet18"]),
        (("head", "_recursive_"), False),
        (("backbone", "stages"), "${data.source}"),
        (("head", "hidden"), ["${data.module}"]),
        (("data", "module", "_target_"), "builtins.print"),
        (("data", "source"), {"_target_": "tlab.models.backbones.build_backbone", "name": "resnet18"}),
        (("backbone", "_target_"), "${aug.transforms.mine._target_}"),
        (("data", "exclude"), [{1: {"_target_": "builtins.print"}}]),
        (("data", "${oc.env:HOME}"), 1),
    ],
)
def test_what_else_is_refused(config, tmp_path, place, value):
    parent = config
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    with pytest.raises(UserError, match="ckpt"):
        read_config(config, tmp_path / "a.ckpt")


@pytest.mark.parametrize("key", ["checkpoint_path", "cache_dir", "pretrained_cfg", "weights_backbone"])
@pytest.mark.parametrize("trust", [False, True])
def test_no_argument_of_a_builder_reads_another_file(config, written, tmp_path, key, trust):
    config["backbone"]["kwargs"] = {key: "/etc/passwd"}
    with pytest.raises(UserError, match=rf"backbone\.kwargs\.{key} is not for you to set"):
        load_trained(written(config=config), trust)


@pytest.mark.parametrize(
    "text",
    [
        *("${oc.env:A_SECRET}", "x${oc.env:A_SECRET}", "${data.${oc.env:A_SECRET}}", "${ oc.env : A_SECRET }"),
        *("\\${oc.env:A_SECRET}", "\\\\${oc.env:A_SECRET}", "${oc.create:{_target_: builtins.print}}", "${now:%Y}"),
        *(
            "${baseline.a}{oc.env:A_SECRET}",
            "${aug.a}{oc.env:A_SECRET}",
        ),  # comes about when resolved
        *("${data.root}", "${nothing.there}", "${", "${run_name:a}", "${backbone}", "${data.module}"),
    ],
)
@pytest.mark.parametrize("place", [("data", "root"), ("backbone", "stages", "stem"), ("head", "pooling")], ids=str)
def test_interpolations_name_keys_of_the_file_only(config, tmp_path, monkeypatch, place, text):
    monkeypatch.setenv("A_SECRET", "very secret")
    config["baseline"]["a"] = config["aug"]["a"] = "$"
    if place != ("data", "root") and text == "${data.root}":
        text = "${head}"
    with pytest.raises(UserError) as error:
        read_config(put(config, place, text), tmp_path)
    assert "very secret" not in str(error.value)


def test_what_is_never_built_asks_no_resolver_either(config, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "very secret")
    for key, value in {"scheduler": "${oc.env:A_SECRET}", "logger": {"a": ["x${oc.env:A_SECRET}"]}}.items():
        config[key] = value
    config["data"] |= {"a": "${scheduler}", "b": "${logger.a}"}
    assert (read := read_config(config, tmp_path)).data.a is None
    assert list(read.data.b) == [None]


def test_interpolations_within_the_file_are_kept(config, tmp_path):
    config["data"]["labels"] = "fold_${seed}_${.image_size}_${..optimizer.lr}.csv"
    read = read_config(config, tmp_path)
    assert read.data.labels == "fold_0_32_0.03.csv"
    read.data.root = "/another"
    assert read.data.source.root == "/another"


def test_keys_that_are_gone_are_left_out(config, written, photos, tmp_path):
    config["data"] |= {"augment_on": "device", "decode_on": "cpu"}
    config["data"]["module"] |= {"augment_on": "${data.augment_on}", "decode_on": "${data.decode_on}"}
    assert not {"augment_on", "decode_on"} & {*(data := read_config(config, tmp_path).data), *data.module}
    assert 0 <= evaluate(ask(written(config=config), photos))["test/acc"] <= 1


@pytest.mark.parametrize(
    "source", ["tlab.data.sources.demo.index.demo_index", "tlab.data.sources.torchvision_sets.torchvision_index"]
)
def test_a_file_does_not_say_where_to_write(config, tmp_path, source):
    config["data"]["source"] = {"_target_": source, "_partial_": True, "root": "${data.root}"}
    assert read_config(config, tmp_path).data.source.root is None
    assert read_config(config, tmp_path, trust=True).data.source.root == config["data"]["root"]


@pytest.mark.parametrize(
    "tlab",
    [
        *({"config": wrong} for wrong in ([1], None, "text", {}, {"backbone": 5})),
        *({"classes": wrong} for wrong in (3, "red", [], [1, 2, 3], ["red"], {"a": 1})),
        *({"image_size": wrong} for wrong in (32.0, "32", True, 0, 10**6, None, [32])),
        *({key: wrong} for key in ("mean", "std") for wrong in ("0.5", [0.5], [0.5, 0.5, "0.5"], None)),
        *({"resize": wrong} for wrong in ("shrink", ["crop"], None)),
        *({"crop_fraction": wrong} for wrong in (0, "1", None)),
        *({"precision": wrong} for wrong in ("64", None, {"a": 1})),
    ],
    ids=str,
)
def test_values_of_a_wrong_kind(written, photos, tlab):
    with pytest.raises(UserError, match=r"stranger\.ckpt"):
        predict(ask(written(**tlab), photos))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(("backbone.name", wrong) for wrong in (5, ["a"], "no_such_model", "../resnet18", "hf-hub:a/b")),
        *(("backbone.batchnorm_momentum", "a lot"), ("backbone.stages", {"a.b": "conv1"}), ("backbone.upto", 3)),
        *(("backbone.stages", "text"), ("backbone.unknown", 1), ("backbone.library", "mine")),
        *(("head.hidden", 5), ("head.hidden", [10**12]), ("head.dropout", "high"), ("head._partial_", 7)),
        *(
            ("data.batch_size", "many"),
            ("data.batch_size", 0),
            ("data.exclude", 5),
            ("data.source.exclude", 5),
        ),
        *(("data.source.root", {"a": 1}), ("data.source", None), ("data", [1]), ("head", "text")),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit(config, written, photos, place, value):
    """One sentence from the command, whichever part of it meets the value."""
    *parents, key = place.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[key] = value
    with pytest.raises(UserError):
        evaluate(ask(written(config=config), photos))


def test_weights_that_do_not_fit(checkpoint, config, written):
    for weights in ({"a": torch.ones(1)}, [1], "text", dict(list(checkpoint["state_dict"].items())[1:])):
        with pytest.raises(UserError, match=r"stranger\.ckpt does not fit together"):
            load_trained(written(weights=weights))


def test_trust_builds_ones_own_backbone_and_nothing_else(config, written, attacks, photos, tmp_path):
    (tmp_path / "my_backbone.py").write_text("from tlab.models.backbones import build_backbone as build\n")
    config["backbone"]["_target_"] = "my_backbone.build"
    config["aug"] = {"_target_": "torch.save", **attacks["torch.save"]}
    config["data"]["module"]["mix"] = config["optimizer"] = config["aug"]
    file = written(config=config)
    with pytest.raises(UserError, match=r"backbone\._target_=my_backbone\.build .* trust=true"):
        predict(ask(file, photos))
    assert len(predict(ask(file, photos, trust=True))) == 6
    assert 0 <= evaluate(ask(file, photos, trust=True))["test/acc"] <= 1
    config["trainer"]["devices"] = config["aug"]
    with pytest.raises(UserError, match=r"trainer\.devices\._target_=torch\.save"):
        predict(ask(written(config=config), photos, trust=True))
    assert list((tmp_path / "harm").iterdir()) == []


@pytest.mark.parametrize(
    "text", ["${oc.env:A_SECRET}", "${data.root}x${oc.env:A_SECRET}", "${optimizer.nothing}", "${aug.transforms}"]
)
def test_a_loss_asks_no_more_of_its_file(config, tmp_path, monkeypatch, text):
    monkeypatch.setenv("A_SECRET", "very secret")
    read, config["loss"]["label_smoothing"] = read_config(config, tmp_path), text
    if text == "${aug.transforms}":  # what is never built there is not built here either
        assert "_target_" not in str(read_loss(config, read, tmp_path)["label_smoothing"])
        return
    with pytest.raises(UserError) as error:
        read_loss(config, read, tmp_path)
    assert "very secret" not in str(error.value)


def test_ones_own_loss_needs_trust_to_be_measured_and_none_to_predict(config, checkpoint, written, photos, caplog):
    """It has a weight of its own in the checkpoint."""
    config["loss"] = {"_target_": "torch.nn.BCEWithLogitsLoss", "pos_weight": None}
    plain = evaluate(ask(written(config=config), photos))
    assert "loss is cross-entropy here" in caplog.text
    assert "loss._target_=torch.nn.BCEWithLogitsLoss" in caplog.text
    trusted = evaluate(ask(written(config=config), photos, trust=True))
    assert {key for key in plain if plain[key] != trusted[key]} == {"test/loss"}
    weights = {**checkpoint["state_dict"], "loss.scale": torch.ones(())}
    file = written(weights=weights, config=config)
    assert len(predict(ask(file, photos))) == 6
    assert evaluate(ask(file, photos)) == plain


def test_ones_own_backbone_is_not_told_what_only_tlabs_own_understands(compose_run, monkeypatch, tmp_path):
    (tmp_path / "plain_backbone.py").write_text(
        "from tlab.models.backbones import build_backbone\n"
        "def build(name, library, weights, weights_classes, upto, stages, classifier, batchnorm_momentum,"
        " input_size, image_size):\n"
        "    return build_backbone(name, weights=weights, image_size=image_size)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = compose_run("backbone._target_=plain_backbone.build", "head.pooling=max")
    assert instantiate_backbone(cfg, None, 32, {"config": {}}).stage_names


def test_the_command_ends_in_one_sentence(config, written, attacks, photos, tmp_path):
    config["head"]["pooling"] = {"_target_": "torch.save", **attacks["torch.save"]}
    command = ["-m", "tlab.predict", f"run={written(config=config)}", f"input={photos}", "output=preds.csv"]
    result = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "head.pooling._target_=torch.save" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "preds.csv").exists()


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.file), "w")


def test_a_run_that_goes_on_builds_what_the_command_says(photos, tmp_path, attacks):
    """Neither the configuration in its checkpoint nor that in its record."""
    run, node = tmp_path / "run", {"_target_": "torch.save", **attacks["torch.save"]}
    cfg = compose(small_run(photos, run))
    metrics = train(cfg)
    record = json.loads((run / "run.json").read_text())
    record["config"]["logger"], record["status"] = {"mine": node, "home": "${oc.env:NOT_SET}"}, "failed"
    (run / "run.json").write_text(json.dumps(record))
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    content["tlab"]["config"] |= {"backbone": node, "data": {"module": node}, "optimizer": node, "scheduler": node}
    torch.save(content, run / "checkpoints/last.ckpt")
    assert train(cfg)["val/acc"] == metrics["val/acc"]
    (run / "run.json").write_text(json.dumps(record | {"status": "failed"}))
    torch.save(content | {"more": Bomb(tmp_path / "harm/bomb")}, run / "checkpoints/last.ckpt")
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        train(cfg)
    assert list((tmp_path / "harm").iterdir()) == []
