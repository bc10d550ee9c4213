"""The command line of a command about runs that are to come."""

import pytest

from tlab.config.run_overrides import gather
from tlab.config.schema import TuneConfig
from tlab.core.errors import UserError

OWN = ("output", "debug")


def test_overrides_of_runs_go_into_one_key():
    given = ["data.root=my photos", "backbone=vgg16,resnet18", "output=o", "hydra.verbose=true", "~loss.gamma"]
    assert gather(given, OWN, "tlab.advise") == [
        "output=o",
        "hydra.verbose=true",
        "overrides=['data.root=my photos','backbone=vgg16,resnet18','~loss.gamma']",
    ]
    assert gather(["output=o", "--cfg", "job"], OWN, "tlab.advise") == ["output=o", "--cfg", "job"]
    assert gather(["data.root=a", "--cfg", "job"], OWN, "tlab.advise") == [
        "overrides=['data.root=a']",
        "--cfg",
        "job",
    ]


def test_a_list_as_typed_is_kept_beside_other_overrides():
    """Also twice through it, as where a command line is arranged that was arranged before."""
    own = "overrides=['data.root=it\\'s mine','data.x=\\${data.image_size}']"
    given = gather(["data.root=a", own, "backbone=vgg16"], OWN, "tlab.advise")
    listed = "'data.root=a','data.root=it\\'s mine','data.x=\\${data.image_size}','backbone=vgg16'"
    assert given == [f"overrides=[{listed}]"]
    assert gather(given, OWN, "tlab.advise") == given


@pytest.mark.parametrize("argument", ["overrides=a", "overrides=[1]", "overrides=["])
def test_a_list_that_is_none_is_refused(argument):
    with pytest.raises(UserError, match="no list of overrides; leave it out"):
        gather(["data.root=a", argument], OWN, "tlab.advise")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("n_trials=20", "n_trials is not a key of tlab.tune, which has study, .* did you mean budget.trials=20"),
        ("sead=1", "sead is not a key of tlab.tune, .* did you mean seed=1"),
        ("lr=0.1", "did you mean optimizer.lr=0.1"),
        ("qqqq=1", "nor of its runs; tlab.train --help lists those"),
    ],
)
def test_a_key_that_neither_the_command_nor_its_runs_have_is_refused(argument, words):
    with pytest.raises(UserError, match=words):
        gather([argument], [*TuneConfig.__dataclass_fields__], "tlab.tune")


@pytest.mark.parametrize("argument", ["-m", "run_dir=a", "sweep=b", "overrides=['sweep=b']"])
def test_what_is_not_for_it_is_refused(argument):
    with pytest.raises(UserError, match="leave"):
        gather(["data.root=a", argument], OWN, "tlab.advise")
