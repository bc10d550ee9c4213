"""`python -m tlab.advise`: what it says, what it keeps, and that its last line runs as pasted."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from forked_command import run_forked
from tlab.advise import OWN_KEYS, run
from tlab.config.hydra import compose
from tlab.config.run_overrides import gather
from tlab.core.errors import UserError

QUICK = (
    "data.image_size=32",
    "data.batch_size=12",
    "data.num_workers=0",
    "trainer=cpu",
    "trainer.precision=32-true",
    "backbone=mobilenet_v3_small,resnet18",
    "backbone.weights=bundled,null",
)


@pytest.fixture(scope="module")
def advised(photos, tmp_path_factory) -> tuple[str, Path]:
    """Standard output of the command on two backbones, through a pipe, and the folder that it wrote to."""
    output = tmp_path_factory.mktemp("my advice")
    result = run_forked("tlab.advise", f"data.root={photos}", *QUICK, f"output={output}")
    assert result.returncode == 0, result.stderr
    return result.stdout, output


def test_it_tells_of_every_stage_and_plan(advised):
    text, _ = advised
    for word in (
        "block3",
        "layer2",
        "probe accuracy",
        "LogME",
        "lp_ft",
        "head behind",
        "rule of the CS231n notes",
        "of a class",
    ):
        assert word in text
    assert "carry neither" in text  # random weights are similar to nothing
    assert max(map(len, text.splitlines()[:-1])) <= 130


def test_the_advice_is_kept_with_what_it_expects(advised, photos):
    text, output = advised
    advice = json.loads((output / "advice.json").read_text())
    expected = advice["expected"]["val/acc"]
    assert 0 <= expected["low"] < expected["mean"] <= expected["high"] <= 1
    assert advice["root"] == str(photos)
    assert advice["command"] == text.splitlines()[-1]
    assert advice["minutes"] > 0
    assert advice["backbone"] == "mobilenet_v3_small"  # the other one knows nothing
    scores = [plan["expected"]["score"] for one in advice["measured"] for plan in one["plans"]]
    best = max(advice["measured"][0]["plans"], key=lambda plan: plan["expected"]["score"])
    assert (best["plan"], best["expected"]["score"]) == (advice["plan"], max(scores))
    assert {plan["plan"] for plan in advice["measured"][1]["plans"]} == {"head", "cut", "last", "lp_ft", "full"}


def test_the_last_line_is_a_run_with_all_that_was_advised(advised, photos, pasted):
    text, output = advised
    words = pasted(text.splitlines()[-1])
    assert words[:3] == ["python", "-m", "tlab.train"]
    cfg = compose([*words[3:], f"run_dir={output}"])
    advice = json.loads((output / "advice.json").read_text())
    assert (cfg.data.root, cfg.data.image_size, cfg.backbone.weights) == (str(photos), 32, "bundled")
    assert (cfg.backbone.name, cfg.backbone.upto) == (advice["backbone"], advice["upto"])
    assert cfg.trainer.max_epochs == 8
    assert Path(cfg.advice) == output / "advice.json"


def test_the_same_command_again_computes_nothing_and_says_the_same(advised, photos, monkeypatch, capsys, tmp_path):
    text, output = advised

    def nothing(*_: object) -> None:
        pytest.fail("it was known")

    monkeypatch.setattr("tlab.advising.probes.score_stage", nothing)
    monkeypatch.setattr("tlab.advising.similarity.training_statistics", nothing)
    monkeypatch.setattr("tlab.finetuning.features.stage_features.run_prefix", nothing)
    overrides = gather([f"data.root={photos}", *QUICK, f"output={tmp_path}"], OWN_KEYS, "tlab.advise")
    run(compose(overrides, "advise"))
    before, after = (json.loads((folder / "advice.json").read_text()) for folder in (output, tmp_path))
    assert before["expected"] == after["expected"]
    assert [one["stages"] for one in before["measured"]] == [one["stages"] for one in after["measured"]]
    assert capsys.readouterr().out.splitlines()[:15] == text.splitlines()[:15]


def test_mistakes_are_said_in_one_sentence(tmp_path):
    for arguments, said in (
        ([], "data.root is not set"),
        (["-m", "data.root=photos"], "leave -m out"),
        (["data.root=photos", "finetune=head"], "chooses finetune itself"),
        (["data=demo", "backbone=resnet18", "trainer.max_epochs=1"], "give trainer.max_epochs=2 or more"),
    ):
        result = run_forked("tlab.advise", *arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert said in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_backbone_that_cannot_be_fetched_is_told_before_the_first_is_measured(
    photos, monkeypatch, tmp_path, pasted
):
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", no_network)
    monkeypatch.setattr("tlab.advising.evidence.gather_evidence", lambda *_: pytest.fail("measured before"))
    arguments = [f"data.root={photos}", *QUICK[:5], "backbone=mobilenet_v3_small,vgg11", f"output={tmp_path}"]
    arguments.append("backbone.unfrozen_lr_scale=0.1")  # of this backbone, not of others
    with pytest.raises(UserError, match="for advice on those at hand: ") as refused:
        run(compose(gather([*arguments, "backbone.weights=bundled,DEFAULT"], OWN_KEYS, "tlab.advise"), "advise"))
    words = pasted(str(refused.value).partition("at hand: ")[2])
    assert words == ["python", "-m", "tlab.advise", f"data.root={photos}", *QUICK[:5]]


@pytest.mark.slow
def test_the_last_line_runs_as_pasted_from_a_pipe(photos, tmp_path):
    command = shlex.join([sys.executable, "-m", "tlab.advise", f"data.root={photos}", *QUICK[:5]])
    line = f"{command} backbone=mobilenet_v3_small trainer.max_epochs=4 | tail -n 1"
    printed = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    typed = printed.replace("python", shlex.quote(sys.executable), 1)
    done = subprocess.run(["bash", "-c", typed], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (metrics,) = tmp_path.glob("outputs/runs/*/metrics.json")
    assert json.loads(metrics.read_text())["val/acc"] >= 0
