"""The command line of a command about runs that are to come."""

import pytest

from tlab.config.run_overrides import gather
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


@pytest.mark.parametrize("argument", ["-m", "run_dir=a", "sweep=b"])
def test_what_is_not_for_it_is_refused(argument):
    with pytest.raises(UserError, match="leave"):
        gather(["data.root=a", argument], OWN, "tlab.advise")
