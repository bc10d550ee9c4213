"""Tables of labels as people have them: where their images lie, how they are written, what is said of the rest."""

import gzip
import io
import re
import shlex
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pictures import jpeg

from tlab.core.errors import UserError
from tlab.data.sources.csv_table import csv_index

NUMBERS = range(24)
PICTURE = jpeg(1)


@pytest.fixture
def data(tmp_path):
    """Return a function that writes files below a root, all with the same picture, and returns the root."""

    root = tmp_path / "root"

    def write(*files: str, table: str | bytes = "") -> Path:
        for path in (root / file for file in files):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PICTURE)
        (root / "labels.csv").write_bytes(table.encode() if isinstance(table, str) else table)
        return root

    return write


def rows(names, header="id,label"):
    """A table in which even and odd numbers are two classes."""
    return "\n".join([header, *(f"{name},{'ab'[k % 2]}" for k, name in enumerate(names))])


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return content.getvalue()


def labels(index):
    return {index.relative(s.path): index.classes[s.label] for samples in index.splits.values() for s in samples}


def pasted(sentence):
    """The arguments that a sentence offers, as bash and Hydra read them."""
    offer = re.split(r"(?:give|with) (?='?data\.)", sentence)[-1]
    words = [word for word in shlex.split(offer) if re.match(r"data\.\w+=", word)]
    parsed = OverridesParser.create().parse_overrides(words)
    return {each.key_or_group.removeprefix("data."): each.value() for each in parsed}


IMAGES = [f"images/{i}.jpg" for i in NUMBERS]


@pytest.mark.parametrize(
    ("images", "tables", "expected"),
    [
        (
            IMAGES,
            {"train.csv": "image,label", "test.csv": "image", "labels_sample.csv": "image,label"},
            {"labels": "train.csv", "image_column": "image"},
        ),
        (
            [f"train/{i}.jpg" for i in NUMBERS],
            {"sample.csv.zip": "", "all_breeds.csv": "id,breed", "sample_labels.csv": "id,a,b", "labels.md": ""},
            {"labels": "all_breeds.csv", "images": "train", "label_column": "breed"},
        ),
        (IMAGES, {"labels.csv.gz": "id,label", "test_label.csv": "id"}, {"labels": "labels.csv.gz"}),
    ],
)
def test_of_several_tables_the_one_that_holds_labels_is_offered(data, images, tables, expected):
    """With all keys that it needs, not one after the other."""
    root = data(*images)
    (root / "labels.csv").unlink()
    for name, header in tables.items():
        label = ",0.5,0.5" if header == "id,a,b" else ",a" if "sample" in name else ""
        lines = [f"{each.removeprefix('train/').removesuffix('.jpg')}{label}" for each in images]
        lines = [header, *lines] if label or "," not in header else rows(lines, header).split("\n")
        content = "\n".join(lines).encode() if header else b"no table"
        (root / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError, match=r"there is no file .*labels\.csv, a path relative to data\.root") as caught:
        csv_index(root)
    assert pasted(str(caught.value)) == expected
    index = csv_index(root, **expected)
    assert index.classes == ("a", "b")
    assert len(labels(index)) == len(images)


@pytest.mark.parametrize(
    "name",
    [
        *("{}", "{}.JPG", "{}.jpeg", " {}.jpg\u00a0", "root/images/{}", "./images/{}.jpg", "{root}/images/{}.jpg"),
        *("/somewhere/else/images/{}.jpg", "C:\\data\\pictures\\{}.jpg", "\\\\server\\share\\{}"),
        *("https://example.org/a/{}.jpg", "https://x.org/a/{}.jpg?size=1.5&v=2", "s3://bucket/a%20b/{}.jpg#top"),
    ],
)
def test_names_of_other_kinds_find_their_images(data, name):
    root = data(*IMAGES)
    (root / "labels.csv").write_text(rows(name.replace("{root}", str(root)).replace("{}", str(i)) for i in NUMBERS))
    assert labels(csv_index(root)) == {f"images/{i}.jpg": "ab"[i % 2] for i in NUMBERS}


