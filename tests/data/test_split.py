import unicodedata

import pytest

from tlab.core.errors import UserError
from tlab.data.sources.split import place, split_class, split_classes


def files(count, prefix="cats"):
    return [f"{prefix}/{i:05d}.jpg" for i in range(count)]


def sides(split):
    return {name: part for part, names in split.items() for name in names}


@pytest.mark.parametrize("count", [100, 500])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adding_a_file_moves_nobody(count, seed):
    before = sides(split_class(files(count), 0.2, None, seed))
    for extra in range(20):
        after = sides(split_class([*files(count), f"cats/new{extra}.jpg"], 0.2, None, seed))
        assert {name: after[name] for name in before} == before


def test_doubling_a_class_moves_nobody():
    before = sides(split_class(files(200), 0.2, 0.1, 0))
    after = sides(split_class(files(400), 0.2, 0.1, 0))
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("count", [20, 50])
def test_adding_a_file_to_a_middling_class_hardly_ever_moves_another(count):
    moved = 0
    for seed in range(300):
        before = sides(split_class(files(count), 0.2, None, seed))
        after = sides(split_class([*files(count), "cats/new.jpg"], 0.2, None, seed))
        moved += any(after[name] != part for name, part in before.items())
    assert moved <= 0.06 * 300


@pytest.mark.parametrize("count", [2, 3, 5, 9, 14])
def test_adding_a_file_to_a_small_class_moves_at_most_one(count):
    for seed in range(50):
        before = sides(split_class(files(count), 0.2, None, seed))
        after = sides(split_class(files(count + 1), 0.2, None, seed))
        assert sum(after[name] != part for name, part in before.items()) <= 1


@pytest.mark.parametrize("count", [3, 4, 5, 10, 30, 200])
@pytest.mark.parametrize(("val", "test"), [(0.2, 0.2), (0.05, 0.05), (0.5, 0.4), (0.8, 0.1)])
def test_every_part_has_files_and_about_its_share(count, val, test):
    for seed in range(20):
        split = split_class(files(count), val, test, seed)
        assert sorted(name for names in split.values() for name in names) == files(count)
        assert all(split[part] for part in ("train", "val", "test"))
        for part, share in (("val", val), ("test", test)):
            assert len(split[part]) <= max(1, 1.5 * share * count)
            assert len(split[part]) >= int(0.5 * share * count) or count < 30


def test_shares_are_right_on_the_average():
    split = split_class(files(20_000), 0.2, 0.1, 0)
    assert len(split["val"]) / 20_000 == pytest.approx(0.2, abs=0.01)
    assert len(split["test"]) / 20_000 == pytest.approx(0.1, abs=0.01)


def test_order_of_files_and_other_classes_do_not_matter_but_seed_and_name_do():
    one = sides(split_class(files(100), 0.3, None, 0))
    assert sides(split_class(files(100)[::-1], 0.3, None, 0)) == one
    both = split_classes({"cats": files(100), "dogs": files(50, "dogs")}, 0.3, None, 0)
    assert {name: part for part, c in both.items() for name in c["cats"]} == one
    assert sides(split_class(files(100), 0.3, None, 1)) != one
    assert [side for _, side in sorted(sides(split_class(files(100, "dogs"), 0.3, None, 0)).items())] != list(
        one.values()
    )


def test_test_part_stays_when_val_fraction_changes():
    assert split_class(files(100), 0.1, 0.2, 0)["test"] == split_class(files(100), 0.4, 0.2, 0)["test"]


def test_place_is_the_same_everywhere():
    assert place("cats/1.jpg", 0) == 0.2938134611400669
    assert place("../../pics/1.jpg", 0) == pytest.approx(0.442473, abs=1e-6)  # of a table's images above the root
    assert place(unicodedata.normalize("NFD", "é/1.jpg"), 0) == place(unicodedata.normalize("NFC", "é/1.jpg"), 0)


def test_a_class_with_fewer_files_than_parts_is_in_train_alone():
    parts = split_classes({"cats": files(2), "dogs": files(9)}, 0.2, 0.2, 0)
    assert parts["train"]["cats"] == files(2)
    assert {part: [*names] for part, names in parts.items()} == {
        "train": ["cats", "dogs"],
        "val": ["dogs"],
        "test": ["dogs"],
    }
    with pytest.raises(UserError, match=r"None of the 2 classes .* 3 images .* train and val and test"):
        split_classes({"cats": files(2), "dogs": files(2)}, 0.2, 0.2, 0)
