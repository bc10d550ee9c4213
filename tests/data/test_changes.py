"""What has become of a run's images, told from two literal lists of them."""

import pytest

from tlab.data.changes import changes
from tlab.data.contents import Contents, Entry

LISTED = "train/cat/1=a train/cat/2=b train/dog/1=c train/dog/2=d val/cat/3=e val/dog/3=f"
TABLE = "train:images/1=a:cat train:images/2=b:dog train:images/3=c:cat val:images/4=d:dog val:images/5=e:cat"


def listed(text: str, unreadable: str = "") -> Contents:
    """`split/class/name=content`, or `split:path=content:class` as of a table."""
    entries = []
    for item in text.split():
        place, content = item.split("=")
        if ":" in place:
            split, path = place.split(":")
            content, label = content.split(":")
        else:
            path = place
            split, label, _ = place.split("/")
        entries.append(Entry(split, path, label, 1, content))
    classes = tuple(sorted({entry.label for entry in entries}))
    return Contents(classes, tuple(entries), frozenset(unreadable.split()))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (LISTED, {}),
        (f"{LISTED} train/cat/9=x val/dog/9=y", {"2 added": "train/cat/9, val/dog/9"}),
        (f"{LISTED} train/cat/copy=a", {"1 added": "train/cat/copy"}),
        (LISTED.replace("train/cat/2=b ", ""), {"1 gone": "train/cat/2"}),
        (LISTED.replace("train/cat/2", "train/dog/0"), {"1 relabelled": "train/cat/2: cat -> dog"}),
        (LISTED.replace("=a", "=A").replace("=c", "=a").replace("=A", "=c"), {"2 relabelled": "train/cat/1: cat"}),
        (LISTED.replace("cat/2", "cat/two"), {"1 renamed": "train/cat/2 -> train/cat/two"}),
        (LISTED.replace("train/cat/2", "val/cat/2"), {"1 moved to another split": "train/cat/2: train -> val"}),
        (LISTED.replace("=b", "=x"), {"1 changed": "train/cat/2"}),
        (LISTED.replace("cat", "lion"), {"class cat renamed to lion (3": ""}),
        (LISTED.replace("train/dog/2", "train/fox/2"), {"class fox added": "", "1 relabelled": "dog -> fox"}),
        (f"{LISTED} train/fox/1=x val/fox/2=y", {"class fox added": "", "2 added": "train/fox/1, val/fox/2"}),
        (
            LISTED.replace("cat", "lion").replace("lion/2=b", "lion/2=x") + " train/dog/9=y",
            {"class cat renamed to lion": "", "2 added": "train/lion/2, train/dog/9", "1 gone": "train/cat/2"},
        ),
        (
            "train/cat/1=b train/dog/1=c train/dog/2=d val/cat/3=e val/dog/3=f",  # 1 deleted, 2 renumbered
            {"1 gone": "train/cat/1", "1 renamed": "train/cat/2 -> train/cat/1"},
        ),
    ],
)
def test_what_has_changed_in_folders(now, expected):
    found = changes(listed(LISTED), listed(now))
    assert len(found) == len(expected)
    for phrase, (start, example) in zip(found, expected.items(), strict=True):
        assert phrase.startswith(start)
        assert example in phrase


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (TABLE.replace("2=b:dog", "2=b:cat"), ["1 relabelled (images/2: dog -> cat)"]),
        (TABLE.replace("val:images/4", "train:images/4"), ["1 moved to another split (images/4: val -> train)"]),
        (TABLE.replace("dog", "fox"), ["class dog renamed to fox (2 images)"]),
    ],
)
def test_what_has_changed_in_a_table(now, expected):
    assert changes(listed(TABLE), listed(now)) == expected


def test_a_file_that_became_unreadable_is_named_as_such():
    now = listed(LISTED.replace("train/cat/2=b ", ""), unreadable="train/cat/2 train/cat/never")
    (phrase,) = changes(listed(LISTED), now)
    assert phrase.startswith("1 no longer readable (train/cat/2)")


def test_a_name_in_another_normal_form_of_unicode_is_the_same_name():
    """As a copy by way of macOS leaves it."""
    before = listed("train/cat/gr\u00f6\u00dfe=a train/dog/1=b")
    assert changes(before, listed("train/cat/gro\u0308\u00dfe=a train/dog/1=b")) == []


def test_many_are_counted_and_a_few_named():
    many = listed(" ".join(f"train/cat/{i}={i}" for i in range(50)) + " train/dog/1=d")
    (phrase,) = changes(many, listed("train/cat/0=0 train/dog/1=d"))
    assert phrase.startswith("49 gone")
    assert phrase.count("train/") == 3


def test_another_order_of_the_classes_is_a_change():
    before = listed(LISTED)
    assert changes(before, Contents(("dog", "cat"), before.entries)) == ["the classes in another order"]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("train/cat/1=a train/cat/2= train/dog/1=c val/dog/3=f", []),
        ("train/cat/1= train/cat/2= train/dog/1= val/dog/3=", []),  # another sample was decoded
        ("train/cat/1= train/cat/2=b train/dog/1=x val/dog/3=", ["1 changed in content (train/dog/1)"]),
        ("train/cat/1= train/cat/9= train/dog/1=c val/dog/3=f", ["1 added (train/cat/9)", "1 gone (train/cat/2)"]),
        ("train/cat/1=a train/dog/2= train/dog/1=c val/dog/3=f", ["1 added (train/dog/2)", "1 gone (train/cat/2)"]),
    ],
)
def test_images_that_were_passed_over_are_told_by_name_and_size(now, expected):
    before = listed("train/cat/1= train/cat/2= train/dog/1=c val/dog/3=f")
    assert changes(before, listed(now)) == expected
    assert changes(listed(now), listed(now)) == []


def test_the_fingerprint_does_not_tell_which_images_were_passed_over():
    whole, some, others = map(
        listed, ("train/cat/1=a val/dog/1=b", "train/cat/1= val/dog/1=b", "train/cat/1=a val/dog/1=")
    )
    assert some.fingerprint() == others.fingerprint() != whole.fingerprint()