def test_ids_are_found_in_any_folder_and_the_sentence_names_the_key(data):
    files = [f"part_{1 + i // 12}/ISIC_{i:03}.jpg" for i in NUMBERS]
    text = "\n".join(["lesion_id,image_id,dx", *(f"L{i // 3},ISIC_{i:03},{('nv', 'mel')[i % 2]}" for i in NUMBERS)])
    root = data(*files, table=text)
    expected = {file: ("nv", "mel")[i % 2] for i, file in zip(NUMBERS, files, strict=True)}
    index = csv_index(root, image_column="image_id", label_column="dx", images=".")
    assert labels(index) == expected
    assert index.issues == ()
    with pytest.raises(UserError) as caught:
        csv_index(root)
    assert pasted(str(caught.value)) == {"image_column": "image_id", "label_column": "dx", "images": "."}
    half = csv_index(root, image_column="image_id", label_column="dx", images="part_1")
    assert "12 images" in half.issues[0]
    assert "data.images=. finds 12" in half.issues[0]


def test_a_name_of_several_files_is_refused_with_what_leaves_one(data):
    files = [f"{folder}/{i}.jpg" for folder in ("images", "masks [old]") for i in NUMBERS]
    root = data(*files, "more/images/7.jpg", table=rows(NUMBERS))
    with pytest.raises(UserError, match=r"'0' .* images/0\.jpg or masks \[old\]/0\.jpg") as caught:
        csv_index(root, images=".")
    exclude = [str(pattern) for pattern in pasted(str(caught.value))["exclude"]]
    index = csv_index(root, images=".", exclude=exclude)
    assert {*labels(index)} == {f"images/{i}.jpg" for i in NUMBERS}
    assert labels(csv_index(root)) == labels(index)


def test_an_extension_is_named_where_it_decides(data):
    root = data(*IMAGES, "images/0.png", table=rows(NUMBERS))
    with pytest.raises(UserError, match=r"'0' .* 0\.jpg or 0\.png") as caught:
        csv_index(root)
    assert {*labels(csv_index(root, **pasted(str(caught.value))))} == {*IMAGES}


def test_the_key_is_named_where_too_little_is_found_to_go_on(data):
    root = data("train/0.jpg", *IMAGES, table=rows(NUMBERS))
    with pytest.raises(UserError, match=r"one class \('a'\).* 23 images .* data\.images=\. finds 23"):
        csv_index(root, images="train")


def test_folders_in_names_count_if_they_count_anywhere(data):
    """What lies in a folder that is not there is no other image of the same name."""
    files = [f"train/{i}.jpg" for i in NUMBERS]
    names = [f"train/{i}.jpg" for i in NUMBERS] + [f"test/{i}.jpg" for i in NUMBERS]
    index = csv_index(data(*files, table=rows(names)), images=".")
    assert {*labels(index)} == {*files}
    assert "24 images" in index.issues[0]
    assert "test/0.jpg" in index.issues[0]
    flat = [f"{2000 + i}/{i}.jpg" for i in NUMBERS]  # folders that are nowhere
    index = csv_index(data(table=rows(flat)), images="train")
    assert {*labels(index)} == {*files}
    assert "24 images" in index.issues[0]
    twice = [f"{side}/{i}.jpg" for side in ("left", "right") for i in NUMBERS]
    with pytest.raises(UserError, match="None of the 48 images"):
        csv_index(data(table=rows(twice)), images="train")


def test_files_elsewhere_and_of_any_name_are_taken_where_the_table_names_them(data, tmp_path):
    (tmp_path / "far").mkdir()
    names = [*(f"{i}.jpg" for i in range(8)), "8.dat", "9"]
    for i in range(10, 14):
        (tmp_path / f"far/{i}.jpg").write_bytes(PICTURE)
        names.append(f"{tmp_path}/far/{i}.jpg" if i % 2 else f"../far/{i}.jpg")
    root = data(*(f"images/{name}" for name in names[:10]), table=rows(names))
    index = csv_index(root)
    there = {s.path.resolve() for samples in index.splits.values() for s in samples}
    assert there == {(root / "images" / name).resolve() for name in names[:10]} | {*(tmp_path / "far").iterdir()}
    assert index.relative(tmp_path / "far/11.jpg") in labels(index)
    assert index.issues == ()


