"""The backbones that a command line of tlab.advise names."""

import pytest

from tlab.advising.candidates import read_candidates
from tlab.core.errors import UserError


def pairs(*overrides: str) -> list[tuple[str, str]]:
    return [(one.backbone, one.weights) for one in read_candidates(["data.root=photos", *overrides])]


def test_without_one_those_whose_weights_are_at_hand(monkeypatch):
    monkeypatch.setattr("tlab.models.packaged_weights.packaged_file", lambda: None)
    assert pairs() == [("mobilenet_v3_small", "bundled")]
    assert pairs("backbone=efficientnet_lite0,vgg16") == [("efficientnet_lite0", "DEFAULT"), ("vgg16", "DEFAULT")]


def test_weights_are_those_of_all_or_of_each():
    assert pairs("backbone=vgg16,resnet18", "backbone.weights=null") == [("vgg16", None), ("resnet18", None)]
    several = pairs("backbone=vgg16,resnet18", "backbone.weights='my file.pth',DEFAULT")
    assert several == [("vgg16", "my file.pth"), ("resnet18", "DEFAULT")]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("aug=none,light", "give one value of aug"),
        ("finetune=head", "chooses finetune itself"),
        ("finetune.head_epochs=2", "chooses finetune.head_epochs itself"),
        ("backbone.upto=layer3", "leave it out"),
        ("backbone.weights=a.pth,b.pth,c.pth", "3 values for 2 backbones"),
    ],
)
def test_what_is_no_question_for_advice_is_refused(override, said):
    with pytest.raises(UserError, match=said):
        read_candidates(["data.root=photos", "backbone=vgg16,resnet18", override])


def test_the_command_has_each_key_once_and_every_path_as_one_word(pasted):
    overrides = ["data.root='my photos'", "backbone=resnet18", "data.image_size=64", "seed=3"]
    (one,) = read_candidates(overrides)
    words = pasted(one.command([], ["data.image_size=64", "finetune=head"]))
    assert words == [
        *("python", "-m", "tlab.train", "data.root='my photos'", "seed=3", "backbone=resnet18"),
        *("backbone.weights=DEFAULT", "data.image_size=64", "finetune=head"),
    ]
