"""Rows leave as they are made; a command that was killed is continued, and two never write one file."""

import os
import shutil
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
from PIL import Image

from tlab.core.errors import UserError
from tlab.data.augment.evaluation import ResizeCrop
from tlab.data.decode_options import DecodeOptions, Levels
from tlab.predictions.batches import predict_batches
from tlab.predictions.file_counts import FileCounts
from tlab.predictions.file_list import FileList
from tlab.predictions.rows import CsvRows
from tlab.predictions.table import Table
from tlab.runs.trained_model import Prediction, View

HOLDER = """
import sys
from pathlib import Path
from tlab.predictions.table import Table
with Table(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
COUNT = 11  # of files, in three batches


class Killed(BaseException):
    pass


@pytest.fixture
def folder(photos, tmp_path):
    """Images, one of which cannot be read, one in whose name a line ends, and one with quotes in it."""
    target = tmp_path / "new"
    target.mkdir()
    names = ["0.png", '1 "a".png', "2\n.png", *(f"{i}.png" for i in range(3, COUNT))]
    for name, source in zip(names, sorted(photos.glob("test/*/*.png")), strict=False):
        shutil.copyfile(source, target / name)
    (target / "4.png").write_text("<html>")
    return target


@pytest.fixture
def killed_after(monkeypatch):
    """Return a context in which the command ends without warning once it has written so many batches."""

    @contextmanager
    def context(batches):
        write, left = Table.write, iter(range(batches))

        def limited(table, rows):
            if next(left, None) is None:
                raise Killed
            write(table, rows)

        def unfinished(table):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Table, "write", limited)
            patch.setattr(Table, "finish", unfinished)
            with suppress(Killed):
                yield
                pytest.fail("it has ended by itself")

    return context


def hidden(place):
    return [path for path in place.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("format_", "batches", "cut", "kept"),
    [
        *(("csv", 1, 0, 4), ("csv", 3, 0, 11), ("csv", 1, 1, 0), ("csv", 2, 30, 4)),
        *(("jsonl", 2, 0, 8), ("jsonl", 3, 1, 8)),
    ],
)
def test_a_killed_command_is_continued(give, folder, tmp_path, killed_after, caplog, format_, batches, cut, kept):
    whole, output = (tmp_path / f"{name}.{format_}" for name in ("whole", "preds"))
    give("input=new", f"output={whole}", read=None)
    with killed_after(batches):
        give("input=new", f"output={output}", read=None)
    assert not output.exists()
    (part,) = hidden(tmp_path)
    os.truncate(part, part.stat().st_size - cut)
    caplog.clear()
    give("input=new", f"output={output}", read=None)
    assert output.read_bytes() == whole.read_bytes()
    assert hidden(tmp_path) == []
    assert (f"Continues after {kept} of 11 rows" in caplog.text) == (kept > 0)
    assert "1 without a prediction: 4.png (" in caplog.text


def test_processes_that_decode_give_the_same_rows(give, folder, tmp_path):
    give("input=new", read=None)
    give("input=new", "num_workers=2", "output=other.csv", read=None)
    assert (tmp_path / "other.csv").read_bytes() == (tmp_path / "preds.csv").read_bytes()


@pytest.mark.parametrize(("name", "kept"), [("2", 8), ("2\n2", 0)])
def test_a_killed_submission_with_inches_in_it_is_continued(
    give, photos, tmp_path, killed_after, caplog, name, kept
):
    """With a line end in a cell besides, which leaves rows in doubt, it begins anew."""
    (tmp_path / "lenses").mkdir()
    names = ["0", '1" lens', name, "3", '4" lens', *map(str, range(5, COUNT))]
    for each, source in zip(names, sorted(photos.glob("test/*/*.png")), strict=False):
        shutil.copyfile(source, tmp_path / "lenses" / f"{each}.png")
    ids = [f'"{each}"' if "\n" in each else each for each in names]
    (tmp_path / "sample.csv").write_text("\n".join(["id,label", *(f"{each}," for each in ids)]))
    command = ("input=lenses", "submission=sample.csv")
    give(*command, "output=whole.csv", read=None)
    with killed_after(2):
        give(*command, "output=half.csv", read=None)
    give(*command, "output=half.csv", read=None)
    assert (f"Continues after {kept} of 11 rows" in caplog.text) == (kept > 0)
    assert (tmp_path / "half.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_has_changed_since_is_made_anew(give, folder, photos, tmp_path, killed_after, caplog):
    with killed_after(2):
        give("input=new", read=None)
    shutil.copyfile(photos / "test/blue/00.png", folder / "4.png")
    rows = give("input=new")
    assert "4.png has changed" in caplog.text
    assert "Continues after 4 of 11 rows" in caplog.text
    assert rows[4]["prediction"]
    assert not any(row["reason"] for row in rows)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ((), "images"),
        (("input=new", "tta=flip"), "settings"),
        (("input=new", "precision=bf16-mixed"), "models and settings"),
    ],
)
def test_what_another_command_has_left_is_begun_anew(give, folder, tmp_path, killed_after, caplog, change, what):
    with killed_after(2):
        give("input=new", read=None)
    if not change:
        (folder / "0.png").unlink()
    rows = give(*(change or ("input=new",)))
    assert f"Begins anew: an unfinished preds.csv is of other {what}" in caplog.text
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == (11 if change else 10)
    assert hidden(tmp_path) == []


def test_the_second_of_two_commands_is_refused(give, folder, tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "preds.csv")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"another command is writing output=.*preds\.csv; wait for it"):
            give("input=new")
        holder.kill()
    assert len(give("input=new")) == 11
    assert hidden(tmp_path) == []


def test_a_lock_that_is_removed_while_another_command_opens_it_is_none(tmp_path, monkeypatch):
    from tlab.core import locks

    first, second = (Table(tmp_path / "preds.csv") for _ in range(2))
    lock, opened = locks.lock, []

    def lock_late(file, wait=True):
        if not opened:
            opened.append(file)
            first.__exit__()  # removes the file that the second one has opened
        return lock(file, wait)

    with first:
        monkeypatch.setattr(locks, "lock", lock_late)
        with second:
            assert (tmp_path / ".preds.csv.lock").exists()
    assert hidden(tmp_path) == []


def test_a_mistake_before_the_first_row_leaves_nothing(give, folder, tmp_path):
    with pytest.raises(UserError, match="run=none"):
        give("input=new", "run=none")
    with pytest.raises(UserError, match="accelerator=gpu"):
        give("input=new", "accelerator=gpu")
    assert hidden(tmp_path) == []


def test_a_table_that_is_there_stays_until_there_is_a_new_one(give, folder, tmp_path, killed_after):
    (tmp_path / "preds.csv").write_text("old")
    with killed_after(2):
        give("input=new", read=None)
    assert (tmp_path / "preds.csv").read_text() == "old"
    assert len(give("input=new")) == 11


def test_a_reader_that_goes_away_ends_the_command(give, folder, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    written = Table.write

    def write(table, rows):
        if reader in open_:
            os.close(reader)
            open_.clear()
        written(table, rows)

    open_ = {reader}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "write", write)
        give("input=new", f"output={pipe}", read=None)
    assert not open_


def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    view = View(ResizeCrop(8), DecodeOptions(truncated=True))
    answer = Prediction.of({"a": 0.5, "b": 0.5})
    model = SimpleNamespace(views=[view], max_megapixels=1, predictions=lambda views: [answer] * len(views[0]))

    def peak(count):
        tracemalloc.start()
        files = FileList(tmp_path, (("0.png" if i % 50 else f"no {i}.png") for i in range(count)))
        counts = FileCounts(files, Levels())
        with Table(tmp_path / "preds.csv") as table:
            made_by = {"models": b"1234"}
            table.begin(CsvRows(["a", "b"]), files, 8, made_by, counts.add_row)
            for rows in predict_batches(model, counts, 8, 0):
                table.write(rows)
            table.finish()
        assert counts.unreadable == count // 50
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(50)
    assert peak(700) - peak(200) < 100_000  # a row takes about a kilobyte
