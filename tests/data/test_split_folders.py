"""Folders as people have them: which are splits, which are classes, and what is said about the rest."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import jpeg

from tlab.core.errors import UserError
from tlab.data.sources.csv_table import csv_index
from tlab.data.sources.folder import evaluation_index, folder_index
from tlab.data.sources.scan import read_folder


def numbers(index):
    return {split: len(samples) for split, samples in index.splits.items()}


def layout(splits, counts=(5, 3, 2), classes="ab"):
    return {f"{split}/{c}": n for split, n in zip(splits.split(), counts, strict=False) for c in classes}


@pytest.mark.parametrize(
    "splits",
    [
        *("Train val test", "train Validation TEST", "Training valid Testing", "训练集 验证集 测试集"),
        *("training_set dev_set test_set", "Train_data Valid_data Test_data", "trainset valset testset"),
        *("train-images val-images test-images", "TrainImages ValImages TestImages", "train2017 val2017 test2017"),
        "seg_train/seg_train seg_dev/seg_dev seg_test/seg_test",
        "train/images validation/images testing/images",
        "archive/data/train archive/data/eval archive/data/test",
        *("entrenamiento validación prueba", "entraînement Validierung teste"),
    ],
)
def test_splits_have_many_names(make_folder, splits):
    index = folder_index(make_folder(layout(splits)), test_fraction=0.5)
    assert index.classes == ("a", "b")
    assert numbers(index) == {"train": 10, "val": 6, "test": 4}
    assert all(
        index.relative(sample.path).startswith(f"{folder}/")
        for folder, split in zip(splits.split(), ("train", "val", "test"), strict=True)
        for sample in index.splits[split]
    )
    assert len(index.issues) == ("archive" in splits)


@pytest.mark.parametrize(
    ("counts", "as_classes"),
    [
        ({"train": 5, "plane": 5, "car": 5}, ["train"]),
        ({"train/2020": 5, "plane/2020": 5, "car": 5}, ["train"]),
        ({"valid": 5, "invalid": 5}, ["valid"]),
        ({"test_tube": 5, "train_station": 5}, ["test_tube", "train_station"]),
        ({"train_station/day": 5, "train_station/night": 3, "house": 5, "test": 3}, ["test", "train_station"]),
        ({"valid/x": 3, "valid/y": 3, "invalid/z": 5}, ["valid"]),
        ({"train_valid": 5, "b": 5}, []),
    ],
)
def test_a_name_alone_makes_no_split(make_folder, counts, as_classes):
    index = folder_index(make_folder(counts))
    assert index.classes == tuple(sorted({path.split("/")[0] for path in counts}))
    assert sum(numbers(index).values()) == sum(counts.values())
    assert len(index.issues) == bool(as_classes)
    assert all(f"{name}/" in "".join(index.issues) for name in as_classes)


@pytest.mark.parametrize(
    ("folders", "first"),
    [
        ("color grayscale segmented", "color"),
        ("fold1 fold2", "fold1"),
        ("old/train old/val new/train new/val", "new"),
        ("train/color train/gray test/color", "train/color"),
        ("p1 p3 p7", "p1"),
    ],
)
def test_class_folders_that_hold_the_same_folders_are_refused(make_folder, folders, first):
    lacking = {"p0/a": 4, "p9/b": 4} if first == "p1" else {}
    root = make_folder({f"{folder}/{c}": 4 for folder in folders.split() for c in "ab"} | lacking)
    with pytest.raises(UserError, match=r"hold the same folders .*data\.nested=true") as caught:
        folder_index(root)
    assert shlex.split(str(caught.value))[-1] == f"data.root={root / first}"
    assert folder_index(root / first).classes == ("a", "b")
    assert len(folder_index(root, nested=True).classes) >= 2


def test_other_nested_folders_are_no_mistake(make_folder):
    assert folder_index(make_folder({"a/x": 3, "a/y": 3, "b/x": 3, "c/images": 3})).classes == ("a", "b", "c")
    root = make_folder(
        {f"{s}/{c}/{k}": 3 for s in ("train", "val") for c in "ab" for k in "xy"} | {"train/c": 3, "train/d": 3}
    )
    with pytest.raises(UserError, match="the same folders"):
        folder_index(root, exclude=["c"])
    assert folder_index(root).classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("below", "folders"),
    [("train/", "p1/a p1/b p2/a"), ("", "p1/a p2/b c p3/a p4/b c"), ("", "p1/a p2/a p2/b c")],
)
def test_patients_who_lack_classes_are_put_below_these_by_the_command_given(make_folder, below, folders):
    names = [below + each.replace("_", " ") for each in folders.replace("b c", "b_c").split()]
    root = make_folder(dict.fromkeys(names, 3))
    with pytest.raises(UserError, match=r"hold the same folders .*data\.nested=true") as caught:
        folder_index(root)
    subprocess.run(["bash", "-c", str(caught.value).split(" after ")[1]], check=True)
    nested, new = shlex.split(str(caught.value).split(" else ")[1])[:2]
    assert nested == "data.nested=true"
    index = folder_index(new.removeprefix("data.root="), nested=True)
    assert index.classes == tuple(sorted({name.rpartition("/")[2] for name in names}))
    assert sum(numbers(index).values()) == 3 * len(names)


def test_masks_beside_the_images_of_each_class_are_left_out_by_the_argument_given(make_folder):
    root = make_folder({f"{c}/{kind}": 3 for c in "ab" for kind in ("images", "Lung masks")})
    with pytest.raises(UserError, match="Lung masks") as caught:
        folder_index(root)
    argument = shlex.split(str(caught.value).split(" with ")[1])[0].rstrip(",")
    assert argument == 'data.exclude=["*/Lung masks"]'
    assert numbers(folder_index(root, exclude=["*/Lung masks"])) == {"train": 4, "val": 2}


def test_domains_of_the_same_classes_are_no_classes(make_folder):
    root = make_folder({f"{domain}/images/{c}": 3 for domain in ("amazon", "webcam") for c in "ab"})
    with pytest.raises(UserError, match="hold the same folders") as caught:
        folder_index(root)
    assert shlex.split(str(caught.value))[-1] == f"data.root={root / 'amazon/images'}"


def test_a_second_copy_of_the_classes_is_no_class(make_folder):
    root = make_folder(layout("archive archive/archive"))
    with pytest.raises(UserError, match=r"archive/archive/ holds .* names of classes \(a, b\)") as caught:
        folder_index(root)
    assert shlex.split(str(caught.value))[-1] == "data.exclude=[archive/archive]"
    assert folder_index(root, exclude=["archive/archive"]).classes == ("a", "b")


def test_split_folders_in_class_folders_are_put_above_them_by_the_command_given(make_folder, tmp_path):
    root = make_folder(
        {f"{c}/{split}": n for split, n in (("train", 6), ("test 1", 3)) for c in ("a b", "c")} | {"c/val": 2}
    )
    with pytest.raises(UserError, match="split folders") as caught:
        folder_index(root)
    command = str(caught.value).split(" after ")[1].split(", or data.nested=true")[0]
    subprocess.run(["bash", "-c", command], check=True)
    index = folder_index(tmp_path / "images_by_split")
    assert (index.classes, numbers(index)) == (("a b", "c"), {"train": 12, "val": 2, "test": 6})


@pytest.mark.parametrize("beside", ["docs", "papers/figures"])
def test_a_folder_of_class_folders_is_no_class(make_folder, beside):
    root = make_folder({"data/a": 4, "data/b": 4, beside: 2})
    with pytest.raises(UserError, match=r"data/ holds folders of images \(a, b\)") as caught:
        folder_index(root)
    assert shlex.split(str(caught.value))[-1] == f"data.root={root / 'data'}"


def test_folders_that_differ_in_the_split_alone_are_splits(make_folder):
    counts = {f"asl_alphabet_train/asl_alphabet_train/{c}": 5 for c in "ab"} | {"asl_alphabet_test": 2}
    index = folder_index(make_folder(counts))
    assert index.classes == ("a", "b")
    assert "asl_alphabet_test/ (2 images)" in "".join(index.issues)


@pytest.mark.parametrize(
    "names", ["set_1 set_2", "dataset1 dataset2", "jpeg png", "photos pictures", "images_1 images_2"]
)
def test_folders_of_images_with_plain_names_are_classes(make_folder, names):
    assert folder_index(make_folder(dict.fromkeys(names.split(), 4))).classes == (*names.split(),)


def test_a_plain_folder_beside_class_folders_is_no_class(make_folder):
    root = make_folder({"images/a": 3, "images/b": 3, "pictures": 2})
    with pytest.raises(UserError, match=r"data\.nested=true") as caught:
        folder_index(root)
    assert f"data.root={root / 'images'}" in shlex.split(str(caught.value))


@pytest.mark.parametrize("beside", ["annotations/trimaps", "ground_truth"])
def test_images_beside_their_masks_are_no_classes(make_folder, beside):
    root = make_folder({"images": 4, beside: 4})
    with pytest.raises(UserError, match=r"no classes by their names.*data\.nested=true") as caught:
        folder_index(root)
    assert f"data.root={root / 'images'}," in str(caught.value)
    assert len(folder_index(root, nested=True).classes) == 2


@pytest.mark.parametrize("folder", ["", "photos"])
def test_classes_in_the_names_of_files_are_put_into_a_table_by_the_command_given(
    make_folder, pasted, folder, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    root = make_folder({})
    (root / folder).mkdir(exist_ok=True)
    names = ("cat.{}.jpg", "american_bulldog_{}.jpg", 'Ünder"line, x ({}).JPG')
    for k, name in enumerate(names):
        for i in range(6):
            (root / folder / name.format(i)).write_bytes(jpeg(10 * k + i))
    (root / folder / "._cat.0.jpg").write_bytes(b"\0\5\x16\7")  # as macOS leaves it
    before = {*root.rglob("*")}
    with pytest.raises(UserError, match="side by side") as caught:
        folder_index(root)
    arguments, _, command = str(caught.value).partition("give ")[2].partition(" after ")
    subprocess.run(
        ["bash", "-c", command.partition("; or give")[0].replace("python", sys.executable, 1)], check=True
    )
    given = dict(each.split("=", 1) for each in pasted(arguments))
    index = csv_index(given["data.root"], given["data.labels"], images=given["data.images"])
    assert given["data"] == "csv"
    assert index.classes == ("american_bulldog", "cat", 'Ünder"line, x')
    assert "._cat" not in Path(given["data.labels"]).read_text(encoding="utf-8")
    assert {*root.rglob("*")} == before  # which may be read-only
    assert sum(numbers(index).values()) == 18


@pytest.mark.parametrize("name", ["image_{:05}.jpg", "ISIC_{:07}.jpg", "{}.jpg", "photo of {}a.jpg"])
def test_names_that_only_number_the_images_tell_no_class(make_folder, name):
    root = make_folder({})
    for i in range(8):
        (root / name.format(i)).write_bytes(jpeg(i))
    with pytest.raises(UserError, match="side by side") as caught:
        folder_index(root)
    assert "their names" not in str(caught.value)


@pytest.mark.parametrize("test", ["test/a", "test"])
def test_trainval_is_train_where_neither_is(make_folder, test):
    root = make_folder({"trainval/a": 5, "trainval/b": 5, test: 2})
    assert numbers(folder_index(root)) == {"train": 8, "val": 2} | ({"test": 2} if test == "test/a" else {})
    make_folder({"train/a": 6, "train/b": 6})
    assert numbers(folder_index(root))["train"] in (9, 10)


@pytest.mark.parametrize(("split", "spelling"), [("val", "cat"), ("test", "CAT"), ("test", "Cat ")])
def test_capitals_and_blanks_make_no_other_class(make_folder, split, spelling):
    index = folder_index(make_folder({"train/Cat": 9, "train/dog": 9, f"{split}/{spelling}": 3, f"{split}/Dog": 3}))
    assert (index.classes, numbers(index)[split]) == (("Cat", "dog"), 6)
    (remark,) = index.issues
    assert f"{spelling!r} in {split} as 'Cat'" in remark
    assert f"'Dog' in {split} as 'dog'" in remark


def test_class_folders_that_differ_in_capitals_are_classes_with_a_remark(make_folder):
    index = folder_index(make_folder({"Cat": 4, "cat": 4, "dog": 4}))
    assert index.classes == ("Cat", "cat", "dog")
    assert ["'Cat' and 'cat'" in issue for issue in index.issues] == [True]


def test_split_folders_in_one_of_several_folders_are_no_class(make_folder):
    root = make_folder({f"data/{name}": n for name, n in layout("train test").items()} | {"docs": 2})
    with pytest.raises(UserError, match=r"data/ holds split folders \(test, train\)") as caught:
        folder_index(root)
    assert shlex.split(str(caught.value))[-1] == f"data.root={root / 'data'}"
    assert folder_index(root, nested=True).classes == ("data", "docs")


@pytest.mark.parametrize(
    ("counts", "aside"),
    [
        ({"test": 4}, "test/ (4 images)"),
        ({"test/unknown": 4}, "test/ (4 images)"),
        ({"test/images": 4}, "test/ (4 images)"),
        ({"test/test": 4}, "test/ (4 images)"),
        ({"Test_set/batch1/x": 3, "Test_set/batch2": 2}, "Test_set/ (5 images)"),
        ({"val/images": 4, "test/images": 2}, "test/ (2 images), val/ (4 images)"),
        ({"seg_pred/seg_pred": 7, "train_valid/a": 9}, "seg_pred/ (7 images), train_valid/ (9 images)"),
        ({"test_stg1": 3, "test_stg2": 2}, "test_stg1/ (3 images), test_stg2/ (2 images)"),
        ({"train_extra/a": 3, "train_more/a": 1}, "train_extra/ (3 images), train_more/ (1 image)"),
        ({"test": 0}, "test/"),
    ],
)
def test_what_has_no_labels_or_is_no_split_is_set_aside_and_counted(make_folder, counts, aside):
    index = folder_index(make_folder(layout("train") | counts))
    assert index.classes == ("a", "b")
    assert numbers(index) == {"train": 8, "val": 2}
    (remark,) = index.issues
    assert aside in remark


def test_nothing_is_passed_over_in_silence(make_folder):
    root = make_folder({"a": 5, "b": 5, "models": 0, "dog": 0, "runs/one": 0, "outputs/two": 2})
    for name in ("1.jpg", "a/1.txt", "a/2.TXT", "b/x/raw", "b/Thumbs.db", "dog/1.npy", "labels.csv"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(jpeg(1))
    (root / "bird.zip").write_bytes(b"PK")
    (root / "cow").mkdir()
    (root / "cow/1.jpg").write_bytes(jpeg(1))
    os.mkfifo(root / "b/pipe.jpg")
    (root / "b/to_pipe.jpg").symlink_to("pipe.jpg")
    for run in ("runs/one/run.json", "outputs/two/sweep.json", "cow/run.json"):
        (root / run).write_text("{}")
    index = folder_index(root)
    assert index.classes == ("a", "b")
    assert sum(numbers(index).values()) == 10
    loose, empty, outputs, others, archives = index.issues
    assert "cow/." in outputs
    assert "bird.zip" in archives
    assert "1 image (1.jpg)" in loose
    assert "dog/ (.npy 1), models/." in empty
    assert ".txt 2, no extension 1, pipe.jpg" in others
    assert "to_pipe.jpg" in others


def test_what_is_no_data_is_none(make_folder):
    junk = [*("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")]
    junk += [".Trash-1000", ".thumbnails", ".ipynb_checkpoints"]
    places = [f"{place}{name}" for name in junk for place in ("", "a/")]
    root = make_folder({"a": 5, "b": 5} | dict.fromkeys(places, 1))
    for name in ("a/._0.jpg", "a/desktop.ini", "a/.DS_Store"):
        (root / name).write_bytes(b"x")
    index = folder_index(root)
    assert (index.classes, sum(numbers(index).values()), index.issues) == (("a", "b"), 10, ())


def test_own_outputs_are_no_data(make_folder, monkeypatch):
    root = make_folder({"a": 5, "b/run": 5, "outputs/runs/x": 2, "s/y": 1, "cache/demo/a": 1, "venv/lib": 1})
    for marked in ("outputs/runs/x/run.json", "s/sweep.json", "venv/pyvenv.cfg", "b/run/study.json"):
        (root / marked).write_text("{}")
    (root / "outputs/comparison.png").write_bytes(jpeg(1))
    monkeypatch.setenv("TLAB_CACHE", str(root / "cache"))
    (root / "b/0.jpg").write_bytes(jpeg(9))
    (root / "b/1.jpg").write_bytes(jpeg(8))
    index = folder_index(root)
    assert index.classes == ("a", "b")
    assert (sum(numbers(index).values()), index.issues) == (7, ())
    (root / "outputs/runs/x/run.json").unlink()
    assert "outputs" in folder_index(root).classes  # somebody's own folder
    assert read_folder(root / "s").count == 1  # what is asked for is looked at


def test_a_folder_may_vanish_while_it_is_listed(make_folder, monkeypatch):
    root, listed = make_folder({"a": 5, "b": 5, "gone": 2}), os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: listed(f"{place}_" if "gone" in place else place))
    assert folder_index(root).classes == ("a", "b")


def test_files_that_need_a_decoder_stay_in_train(make_folder):
    root = make_folder({"a": 10, "b": 10})
    for i in range(40):
        (root / "a" / f"{i}.JXL").write_bytes(b"\xff\x0a")
    index = folder_index(root, val_fraction=0.3, test_fraction=0.2)
    strange = {split: sum(s.path.suffix == ".JXL" for s in index.splits[split]) for split in index.splits}
    assert strange == {"train": 40, "val": 0, "test": 0}
    assert {s.label for s in index.splits["val"]} == {0, 1}
    assert index.issues == ()


@pytest.mark.parametrize(
    "classes",
    [
        *(("0", "1", "2", "10"), ("-1", "0", "0.5", "1.25", "10"), ("01", "2", "11"), ("grade 2", "grade 10")),
        *(("a1b10", "a2a", "a10b2"), ("0", "7", "other"), ("B", "a", "é")),
    ],
)
def test_numbers_in_class_names_sort_by_value(make_folder, classes):
    index = folder_index(make_folder(dict.fromkeys(classes, 2)))
    assert index.classes == classes
    assert [index.classes[s.label] for s in index.splits["train"]] == [
        s.path.parent.name for s in index.splits["train"]
    ]


@pytest.mark.parametrize(
    ("counts", "known", "expected"),
    [
        (layout("Testing"), "ab", {"test": 10}),
        (layout("seg_test/seg_test"), "ab", {"test": 10}),
        ({"valid": 3, "invalid": 2}, ("valid", "invalid"), {"all": 5}),
        ({"train": 3}, ("plane", "train"), {"all": 3}),
        ({"PetImages/a": 3, "PetImages/b": 3}, "ab", {"all": 6}),
        ({"a/x": 3, "a/y": 2}, "ab", {"all": 5}),
        (layout("val") | {"test/unknown": 3}, "ab", {"val": 10}),
        ({"test/A": 3, "test/B ": 2, "val/b": 2}, "ab", {"val": 2, "test": 5}),
    ],
)
def test_layouts_for_evaluation(make_folder, counts, known, expected):
    index = evaluation_index(make_folder(counts), classes=known)
    assert numbers(index) == expected
    assert {*index.classes} <= {*known}