@pytest.mark.parametrize(
    "text",
    [
        rows(NUMBERS, "image, label ").replace("image", "id"),
        "\ufeff" + rows(NUMBERS),
        rows(NUMBERS).replace(",", ";"),
        rows(NUMBERS).replace(",", "\t"),
        rows(NUMBERS).replace(",", "|"),
        "sep=;\n" + rows(NUMBERS).replace(",", ";"),
        "\n\n" + rows(NUMBERS).replace("\n", "\r\n") + "\n,\n",
        rows(NUMBERS).replace("id,", '"id" , ').replace("a\n", '" a"\n'),
        rows(NUMBERS).replace("id,label", '"a,b;c;d","id","label"').replace("\n", "\nx;y,"),
        rows(NUMBERS, "\u200bid,label\u00a0"),
        rows(NUMBERS).replace("\n", "\r"),
        "\t" + rows(NUMBERS).replace(",", "\t").replace("\n", "\n7\t"),
        rows(NUMBERS).replace(",", "  "),
        gzip.compress(rows(NUMBERS).encode(), mtime=0),
        zipped({"train.csv": rows(NUMBERS), "__MACOSX/._train.csv": ""}),
        rows(NUMBERS).encode("utf-16"),
        rows(NUMBERS).encode("utf-16-le"),
    ],
)
def test_a_table_is_read_however_it_was_saved(data, text):
    index = csv_index(data(*IMAGES, table=text))
    assert labels(index) == {f"images/{i}.jpg": "ab"[i % 2] for i in NUMBERS}
    assert index.issues == ()


@pytest.mark.parametrize(
    ("encoding", "label"),
    [
        ("gbk", "向日葵"),
        ("gbk", "喆貓"),
        ("cp1252", "café"),
        ("cp1252", "fée"),
        ("utf-16", "пчела"),
    ],
)
def test_labels_in_other_encodings(data, encoding, label):
    text = rows(NUMBERS).replace(",b", f",{label}")
    index = csv_index(data(*IMAGES, table=text.encode(encoding)))
    assert set(index.classes) == {"a", label}
    assert [label in issue for issue in index.issues] == ([] if encoding == "utf-16" else [True])


@pytest.mark.parametrize(
    "cells",
    [["süß", "salzig"], ["Süßkirsche", "Sauerkirsche"], [*["maçã"] * 6, *["limão"] * 4]],
)
def test_two_accented_letters_in_a_row_are_not_read_as_chinese(data, cells):
    text = "\n".join(["id,label", *(f"{i},{cells[i % len(cells)]}" for i in NUMBERS)])
    assert {*csv_index(data(*IMAGES, table=text.encode("cp1252"))).classes} == {*cells}


def test_labels_that_look_the_same_are_one_class(data):
    ways = [
        "tree frog",
        "tree  frog",
        "tree\u00a0frog ",
        "tree\u200b frog",
        "\ufefftree frog",
        "caf\u00e9",
        "cafe\u0301",
    ]
    text = "\n".join(["id,label", *(f"{i},{ways[i % len(ways)]}" for i in NUMBERS)])
    index = csv_index(data(*IMAGES, table=text))
    assert index.classes == ("caf\u00e9", "tree frog")
    assert "7 spellings" in index.issues[0]
    assert "2 classes" in index.issues[0]
    near = ["cat", "Cat", "c\u0430t", "dog"]  # the third in Cyrillic
    index = csv_index(data(table="\n".join(["id,label", *(f"{i},{near[i % 4]}" for i in NUMBERS)])))
    assert len(index.classes) == 4
    assert "'cat'" in index.issues[0]
    assert "'c\u0430t'" in index.issues[0]
    assert "dog" not in index.issues[0]


def test_numbers_written_in_two_ways_and_missing_values_are_named(data):
    cells = ["1", "1.0", "2", "NaN", "None"]
    root = data(*IMAGES, table="\n".join(["id,label", *(f"{i},{cells[i % 5]}" for i in NUMBERS)]))
    index = csv_index(root)
    assert [("'1' and '1.0'" in issue, "'NaN'" in issue) for issue in index.issues] == [
        (False, True),
        (True, False),
    ]
    assert "'data.exclude=[\"NaN\"]' " in index.issues[0]
    assert csv_index(root, exclude=["NaN"]).classes == ("1", "1.0", "2", "None")


