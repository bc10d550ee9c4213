"""Submissions: the sample, letter by letter, with predictions in it."""

import csv
import gzip
import os
import re
import shutil

import pytest
import torch

import tlab
from tlab.core.errors import UserError
from tlab.predictions.table import Table


@pytest.fixture(scope="module")
def images(photos, tmp_path_factory):
    """`{1..4}.png` and `more/{5,6}.png`: two red, two green and two blue images; `no.png` is none."""
    root = tmp_path_factory.mktemp("test")
    (root / "more").mkdir()
    (root / "no.png").touch()
    for number in range(1, 7):
        color = ("red", "green", "blue")[(number - 1) // 2]
        target = root / ("more" if number > 4 else "") / f"{number}.png"
        shutil.copyfile(photos / f"test/{color}/{number - 1:02}.png", target)
    return root


@pytest.fixture(scope="module")
def answers(trained, images):
    """Image -> prediction."""
    files = sorted(images.rglob("[1-6].png"))
    found = tlab.load(trained, accelerator="cpu").predict(files)
    return {file.stem: answer for file, answer in zip(files, found, strict=True)}


@pytest.fixture
def submit(give, images, tmp_path):
    """Write a sample, give the command, and return the submission."""

    def command(sample, *arguments, name="sample.csv"):
        (tmp_path / name).write_bytes(sample.encode() if isinstance(sample, str) else sample)
        give(f"input={images}", f"submission={name}", "output=out.csv", *arguments, read=None)
        return (tmp_path / "out.csv").read_bytes().decode()

    return command


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("id,label\n3,red\n1,red\n3,red\n", "id,label\n3,<3>\n1,<1>\n3,<3>\n"),
        ("id,label\r\n6,green\r\n", "id,label\r\n6,<6>\r\n"),
        ("id;label\n2;\n1;", "id;label\n2;<2>\n1;<1>"),
        ('"id","label"\n"1","red"\n\n', '"id","label"\n"1","<1>"\n\n'),
        ("\ufeffid\tlabel\n1\tblue\n", "\ufeffid\tlabel\n1\t<1>\n"),
        ("sep=,\n\nid,label\n1,red\n \n\n2,red\n", "sep=,\n\nid,label\n1,<1>\n \n\n2,<2>\n"),
        ("label,image name\nred,more/5.png\n,1.jpg", "label,image name\n<5>,more/5.png\n<1>,1.jpg"),
        (" id , label\n 1 , red\n", " id , label\n 1 ,<1>\n"),
        ("id,label\n1\n2,\n", "id,label\n1,<1>\n2,<2>\n"),
        ("id,label\n1,unknown\n2,unknown\n", "id,label\n1,<1>\n2,<2>\n"),
        ('id,label\n"images/1",\nimages/5.png,""\n', 'id,label\n"images/1",<1>\nimages/5.png,"<5>"\n'),
    ],
)
def test_it_is_the_sample_with_labels(submit, answers, sample, expected):
    assert submit(sample) == re.sub("<(.)>", lambda image: answers[image[1]].label, expected)


def test_it_has_the_sample_s_spelling_of_classes(submit, answers, caplog):
    spelled = {"red": "R ed", "green": "GREEN", "blue": "blue"}
    sample = "id,label\n" + "".join(f"{i},{name}\n" for i, name in enumerate(spelled.values(), 1))
    rows = [line.split(",") for line in submit(sample).splitlines()[1:]]
    assert rows == [[str(i), spelled[answers[str(i)].label]] for i in (1, 2, 3)]
    assert "2 classes are spelled as in sample.csv" in caplog.text
    assert "4 images in" in caplog.text
    assert "are in no row of sample.csv and not used" in caplog.text


ODD = ("=SUM(1,2)", "two\r\nlines", 'say "x"; or |y| ')


