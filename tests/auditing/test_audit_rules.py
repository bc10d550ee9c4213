from pathlib import Path

import numpy as np
import pytest

from tlab.auditing.audit_images import find_all
from tlab.auditing.balance import rare_classes
from tlab.auditing.copies import Copies, clusters, needed, to_leave_out
from tlab.auditing.duplicates import Pair
from tlab.auditing.groups import group_leaks, image_groups
from tlab.auditing.image_measures import ImageMeasures
from tlab.auditing.images import AuditedImages
from tlab.auditing.label_issues import held_out_probabilities, label_issues, neighbor_shares
from tlab.auditing.outliers import outliers
from tlab.auditing.quality import quality_issues
from tlab.finetuning.features.nearest_neighbors import nearest_neighbors


def images(splits, labels):
    names = [f"{number}.jpg" for number in range(len(splits))]
    return AuditedImages(Path("/"), ("a", "b"), names, splits, np.array(labels), [], [], [], None)


def test_what_is_measured_is_kept_and_what_contradicts_itself_is_not():
    splits, labels = ["test", "val", "train", "train", "train", "train", "train"], [0, 0, 0, 0, 1, 0, 0]
    copies = Copies([[0, 2], [3, 4]], [Pair(1, 5, 0.9), Pair(5, 6, 0.9)], [])
    left_out = to_leave_out(copies, images(splits, labels))
    assert [rows for rows in left_out.values() if rows] == [{2}, {3, 4}, {5, 6}]


def test_a_further_test_stays_as_it_is():
    splits = ["test/new", "test/new", "test/new", "test/new", "test", "test", "val", *["train"] * 5]
    labels = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    copies = Copies([[0, 4, 5, 7], [1, 6, 8], [2, 9]], [Pair(3, 10, 0.9), Pair(4, 11, 0.9)], [])
    left_out = to_leave_out(copies, images(splits, labels))
    assert [rows for rows in left_out.values() if rows] == [{5, 7}, {6, 8}, {9}, {11}, {10}]
    assert sum("data.tests" in reason for reason, rows in left_out.items() if rows) == 2


def test_no_class_of_a_split_is_emptied():
    splits = ["test", "val", "val", *["train"] * 7]
    labels = [0, 0, 1, 0, 0, 0, 1, 1, 1, 1]
    copies = Copies([[0, 1, 3], [2, 6]], [Pair(0, 4, 0.9), Pair(0, 5, 0.9), Pair(2, 7, 0.9)], [])
    all_of_them = images(splits, labels)
    assert needed(to_leave_out(copies, all_of_them), all_of_them) == {1, 4, 5}


def test_pairs_connect_clusters():
    assert sorted(map(sorted, clusters([(0, 1), (2, 3), (1, 2), (7, 8)]))) == [[0, 1, 2, 3], [7, 8]]


@pytest.mark.parametrize(
    ("name", "has_groups"),
    [
        ("{label}/person{group}_virus_{image}.jpg", True),
        ("{label}/{group:08}_{image:03}.png", True),
        ("{label}/patient{group}/{image}.jpg", True),
        ("{label}/photo{group}_jpg.rf.{image:06}abc.jpg", True),
        ("{label}/{image}.jpg", False),
        ("{label}/{label}.{image}.jpg", False),
        ("{label}/n0144{label}_{image}.jpg", False),  # a code of the class
        ("{label}/IMG_{image}.jpg", False),
        ("{label}/patient{group}_img{image}.png", True),
        ("{label}/IMG_{group}_crop{image}.jpg", True),
        ("{label}/scan {group} ({image}).tif", True),
        ("{label}/{group}/{image}.jpg", True),
        ("{number:04}.jpg", False),
        ("{number:04}_{label}.jpg", False),
        ("{label}/{within:04} of 40.jpg", False),  # the same numbers in each class
        ("{split}/{label}/{in_split:03}_a.jpg", False),  # the same numbers in each split
        ("{shard:02}/{shard:02}{number:04}.jpg", False),  # spread over folders by number
    ],
)
def test_names_tell_groups(name, has_groups):
    images = [(label, group, image) for label in range(2) for group in range(10) for image in range(4)]
    splits = ["val" if image == 3 else "train" for *_, image in images]
    names = [
        name.format(
            label=label,
            split=split,
            group=100 + group + 10 * label,
            image=10 * group + image,
            number=number,
            within=number % 40,
            in_split=group if image == 3 else 3 * group + image,
            shard=number % 8,
        )
        for number, ((label, group, image), split) in enumerate(zip(images, splits, strict=True))
    ]
    pattern, groups = image_groups(names, [str(label) for label, *_ in images], splits, None)
    assert bool(pattern) == has_groups
    assert len({*groups}) == (20 if has_groups else 1)