@pytest.mark.parametrize("label", ["a b", "a; b", "a|c", "['a', 'c']"])
def test_cells_of_several_labels_are_named(data, label):
    cells = [*("ab"[i % 2] for i in NUMBERS[:16]), *[label] * 8]
    root = data(
        *IMAGES, table="id\tlabel\n" + "".join(f"{i}\t{cell}\n" for i, cell in zip(NUMBERS, cells, strict=True))
    )
    (issue,) = csv_index(root).issues
    assert f"{label!r} of " in issue
    assert "several labels, and is a class of its own" in issue


@pytest.mark.parametrize("label", ["[other]", "[1]"])
def test_a_class_in_brackets_is_no_list(data, label):
    assert csv_index(data(*IMAGES, table=rows(NUMBERS).replace(",b", f",{label}"))).issues == ()


def test_a_table_of_pixels_is_told_from_one_of_names(data):
    header = ",".join(["label", *(f"pixel{i}" for i in range(784))])
    root = data(*IMAGES, table=f"{header}\n" + (",".join(["99"] + ["255"] * 784) + "\n") * 24)
    with pytest.raises(UserError, match=r"pixel0.*no names of images: give a table") as caught:
        csv_index(root)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("files", "cells"),
    [
        (("train.zip",), [f"{i:05}.jpg" for i in NUMBERS]),  # the archive is still packed
        (("images/300.jpg",), [*map(str, range(301))]),  # the first rows have no image
        ([f"images/{i:05}.jpg" for i in NUMBERS], [*map(str, NUMBERS)]),  # leading zeros are lost
    ],
)
def test_a_table_of_names_that_are_not_there_is_offered_its_column(data, files, cells):
    root = data(*files, table=rows(cells, "id,breed"))
    with pytest.raises(UserError, match=r"label is no column of .*: give data\.label_column=breed$"):
        csv_index(root)


def test_what_is_not_used_is_counted(data):
    lines = [*rows(range(20)).splitlines(), "1,b", "2.jpg,a", "30,a", "31,b", "20,", ",a", "3,b,more"]
    index = csv_index(data(*IMAGES, table="\n".join(lines)))
    assert len(labels(index)) == 20
    for part in ("2 rows .* a label", "3 rows .* earlier", "2 images .* not in .*: 30, 31", "1 row .* more cells"):
        assert [bool(re.search(part, issue)) for issue in index.issues].count(True) == 1, part
    (beside,) = (issue for issue in index.issues if "in no row" in issue)
    assert "3 images" in beside, "the one without a label is in a row"


def test_a_column_of_splits_is_named(data):
    text = "\n".join(["id,label,set", *(f"{i},{'ab'[i % 2]},{('train', 'valid')[i // 16]}" for i in NUMBERS)])
    (remark,) = csv_index(data(*IMAGES, table=text)).issues
    assert "column set" in remark
    assert "train 16, valid 8" in remark


def test_an_image_whose_name_is_zero_is_named(data):
    root = data("images/0.jpg", table="id,label\n0.0,a\n1.0,b\n")
    with pytest.raises(UserError, match=r"0\.0 for 0\.jpg"):
        csv_index(root)


def test_classes_are_excluded_by_name(data):
    text = rows(NUMBERS).replace("\n0,a", "\n0,lone [0]").replace("\n1,b", "\n1,lone [1]")
    root = data(*IMAGES, table=text)
    index = csv_index(root, exclude=["lone [[]?]"])
    assert index.classes == ("a", "b")
    assert index.issues == ()
    index = csv_index(root, val_fraction=0.3)
    assert index.classes == ("a", "b", "lone [0]", "lone [1]")
    assert "data.min_images=2" in index.issues[0]
    assert csv_index(root, min_images=2).classes == ("a", "b")
    with pytest.raises(UserError, match="None of the 24 classes"):
        csv_index(root, label_column="id")


