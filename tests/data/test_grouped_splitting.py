"""Dividing images: groups whole, classes evenly, limits nested; functions of names and seed alone."""

import random
import re
from collections import Counter, defaultdict

import pytest

from tlab.core.errors import UserError
from tlab.data.sources.folder import folder_index
from tlab.data.sources.splitting.folds import fold_files, fold_groups
from tlab.data.sources.splitting.grouped_split import split_groups
from tlab.data.sources.splitting.groups import groups_by_pattern


def random_table(rng):
    """Class -> files, and file -> group: of one class or of several, few large ones or many, some files alone."""
    names, group_of = defaultdict(list), {}
    classes = [f"class {k}" for k in range(rng.randint(2, 6))]
    pure, size = rng.random() < 0.5, rng.choice([1, 3, 10])
    for number in range(rng.randint(2 * len(classes), 12 * len(classes))):
        own = [rng.choice(classes)] if pure else classes
        for image in range(rng.randint(1, size)):
            name = rng.choice(own)
            names[name].append(f"{name}/{number}_{image}.jpg")
            if rng.random() < 0.95:
                group_of[names[name][-1]] = str(number)
    return dict(names), group_of


def of_groups(names, group_of, side):
    """Group -> its parts or folds."""
    found = defaultdict(set)
    for file in (file for files in names.values() for file in files):
        found[group_of.get(file, file)].add(side.get(file))
    return found


def count(names, group_of, name):
    return len({group_of.get(file, file) for file in names[name]})


def test_no_group_of_1000_random_tables_is_on_two_sides():
    rng = random.Random(0)
    for seed in range(1000):
        names, group_of = random_table(rng)
        val, test = rng.choice([(0.2, None), (0.3, 0.2), (None, 0.25)])
        parts = split_groups(names, group_of, val, test, seed)
        side = {file: part for part, classes in parts.items() for files in classes.values() for file in files}
        assert len(side) == sum(map(len, names.values()))
        assert all(len(found) == 1 for found in of_groups(names, group_of, side).values())
        assert parts["train"].keys() == names.keys()
        folds = rng.choice([2, 3, 5])
        fold_of = fold_groups(names, group_of, folds, seed)
        assert all(len(found) == 1 for found in of_groups(names, group_of, fold_of).values())
        for files in names.values():
            assert all(any(fold_of.get(file) != fold for file in files) for fold in range(folds))


def test_classes_are_as_even_as_groups_allow():
    for seed in range(50):
        rng = random.Random(seed)
        names = {name: [f"{name}/{i}.jpg" for i in range(120)] for name in "abc"}
        group_of = {file: f"{file[0]}{i // 4}" for files in names.values() for i, file in enumerate(files)}
        if seed % 2:  # each group has images of all classes
            group_of = {file: str(rng.randrange(30)) for files in names.values() for file in files}
        parts = split_groups(names, group_of, 0.2, None, seed)
        fold_of = fold_groups(names, group_of, 5, seed)
        for files in names.values():
            assert (8, 12)[seed % 2 == 0] <= len(parts["val"][files[0][0]]) <= (48, 36)[seed % 2 == 0]
            sizes = Counter(fold_of[file] for file in files)
            assert len(sizes) == 5
            assert max(sizes.values()) - min(sizes.values()) <= (12 if seed % 2 else 4)


def test_a_new_file_or_group_moves_no_other():
    names = {name: [f"{name}/{i}.jpg" for i in range(400)] for name in "ab"}
    group_of = {file: f"{file[0]}{i // 4}" for files in names.values() for i, file in enumerate(files)}
    before = split_groups(names, group_of, 0.2, 0.1, 0)
    for new in ("a0", "new"):
        after = split_groups({**names, "a": [*names["a"], "a/x.jpg"]}, {**group_of, "a/x.jpg": new}, 0.2, 0.1, 0)
        next(part["a"] for part in after.values() if "a/x.jpg" in part["a"]).remove("a/x.jpg")
        assert after == before


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_are_even_within_one_image(folds):
    rng = random.Random(folds)
    for seed in range(100):
        names = {name: [f"{name}{i}.jpg" for i in range(rng.randint(1, 40))] for name in "abcdef"}
        fold_of = fold_files(names, folds, seed)
        for files in names.values():
            sizes = Counter(fold_of[file] for file in files if file in fold_of)
            assert sizes.total() == (len(files) if len(files) > 1 else 0)
            assert max((sizes[fold] for fold in range(folds)), default=0) - min(sizes[f] for f in range(folds)) <= 1
        totals = Counter(fold_of.values())
        assert max(totals.values()) - min(totals[fold] for fold in range(folds)) <= 1


