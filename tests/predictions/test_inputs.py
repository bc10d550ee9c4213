"""What can be predicted: files, folders, patterns, tables, lists."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tlab.core.errors import UserError
from tlab.predictions.inputs import find_files


@pytest.fixture
def place(photos, tmp_path, monkeypatch):
    """`new/{a,b}/{0,1}.png`, `new/b/notes.dat` and `new/x.png`; the current directory is the folder above."""
    for name in ("a/0", "a/1", "b/0", "b/1", "x"):
        (target := tmp_path / "new" / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photos / "test/red/00.png", target)
    (tmp_path / "new/b/notes.dat").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(given, place, **data):
    return [os.path.relpath(path, place / "new") for path in find_files(given, data)]


ALL = ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "x.png"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("new", ALL),
        ("new/x.png", ["x.png"]),
        ("new/*.png", ["x.png"]),
        ("new/?/0.png", ["a/0.png", "b/0.png"]),
        ("new/**/*.png", ALL),
        ("new/**", ALL),
        ("new/*", ALL),
        ("n[e]w/b", ["b/0.png", "b/1.png"]),
    ],
)
def test_files_folders_and_patterns(place, given, names):
    assert found(given, place) == names
    assert found(str(place / given), place) == names


def test_a_list_keeps_its_order(place, give):
    (place / "[odd").mkdir()
    shutil.copyfile(place / "new/x.png", place / "[odd/1,2.png")
    rows = give("input=[new/x.png,new/a,'[odd/1,2.png',new/b/*.png]")
    assert [os.path.relpath(row["path"]) for row in rows] == [
        *("new/x.png", "new/a/0.png", "new/a/1.png", "[odd/1,2.png", "new/b/0.png", "new/b/1.png")
    ]


def test_a_folder_with_brackets_is_a_folder(place):
    (place / "new").rename(place / "[new]")
    from tlab.config.hydra import compose

    assert len(find_files(compose(["run=r", "input=[new]"], "predict").input, {})) == 5


@pytest.mark.parametrize(
    "text",
    [
        "new/x.png\n\nnew/a/0.png\nno.png",
        "new/x.png\0new/a/0.png\0no.png\0",
        "new/x.png\r\nnew/a/0.png\r\nnew/a\r\nno.png",
    ],
)
def test_a_list_on_standard_input(place, give, monkeypatch, text, caplog):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    rows = give("input=-", "output=out.jsonl", read=None)
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [os.path.relpath(row["path"]) for row in rows] == ["new/x.png", "new/a/0.png", "no.png"]
    assert [row["reason"] for row in rows] == [None, None, "no such file"]
    assert rows[2]["prediction"] is rows[2]["probability"] is None
    assert ("1 folder in the list" in caplog.text) == ("new/a\r" in text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("id,kind\n1,x\n7,y\n0,z\n1,x\n", ["b/1.png", "7", "b/0.png", "b/1.png"]),
        ("kind;name\nq;b/1.png\n;\n", ["b/1.png"]),
        ("\ufefffile\n./b/0.png\n../a/1.png\n", ["b/0.png", "a/1.png"]),
    ],
)
def test_a_table_of_ids_or_paths(place, text, names, caplog):
    (place / "new/ids.csv").write_text(text, encoding="utf-8")
    listed = find_files("new/ids.csv", {"images": "b", "exclude": []})
    expected = [place / "new" / name if "/" in name else place / "new/b" / name for name in names]
    assert list(listed) == list(map(str, expected))


def test_a_table_names_its_column_or_is_told(place, caplog):
    (place / "new/ids.csv").write_text("one,two\nx,0\nx,1\n")
    assert found("new/ids.csv", place, image_column="two", images="a") == ["a/0.png", "a/1.png"]
    with pytest.raises(UserError, match=r"data\.image_column=three is no column"):
        found("new/ids.csv", place, image_column="three")
    with pytest.raises(UserError, match=r"may be a/0\.png or b/0\.png"):
        found("new/ids.csv", place, image_column="two")
    assert found("new/ids.csv", place, image_column="two", exclude=["b"]) == ["a/0.png", "a/1.png"]
    (place / "new/ids.csv").write_text("a/0.png\na/1.png\n")
    with pytest.raises(UserError, match="names no columns"):
        found("new/ids.csv", place)


def test_what_is_left_out_is_left_out_and_a_pattern_for_nothing_is_told(place, caplog):
    assert found("new", place, exclude=["a"]) == ["b/0.png", "b/1.png", "x.png"]
    assert found(["new/a", "new/b/*"], place, exclude=["1.png"]) == ["a/0.png", "b/0.png"]
    assert "matched no file" not in caplog.text
    assert found("new/x.png", place, exclude=["y*"]) == ["x.png"]
    assert "'y*' matched no file" in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("new/*.gif", "input=new/\\*.gif names no image file"),
        ([], "names nothing"),
        (["new", "gone"], "input=gone does not exist"),
        ("-", "input=- names 1 file, of which none exists"),
        ("new/book.xlsx", "input: .*book.xlsx is an Excel workbook"),
        ("new/empty.csv", "is empty"),
        ("new/far.csv", "None of the 2 images that .*far.csv names is in .*/new"),
    ],
)
def test_mistakes_name_what_is_wrong(place, monkeypatch, given, words):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"gone.png\n")))
    (place / "new/book.xlsx").write_bytes(b"PK\x03\x04")
    (place / "new/empty.csv").write_bytes(b"")
    (place / "new/far.csv").write_text("id\n8\n9\n")
    with pytest.raises(UserError, match=words):
        find_files(given, {})


def test_keys_of_tables_are_refused_for_others(place):
    with pytest.raises(UserError, match=r"data\.extension is for a table"):
        find_files("new", {"extension": ".png"})
    assert len(find_files("new", {"extension": ".png"}, for_ids=True)) == 5


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_with_a_mark_of_its_byte_order(place, monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("new/x.png\r\nnew/a/0.png\r\n".encode(encoding))))
    assert [*find_files("-", {}).names()] == ["new/x.png", "new/a/0.png"]


def test_a_pipe_is_not_waited_for(place, give, monkeypatch):
    os.mkfifo(place / "new/pipe.png")
    with pytest.raises(UserError, match=r"input=new/pipe\.png is a pipe or device, not a file"):
        give("input=new/pipe.png")
    assert "new/pipe.png" not in found("new", place)
    (place / "table.csv").write_text("image\nnew/x.png\nnew/pipe.png\n")
    for given in ("input=new/*.png", "input=table.csv", "input=-"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"new/x.png\nnew/pipe.png")))
        answers = {Path(row["path"]).name: row for row in give(given)}
        assert answers["x.png"]["prediction"]
        assert "a pipe or device" in answers["pipe.png"]["reason"]