def test_two_labels_of_one_image_are_refused_with_what_leaves_it_out(data):
    root = data(*IMAGES, table=rows([*NUMBERS, 0, "1.jpg"]).replace("\n0,a", "\n0,b", 1))
    with pytest.raises(UserError, match=r"1 image two labels, 'images/0\.jpg' .* 'b' and 'a'") as caught:
        csv_index(root)
    exclude = [str(pattern) for pattern in pasted(str(caught.value))["exclude"]]
    assert len(labels(csv_index(root, exclude=exclude))) == 23


@pytest.mark.parametrize(
    ("files", "table", "options", "found"),
    [
        (IMAGES, rows(NUMBERS, "Image,Id"), {}, {"image_column": "Image", "label_column": "Id"}),
        (IMAGES, rows(NUMBERS, "id,my label"), {}, {"label_column": "my label"}),
        (IMAGES, rows(NUMBERS, ",kind"), {}, {"image_column": "", "label_column": "kind"}),
        (IMAGES, rows(NUMBERS), {"images": "photos"}, {"images": "images"}),
        (["train/a b/99.jpg", *IMAGES], rows(NUMBERS), {"images": "train"}, {"images": "images"}),
        (IMAGES, rows((f"{i},{i}x" for i in NUMBERS), "id,n,label"), {"image_column": "n"}, {"image_column": "id"}),
        (IMAGES, rows((f"{i},x" for i in NUMBERS), "id,label,kind"), {}, {"label_column": "kind"}),
        (IMAGES, rows(NUMBERS), {"labels": "label.csv"}, {"labels": "labels.csv"}),
    ],
)
def test_the_sentence_names_the_keys_that_work(data, files, table, options, found):
    root = data(*files, table=table)
    with pytest.raises(UserError) as caught:
        csv_index(root, **options)
    assert "\n" not in str(caught.value)
    assert pasted(str(caught.value)) == found
    assert len(labels(csv_index(root, **options | found))) == len(NUMBERS)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (rows(f"{i + 1}" for i in NUMBERS), ["1 for 00001.jpg", "as text"]),
        (rows(f"{i + 1}.0" for i in NUMBERS), ["1.0 for 00001.jpg", "as text"]),
        (rows(f"x{i:05}" for i in NUMBERS), ["'x00000'", "0.jpg", "nearest"]),
        (rows("" for i in NUMBERS), ["no class", "24 rows without a label or an image"]),
        (rows(f"{i + 1:05}" for i in NUMBERS).replace("2,b", '2,"b'), ["quote", "'b 00003,a"]),
        ("", ["data.image_column=id"]),
        (b"PK\x03\x04" + bytes(99), ["Excel", "CSV"]),
        (bytes(range(256)), ["no text"]),
        (b"PAR1" + bytes(99), ["Parquet", "CSV"]),
        (b"\xef\xbb\xbf\n <!doctype html><title>404</title>", ["web page", "CSV"]),
        (b"\n<?xml version='1.0'?>\n<Error/>", ["XML", "CSV"]),
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(99), ["MATLAB", "CSV"]),
        (rows((f"{i + 1:05},Pepper, {'ab'[i % 2]}" for i in NUMBERS), "id,label"), ["a comma", "24 rows"]),
        (zipped({"a.csv": "", "b.csv": ""}), ["2 files", "unpack"]),
        (b"\x1f\x8b\x08" + bytes(99), ["unpack"]),
        ("id,label\n" + '"' * 3 + "x" * 200_000, ["cannot be read as a table"]),
        ("id,label\n\x81,b".encode("latin-1"), ["UTF-8"]),
    ],
)
def test_what_no_key_mends_is_named(data, table, words):
    root = data(*(f"images/{i + 1:05}.jpg" for i in NUMBERS), table=table)
    with pytest.raises(UserError) as caught:
        csv_index(root)
    assert all(word in str(caught.value).replace(f"{root}/", "") for word in words)
    assert "\n" not in str(caught.value)


def test_a_column_may_be_called_as_a_file_is(data):
    root = data(*IMAGES, "images/label.png", table=rows(NUMBERS, "name,label"))
    with pytest.raises(UserError) as caught:
        csv_index(root)
    assert pasted(str(caught.value)) == {"image_column": "name"}


