"""Classes with few images, or with none in a split: kept where they can be trained, and named."""

import re
import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pictures import jpeg

from tlab.core.errors import UserError
from tlab.data.sources.folder import folder_index
from tlab.runs.directory import RunDirectory
from tlab.train import train


def classes_of(index, split):
    return {index.classes[sample.label] for sample in index.splits[split]}


def excluded(sentence):
    """The patterns that a sentence offers to paste."""
    (argument,) = shlex.split(re.search(r"'data\.exclude=.*?\]'", sentence)[0])
    return [str(pattern) for pattern in OverridesParser.create().parse_override(argument).value()]


def test_lone_images_are_trained_on_and_named(make_folder):
    root = make_folder({"a": 9, "b": 9, "w1": 1, "w2": 1, "w3": 1, "w4": 1, "two": 2})
    index = folder_index(root)
    assert classes_of(index, "train") == {*index.classes} == {"a", "b", "two", "w1", "w2", "w3", "w4"}
    assert classes_of(index, "val") == {"a", "b", "two"}
    (remark,) = index.issues
    assert "4 classes" in remark
    assert "w4" not in remark, "names a few only"
    assert "data.min_images=2" in remark
    kept = folder_index(root, min_images=2)
    assert kept.classes == ("a", "b", "two")
    assert "w1 (1)" in kept.issues[0]
    parted = folder_index(root, test_fraction=0.2)
    assert "two" not in classes_of(parted, "val") | classes_of(parted, "test")
    assert "data.min_images=3" in parted.issues[0]


def test_min_images_counts_what_there_is_to_train_on(make_folder):
    layout = {f"{s}/{c}": n for s in ("train", "val") for c, n in (("a", 5), ("b", 5), ("rare", 3))}
    index = folder_index(make_folder(layout), min_images=4)
    assert classes_of(index, "val") == {*index.classes} == {"a", "b"}
    with pytest.raises(UserError, match=r"no class of at least data\.min_images=9"):
        folder_index(index.root, min_images=9)
    with pytest.raises(UserError, match=r"data\.min_images=0 is too small"):
        folder_index(index.root, min_images=0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_that_a_split_lacks_is_trained_and_named(make_folder, split):
    root = make_folder({"train/a": 5, "train/b [x] (y)": 5, "train/c": 5, f"{split}/a": 2, f"{split}/c": 2})
    index = folder_index(root)
    assert classes_of(index, "train") == {"a", "b [x] (y)", "c"}
    assert classes_of(index, split) == {"a", "c"}
    (remark,) = index.issues
    assert f"The {split} split has no image of 'b [x] (y)'" in remark
    assert folder_index(root, exclude=excluded(remark)).classes == ("a", "c")


def test_a_class_that_train_lacks_is_left_out_by_its_name(make_folder):
    layout = {"train/a": 5, "train/b": 5, "train/c": 0, **{f"{s}/{c}": 2 for s in ("val", "test") for c in "abc"}}
    root = make_folder(layout)
    with pytest.raises(UserError, match="Only val, not train, has the class 'c'") as caught:
        folder_index(root)
    index = folder_index(root, exclude=excluded(str(caught.value)))
    assert index.classes == ("a", "b")
    assert index.issues == ()


def test_a_class_that_train_names_otherwise_is_found(make_folder, pasted):
    root = make_folder({"train/cats": 5, "train/my dogs": 5, "val/cats": 2, "val/my dog": 2})
    with pytest.raises(UserError, match="if 'my dog' is 'my dogs', give mv ") as caught:
        folder_index(root)
    command = pasted(str(caught.value).partition("give ")[2].partition("; else")[0])
    subprocess.run(command, check=True)
    assert folder_index(root).issues == ()
    assert classes_of(folder_index(root), "val") == {"cats", "my dogs"}


@pytest.mark.parametrize(("split", "options"), [("val", {"exclude": ["c"]}), ("test", {"min_images": 3})])
def test_a_split_of_left_out_classes_alone_is_none(make_folder, split, options):
    index = folder_index(make_folder({"train/a": 9, "train/b": 9, "train/c": 2, f"{split}/c": 2}), **options)
    assert index.splits.keys() == {"train", "val"}
    assert classes_of(index, "val") == {"a", "b"}
    assert f"The {split} split has no image" in index.issues[-1]


def test_without_names_what_a_split_lacks_then_and_refuses_to_empty_train_or_val(make_folder):
    index = folder_index(make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}))
    files = {index.relative(s.path): s.path for samples in index.splits.values() for s in samples}
    assert len(index.without([files["train/a/0.jpg"]]).splits["train"]) == 3
    assert "val for 'a'" in index.without([files["val/a/0.jpg"]]).issues[0]
    with pytest.raises(UserError, match=r"train for 'a'.*data\.exclude=\[a\]"):
        index.without([files["train/a/0.jpg"], files["train/a/1.jpg"]])
    with pytest.raises(UserError, match="val for 'a', 'b'"):
        index.without([files["val/a/0.jpg"], files["val/b/0.jpg"]])


@pytest.mark.parametrize("weighted", ["data.class_weights=true", "data.balanced=true"])
def test_a_run_with_lone_images_goes_through(make_folder, compose_run, tmp_path, weighted):
    root = make_folder({"a": 10, "b": 10, "lone": 1, "torn": 5})
    for sample in folder_index(root, 0.5, 0.2, seed=3).splits["val"]:
        if sample.path.parent.name == "torn":  # nor has this one a readable image in val
            sample.path.write_bytes(jpeg(0)[:200])
    run_dir = tmp_path / "rare_run"
    options = (
        f"data.root={root}",
        "logger=tensorboard",
        "data.val_fraction=0.5",
        "data.test_fraction=0.2",
        weighted,
    )
    cfg = compose_run(*options, "finetune=head", "data.split_seed=3", run_dir=run_dir)
    metrics = train(cfg)
    assert 0 <= metrics["val/f1"] <= 1
    assert {name for name in metrics if "acc_class" in name} == {f"test/acc_class/{c}" for c in ("a", "b", "torn")}
    assert RunDirectory(run_dir).record["class_names"] == ["a", "b", "lone", "torn"]