def test_a_column_tells_groups():
    names = ["1_1.jpg", "1_2.jpg", "2_1.jpg", "/elsewhere/2_2.jpg"]
    assert image_groups(names, ["a"] * 4, ["train"] * 4, "patient", ["x", " y", "NaN", ""]) == (
        "patient",
        ["x", "y", "", ""],
    )


def test_a_group_in_two_splits_leaks():
    (leak,) = group_leaks(["x", "x", "y", "", "", "z"], ["train", "val", "val", "train", "val", "train"])
    assert (leak.group, leak.train, leak.other, leak.split) == ("x", [0], [1], "val")


def test_rare_classes_lack_images():
    ((name, lacking, _),) = rare_classes({"a": 100, "b": 90, "c": 10})
    assert name == "c"
    assert lacking == pytest.approx(1 - 10 / (200 / 3))


def test_an_image_like_no_other_is_an_outlier():
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(2, 30)).astype(np.float32)
    features = centers[np.arange(80) % 2] + draw.normal(scale=0.3, size=(80, 30)).astype(np.float32)
    features[33] = -centers.sum(axis=0)
    neighbors, cosines = nearest_neighbors(features, 5)
    assert neighbors.shape == (80, 5)
    assert not (neighbors == np.arange(80)[:, None]).any()
    assert outliers(cosines)[0][0] == 33


def test_swapped_labels_are_suspected():
    pytest.importorskip("cleanlab")
    draw = np.random.default_rng(0)
    truth = np.arange(90) % 3
    features = (np.eye(3)[truth] @ draw.normal(size=(3, 20)) + draw.normal(scale=0.4, size=(90, 20))).astype(
        np.float32
    )
    labels = truth.copy()
    labels[[4, 40]] = (labels[[4, 40]] + 1) % 3
    names = [f"{number}.jpg" for number in range(90)]
    found = label_issues(held_out_probabilities(features, labels, 3, names, {}), labels)
    assert {issue.row for issue in found} == {4, 40}
    assert all(issue.suggested == truth[issue.row] for issue in found)


def test_a_group_does_not_speak_for_its_own_labels():
    pytest.importorskip("cleanlab")
    draw = np.random.default_rng(0)
    patient, image = np.divmod(np.arange(160), 4)
    truth = patient % 2
    own_looks = draw.normal(size=(40, 60))[patient]  # by which a classifier knows a patient again
    features = np.concatenate([np.eye(2)[truth], own_looks], axis=1) + draw.normal(scale=0.1, size=(160, 62))
    labels = np.where(patient == 7, 1 - truth, truth)
    noise = draw.integers(0, 255, (160, 64, 64)).astype(np.uint8)
    all_of_them = AuditedImages(
        Path("/"),
        ("ill", "well"),
        [f"patient{p}_{i}.png" for p, i in zip(patient, image, strict=True)],
        ["train"] * 160,
        labels,
        [measures()._replace(gray=gray, digest=str(number)) for number, gray in enumerate(noise)],
        ["PNG"] * 160,
        [""] * 160,
        features.astype(np.float32),
    )
    for pattern, found in ((r"(patient\d+)_", 4), (r"(.+)\.png", 0)):
        findings, _, _ = find_all(all_of_them, pattern)
        suspected = {each.path for each in findings if each.kind == "label_issue"}
        assert len({f"patient7_{i}.png" for i in range(4)} & suspected) == found
        assert len(suspected) < 10


def test_copies_do_not_vote_for_each_other():
    shares = neighbor_shares(np.array([[1, 2], [0, 2], [0, 1]]), np.array([0, 0, 1]), 2, ["x", "x", "y"])
    assert shares.tolist() == [[0, 1], [0, 1], [1, 0]]


def measures(**changed):
    usual = {"size": (300, 200), "darkest": 0.1, "brightest": 0.9, "entropy": 7.0, "sharpness": 0.6}
    empty = np.zeros(3)
    return ImageMeasures(
        np.zeros((64, 64), np.uint8), mode="RGB", digest="", mean=empty, square=empty, **{**usual, **changed}
    )


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"brightest": 0.1}, "dark"),
        ({"darkest": 0.97}, "bright"),
        ({"sharpness": 0.05}, "blurred"),
        ({"entropy": 0.5}, "blank"),
        ({"size": (40, 30)}, "tiny"),
        ({"size": (900, 100)}, "shape"),
    ],
)
def test_images_that_show_little_are_named_with_the_reason(changed, word):
    found, remarks = quality_issues([*[measures()] * 30, measures(**changed)])
    assert [*found] == [30]
    assert word in found[30][0][0]
    assert 0.5 <= found[30][0][1] <= 1
    assert remarks == []


def test_what_is_usual_is_no_fault():
    found, remarks = quality_issues([measures(brightest=0.1 if number % 5 == 0 else 0.9) for number in range(50)])
    assert found == {}
    assert "10 images are dark" in remarks[0]