def test_a_table_without_a_header_gets_one_by_the_command_that_is_offered(data):
    root = data(*IMAGES, table=rows((f"{i},x" for i in NUMBERS), "0,x,a"))
    with pytest.raises(UserError, match="names no columns") as caught:
        csv_index(root)
    subprocess.run(["bash", "-c", str(caught.value).partition("add one with ")[2]], check=True)
    index = csv_index(root, label_column="column3")
    assert len(labels(index)) == len(NUMBERS)


@pytest.mark.parametrize("title", ["# exported, by hand\n", "# all photos\n", "\nAll photos,\n"])
def test_a_title_is_removed_by_the_command_that_is_offered(data, title):
    root = data(*IMAGES, table=title + rows(NUMBERS))
    with pytest.raises(UserError, match="title") as caught:
        csv_index(root)
    subprocess.run(["bash", "-c", str(caught.value).partition("remove it with ")[2]], check=True)
    assert len(labels(csv_index(root))) == len(NUMBERS)


def test_json_is_no_table(data):
    root = data(*IMAGES)
    (root / "labels.jsonl").write_text('{"id": "0.jpg", "label": "a"}\n')
    with pytest.raises(UserError, match=r"JSON.*CSV"):
        csv_index(root, labels="labels.jsonl")


@pytest.mark.parametrize(
    ("kinds", "flag", "column"),
    [
        (("MEL", "NV", "it's"), float, {}),
        (("cat", "dog"), int, {}),
        (("MEL", "NV", "it's"), bool, {"label_column": "NV"}),
        (("MEL", "NV", "it's"), lambda one: "x" * one, {"label_column": "MEL"}),
    ],
)
def test_a_column_for_each_class_is_made_one_by_the_command_that_is_offered(data, kinds, flag, column):
    cells = [[f"{i}.jpg", *(str(flag(i % len(kinds) == k)) for k in range(len(kinds)))] for i in NUMBERS]
    root = data(*IMAGES, table="\n".join(map("; ".join, [["file", *kinds], *cells])))
    with pytest.raises(UserError, match="a column for each class") as caught:
        csv_index(root, **({"image_column": "file"} | column if column else {"images": "photos"}))
    command = str(caught.value).partition("with one by ")[2].rpartition(" and give ")[0]
    subprocess.run(["bash", "-c", command.replace("python", sys.executable, 1)], check=True)
    found = pasted(str(caught.value))
    assert {*found} == {"labels", "label_column" if column else "images"}
    assert labels(csv_index(root, **({"image_column": "file"} if column else {}), **found)) == {
        f"images/{i}.jpg": kinds[i % len(kinds)] for i in NUMBERS
    }


def test_large_tables_are_quick(data):
    """Time is that of a look at each row, not at each pair of a row and a file."""
    count = 20_000
    folder = data(*IMAGES) / "images/deep"
    folder.mkdir()
    for i in range(count):
        (folder / f"x{i}.jpg").touch()
    root = data(table=rows(f"D:\\scans\\x{i}.JPEG" for i in range(count)))
    start = time.process_time()
    assert sum(map(len, csv_index(root).splits.values())) == count
    assert time.process_time() - start < 8


def table(**cells):
    """A table of IMAGES, which are of two classes in turn, with further columns: functions of the number."""
    lines = [",".join(("id", "label", *cells))]
    for i in NUMBERS:
        lines.append(",".join((str(i), "ab"[i % 2], *(cell(i) for cell in cells.values()))))
    return "\n".join(lines)


def sides(index):
    return {index.relative(s.path): split for split, samples in index.splits.items() for s in samples}