@pytest.fixture(scope="module")
def odd(trained, tmp_path_factory):
    """The checkpoint, with other names of the classes."""
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    content["tlab"]["classes"] = [*ODD]
    torch.save(content, file := tmp_path_factory.mktemp("odd") / "odd.ckpt")
    return file


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_odd_names_come_back_as_the_sample_has_them(give, odd, images, answers, tmp_path, delimiter):
    labels = [ODD[("blue", "green", "red").index(answers[image].label)] for image in "123456"]

    def submission(*rows):
        with (tmp_path / "sample.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        give(f"run={odd}", f"input={images}", "submission=sample.csv", "output=out.csv", read=None)
        with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
            return [*csv.reader(file, delimiter=delimiter)]

    found = submission(("id", "label"), *((str(i + 1), ODD[i % 3]) for i in range(6)))
    assert found == [["id", "label"], *([str(i + 1), label] for i, label in enumerate(labels))]
    columns = [ODD[1], "id", *ODD[::2]]
    header, *rows = submission(columns, *(("0", str(i + 1), "0", "0") for i in range(6)))
    assert header == columns
    for row, label in zip(rows, labels, strict=True):
        shares = {name: float(cell) for name, cell in zip(columns, row, strict=True) if name != "id"}
        assert max(shares, key=shares.get) == label


def test_odd_names_come_back_from_a_table_of_predictions(give, odd, images):
    rows = give(f"run={odd}", f"input={images}/[1-4].png", "coverage=0.8")
    assert [*rows[0]][3:6] == [f"p({name})" for name in ODD]
    for row in rows:
        assert row["prediction"] == max(ODD, key=lambda name: float(row[f"p({name})"]))
        assert {*next(csv.reader([row["set"]], delimiter="|"), [])} <= {*ODD}


def test_a_killed_submission_whose_labels_have_line_ends_is_continued(
    give, odd, images, tmp_path, monkeypatch, caplog
):
    """Although its sample has none."""
    (tmp_path / "sample.csv").write_text("id,label\n" + "".join(f"{i},\n" for i in range(1, 7)))
    command = (f"run={odd}", f"input={images}", "submission=sample.csv", "output=out.csv")
    whole = give(*command, read="out.csv")
    assert ODD[1] in {row["label"] for row in whole[:4]}
    write = Table.write

    def stop(table, rows):
        write(table, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Table, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            give(*command, read=None)
    assert give(*command, read="out.csv") == whole
    assert "Continues after 4 of 6 rows" in caplog.text


@pytest.mark.parametrize("columns", ["green,id,red,blue", "id,Green,RED,blue", "id,blue,green,red"])
def test_it_is_the_sample_with_probabilities(submit, answers, columns):
    names = columns.split(",")
    sample = f"{columns}\n" + "".join(
        ",".join(image if name == "id" else "0.33" for name in names) + "\n" for image in "52"
    )
    out = submit(sample)
    assert out.startswith(f"{columns}\n")
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["id"] for row in rows] == ["5", "2"]
    for row in rows:
        for name in {*names} - {"id"}:
            assert float(row[name]) == pytest.approx(answers[row["id"]].probabilities[name.lower()], abs=1e-6)
            assert len(row[name]) == 10


def test_a_packed_sample_and_images_from_a_list(submit, answers, images, tmp_path):
    out = submit(gzip.compress(b"id,label\n1,red\n5,red\n"), name="sample.csv.gz")
    assert out == f"id,label\n1,{answers['1'].label}\n5,{answers['5'].label}\n"
    assert submit("id,label\n4,red\n", f"input={images}/[34].*") == f"id,label\n4,{answers['4'].label}\n"


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ("id,label\n1,\n9,\n8,\n", r"'9' \(row 2\) has no image in .* \(2 of 3 ids have none\)"),
        ("id,label\n8,\n", r"'8' \(row 1\) has no image in .* \(1 of 1 id"),
        ("id,label\n1,\n,\n2,\n,red\n", r"'' \(row 3\) has no image"),
        ("id,label\n1,0\n2,2\n", "the column 'label' holds numbers"),
        ("id,label\n1,0.5\n2,0.5\n", "the column 'label' holds numbers"),
        ("id,label\n1,red\n2,pink\n", r"the label 'pink' is no class .*\(1 of 2"),
        ("id,label\n1,red\n2,RED\n", "the label 'RED' is no class"),
        ("id,red,green,pink\n1,0,0,0\n", r"the column 'pink' is no class of this run \(1 of 3"),
        ("id,red,green,blue,Red\n1,0,0,0,0\n", "the column 'Red' is no class"),
        ("id,red,green\n1,0,0\n", r"the class 'blue' of this run has no column \(1 "),
        ("id\n1\n", "at least an id and a label"),
        ("id,label\n", "a row for each image"),
        ("", "needs a line that names its columns"),
        ("id,label\nno,\n", r"no\.png has no prediction \(empty file\)"),
        ('id,label\n1,"red\n2,red\n', "a quote that is not closed"),
        (b"PK\x03\x04", "submission: .* is an Excel workbook"),
    ],
)
def test_a_difference_is_named_and_nothing_written(submit, tmp_path, sample, words):
    with pytest.raises(UserError, match=words) as caught:
        submit(sample)
    assert caught.value.exit_code == 2
    assert [file.name for file in tmp_path.iterdir()] == ["sample.csv"]


def test_an_image_that_cannot_be_read_is_repaired_and_the_command_continues(give, images, tmp_path, caplog):
    folder = shutil.copytree(images, tmp_path / "test")
    content = (folder / "more/6.png").read_bytes()
    (folder / "more/6.png").write_bytes(b"")
    (tmp_path / "sample.csv").write_text("id,label\n" + "".join(f"{i},\n" for i in range(1, 7)))
    command = ("input=test", "submission=sample.csv", "output=out.csv")
    with pytest.raises(UserError, match=r"test/more/6\.png has no prediction \(empty file\).* repair"):
        give(*command, read=None)
    assert not (tmp_path / "out.csv").exists()
    (folder / "more/6.png").write_bytes(content)
    assert [row["id"] for row in give(*command, read="out.csv")] == list("123456")
    assert "Continues after 4 of 6 rows" in caplog.text


def test_two_classes_can_have_one_column(submit, trained, images):
    from tlab.predictions.submission import Sample

    file = images.parent / "sample.csv"
    file.write_text("id,dog\n1,0.5\n")
    sample = Sample(file)
    sample.id_column = "id"
    row = {"prediction": "dog", "p(cat)": 0.25, "p(dog)": 0.75}
    assert sample.filled_by(["cat", "dog"]).line(0, row) == "1,0.75000000\n"
    with pytest.raises(UserError, match="holds numbers"):
        sample.filled_by(["cat", "bird", "dog"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("output=sample.csv",), "is the sample itself"),
        (("format=jsonl",), "format=jsonl is not for a submission"),
        (("submission=gone.csv",), "submission=gone.csv does not exist"),
        (("output=out.jsonl",), "names no CSV table"),
        (("data.image_column=name",), "data.image_column=name is no column of sample.csv"),
    ],
)
def test_keys_that_contradict_it(submit, arguments, words):
    with pytest.raises(UserError, match=words):
        submit("id,label\n1,red\n", *arguments)


def test_a_pipe_is_no_sample(give, images):
    """As `<(zcat sample.csv.gz)` is one, which can be read only once."""
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as sample:
        sample.write("id,label\n1,red\n")
        sample.close()
        with pytest.raises(UserError, match=rf"submission=/dev/fd/{reader} is a pipe; give the file itself"):
            give(f"input={images}", f"submission=/dev/fd/{reader}", "output=out.csv", read=None)