def test_folds_follow_names_and_seed_alone():
    names = {name: [f"{name}/{i}.jpg" for i in range(50)] for name in "ab"}
    group_of = {file: str(i // 3) for files in names.values() for i, file in enumerate(files)}
    turned = {name: files[::-1] for name, files in reversed(names.items())}
    assert fold_files(turned, 5, 0) == fold_files(names, 5, 0) != fold_files(names, 5, 1)
    assert fold_groups(turned, group_of, 5, 0) == fold_groups(names, group_of, 5, 0)
    grown = fold_files({**names, "a": [*names["a"], "a/new.jpg"]}, 5, 0)
    assert sum(grown[file] != fold for file, fold in fold_files(names, 5, 0).items()) <= 8


def numbers(index):
    return {
        split: dict(Counter(index.classes[sample.label] for sample in samples))
        for split, samples in index.splits.items()
    }


def paths(index, split):
    return {index.relative(sample.path) for sample in index.splits[split]}


def test_a_given_val_is_divided_with_train_and_test_stays(make_folder):
    root = make_folder({"train/a": 9, "train/b": 6, "valid/a": 3, "valid/b": 4, "test/a": 2, "test/b": 2})
    folds = [folder_index(root, folds=4, fold=fold) for fold in range(4)]
    assert sorted(path for index in folds for path in paths(index, "val")) == sorted(
        paths(folds[0], "train") | paths(folds[0], "val")
    )
    assert all(numbers(index)["test"] == {"a": 2, "b": 2} for index in folds)
    assert all(index.splits["test"] == folds[0].splits["test"] for index in folds)
    assert [numbers(index)["val"]["a"] for index in folds] == [3] * 4
    assert len({index.fingerprint() for index in folds}) == 4
    (remark,) = folds[0].issues
    assert "7 images" in remark


def test_a_drawn_test_is_the_same_in_every_fold(make_folder):
    root = make_folder({"a": 20, "b": 20})
    folds = [folder_index(root, test_fraction=0.2, folds=3, fold=fold) for fold in range(3)]
    assert len({frozenset(paths(index, "test")) for index in folds}) == 1
    assert sum(len(paths(index, "val")) for index in folds) + len(paths(folds[0], "test")) == 40


def test_classes_smaller_than_the_folds_are_named_and_allowed_where_possible(make_folder):
    root = make_folder({"a": 12, "b": 3, "c": 1})
    folds = [folder_index(root, folds=5, fold=fold) for fold in range(5)]
    assert sorted(numbers(index)["val"].get("b", 0) for index in folds) == [0, 0, 1, 1, 1]
    assert all(numbers(index)["train"]["c"] == 1 for index in folds)
    issues = "\n".join(folds[0].issues)
    assert re.search(r"1 class has too few images .* data\.folds=5: b \(3\)", issues)
    assert re.search(r"1 image is trained on in every fold .*c/0\.jpg.*data\.exclude=\[c\].* out", issues)
    with pytest.raises(UserError, match=r"data\.folds=20 .*; give data\.folds=15 data\.fold=0$"):
        folder_index(root, folds=20, fold=0)


@pytest.mark.parametrize(
    ("folds", "fold", "words"),
    [
        (None, 1, r"data\.fold=1 needs data\.folds, .* give data\.folds=5"),
        (3, None, r"data\.folds=3 needs data\.fold, .* -m data\.fold=0,1,2 "),
        (3, 3, r"data\.folds=3 has no data\.fold=3; give data\.fold=0, or"),
        (1, 0, r"data\.folds=1 is too small"),
    ],
)
def test_folds_that_are_none(make_folder, folds, fold, words):
    with pytest.raises(UserError, match=words):
        folder_index(make_folder({"a": 5, "b": 5}), folds=folds, fold=fold)


def test_limits_are_nested_and_leave_val_and_test_whole(make_folder):
    root = make_folder({"a": 40, "b": 30, "c": 6})
    whole = folder_index(root, test_fraction=0.2)
    before = set()
    for limit in (1, 5, 10, 20, 100):
        index = folder_index(root, test_fraction=0.2, limit=limit)
        assert (index.splits["val"], index.splits["test"]) == (whole.splits["val"], whole.splits["test"])
        full = numbers(whole)["train"]
        assert numbers(index)["train"] == {name: min(limit, full[name]) for name in full}
        assert before <= paths(index, "train") <= paths(whole, "train")
        before = paths(index, "train")
        left_out = len(whole.splits["train"]) - len(index.splits["train"])
        told = f"data.limit={limit} leaves out {left_out} of the {len(whole.splits['train'])} images of train."
        assert (told in index.issues) == (left_out > 0)
    half, tenth = (paths(folder_index(root, limit=share), "train") for share in (0.5, 0.1))
    assert tenth < half < paths(folder_index(root), "train")
    assert {path[0] for path in tenth} == {"a", "b", "c"}
    assert paths(folder_index(root, limit=5), "train") != paths(folder_index(root, limit=5, seed=1), "train")
    for wrong, words in (
        (0, "too small"),
        (1.0, "neither"),
        (2.5, "neither"),
        (True, "not a number"),
        ("all", "not a"),
    ):
        with pytest.raises(UserError, match=rf"data\.limit={wrong} .*{words}"):
            folder_index(root, limit=wrong)


def test_a_limit_within_folds_and_groups(make_folder):
    root = make_folder({f"{name}/person{i}": 4 for name in "ab" for i in range(8)})
    options = {"group": r"person(\d+)/", "folds": 4, "fold": 1, "nested": True}
    whole, index = folder_index(root, **options), folder_index(root, **options, limit=3)
    assert index.splits["val"] == whole.splits["val"]
    assert numbers(index)["train"] == {"a": 3, "b": 3}
    people = {split: {path.split("/")[1] for path in paths(whole, split)} for split in ("train", "val")}
    assert len(people["val"]) == 2
    assert not people["train"] & people["val"]


def test_groups_in_names():
    files = ["a/person1_0.jpg", "a/person1_1.jpg", "b/person2_0.jpg", "b/other.jpg", "b/person_7.jpg"]
    group_of, (remark,) = groups_by_pattern(r"person(\d*)_", files)
    assert group_of == {files[0]: "1", files[1]: "1", files[2]: "2"}
    assert remark.startswith(r"Without a match of data.group=person(\d*)_: 2 images, ")
    assert "b/other.jpg" in remark
    assert [*groups_by_pattern(r"^(\d+)_", ["x/7_1.jpg"])[0].values()] == ["7"], "of the name alone"
    combined, decomposed = "x/\u00e9_1.jpg", "x/e\u0301_2.jpg"
    assert len({*groups_by_pattern("/(\u00e9)_", [combined, decomposed])[0].values()}) == 1


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("person", r"data\.group=person has no group in brackets"),
        ("(train|val)/(.*)_", "has 2 groups, of which all but one"),
        ("person(", "is no regular expression"),
        ("nobody(.)", r"matches none of the 10 names \(a/0\.jpg"),
    ],
)
def test_patterns_that_find_no_groups_are_refused(make_folder, pasted, pattern, words):
    root = make_folder({"a": 5, "b": 5})
    with pytest.raises(UserError, match=words) as caught:
        folder_index(root, group=pattern)
    (argument,) = pasted(str(caught.value).rpartition("such as ")[2])
    assert argument == r'data.group="person(\d+)_"'


def test_given_splits_that_cut_groups_are_counted(make_folder):
    root = make_folder({f"{split}/{name}": 6 for split in ("train", "val", "test") for name in "ab"})
    (remark,) = folder_index(root, group=r"([0-3])\.jpg").issues[1:]
    assert re.match(r"4 groups of data\.group are cut in two by .* \(0 in train and val and test, 1 in", remark)
    assert "16 images outside train" in remark
    assert "data.folds=5 data.fold=0" in remark
    index = folder_index(root, group=r"([0-3])\.jpg", folds=2, fold=0)
    assert any(re.search(r"4 groups .*\(0 in train and test|0 in test and val", issue) for issue in index.issues)


def test_groups_that_cannot_be_split(make_folder):
    root = make_folder({"a": 5, "b": 5})
    with pytest.raises(UserError, match=r"finds 2 groups \(a, b\), which cannot be split into train and val"):
        folder_index(root, group="([ab])/")
    with pytest.raises(UserError, match=r"data\.folds=2 is more than the groups fill"):
        folder_index(root, group="([ab])/", folds=2, fold=0)