@pytest.mark.parametrize("names", [("Training", "VALID ", "test"), ("trn", " dev", "Test_set")])
def test_a_column_says_the_splits(data, names):
    text = table(set=lambda i: names[(i // 8)], patient=lambda i: f"p{i // 4}")
    index = csv_index(data(*IMAGES, table=text), split_column="set")
    assert sides(index) == {f"images/{i}.jpg": ("train", "val", "test")[i // 8] for i in NUMBERS}
    assert index.issues == ()


def test_without_val_rows_val_is_drawn_and_rows_without_a_split_are_named(data):
    text = table(set=lambda i: ("trainval", "test", "", "NaN")[i // 6])
    index = csv_index(data(*IMAGES, table=text), split_column="set", val_fraction=0.25)
    found = sides(index)
    assert {path for path, side in found.items() if side == "test"} == {f"images/{i}.jpg" for i in range(6, 12)}
    assert set(found.values()) == {"train", "val", "test"}
    assert len(found) == 12
    (remark,) = index.issues
    assert re.match("12 rows of .* without a split in the column set are not used: 12, 13, 14 and 9", remark)


@pytest.mark.parametrize(
    ("options", "words", "offered"),
    [
        (
            {"split_column": "fold"},
            r"has '1' \(12\), '0' \(12\), of which '1', '0' are none of train, val and test",
            None,
        ),
        ({"split_column": "part"}, r"is no column of .*labels\.csv, which has id, label, fold, set, vals", "set"),
        ({"split_column": "vals"}, r"has 'val' \(24\), so that there is nothing to train on", None),
    ],
)
def test_columns_that_say_no_splits(data, options, words, offered):
    text = table(fold=lambda i: str(1 - i // 12), set=lambda i: ("train", "val")[i // 16], vals=lambda i: "val")
    root = data(*IMAGES, table=text)
    with pytest.raises(UserError, match=words) as caught:
        csv_index(root, **options)
    assert pasted(str(caught.value)) == {"split_column": offered}
    assert csv_index(root, val_fraction=None, **options).splits.keys() <= {"all", "val"}, "to be measured on"


def test_two_splits_of_one_image_are_refused(data):
    text = table(set=lambda i: ("train", "val")[i // 16]) + "\n0,a,val"
    with pytest.raises(UserError, match=r"gives 1 image two splits, 'images/0\.jpg' for example 'train' and 'val'"):
        csv_index(data(*IMAGES, table=text), split_column="set")


@pytest.mark.parametrize("group", ["patient", r"(\d+)\.jpg"])
def test_images_of_a_group_stay_together(data, group):
    root = data(*IMAGES, table=table(patient=lambda i: f"p{i // 3}" if i < 21 else " "))
    for seed in range(5):
        index = csv_index(root, group=group, val_fraction=0.3, seed=seed)
        found = sides(index)
        assert set(found.values()) == {"train", "val"}
        if group == "patient":
            assert all(len({found[f"images/{3 * k + i}.jpg"] for i in range(3)}) == 1 for k in range(7))
            assert any(re.match("Without patient: 3 images, each a group", issue) for issue in index.issues)


def test_groups_that_a_table_cuts_or_gives_twice(data):
    cells = {"set": lambda i: ("train", "val")[i % 5 == 0], "patient": lambda i: f"p{i // 12}"}
    root = data(*IMAGES, table=table(**cells))
    index = csv_index(root, split_column="set", group="patient")
    (remark,) = (issue for issue in index.issues if "cut in two" in issue)
    assert "2 groups" in remark
    assert "data.split_column=null" in remark
    with pytest.raises(
        UserError, match=r"data\.group=patients is no column of .*; give data\.group=patient, or a regular"
    ):
        csv_index(root, group="patients")
    root = data(table=table(**cells) + "\n0,a,val,p9")
    with pytest.raises(UserError, match=r"two values of patient, 'images/0\.jpg' for example 'p0' and 'p9'"):
        csv_index(root, group="patient")


def test_other_columns_are_kept(data):
    text = table(site=lambda i: f"s{i}", digest=lambda i: "mine", note=lambda i: '"a, ü"')
    index = csv_index(data(*IMAGES, table=text + "\n0,a,other,x,y"), min_images=2)
    columns = index.without([index.root / "images/3.jpg"]).columns
    assert columns is not None
    assert [*columns.cells] == ["site", "digest", "note"]
    assert {*zip(columns.files, columns.cells["site"], columns.cells["note"], strict=True)} == {
        (f"images/{i}.jpg", f"s{i}", "a, ü") for i in NUMBERS
    }
