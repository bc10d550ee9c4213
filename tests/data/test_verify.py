import logging
import os
from pathlib import Path

import numpy as np
import pytest
from pictures import SHARED, jpeg, picture
from PIL import Image

from tlab.data import progress_bar
from tlab.data.decode import DecodeError, decode
from tlab.data.decode_options import DecodeOptions
from tlab.data.sources import verify
from tlab.data.sources.folder import folder_index
from tlab.data.sources.issues import find_issues
from tlab.data.sources.verify import Unreadable, check_files, unreadable


def files(root: Path) -> list[Path]:
    return [sample.path for samples in folder_index(root).splits.values() for sample in samples]


def remarks(root: Path) -> list[str]:
    index = folder_index(root)
    return find_issues(index, check_files(root, [str(path) for path in files(root)]))


@pytest.fixture
def examined(monkeypatch) -> list[Path]:
    seen: list[Path] = []
    true = verify.examine

    def spy(path, *limit):
        seen.append(path)
        return true(path, *limit)

    monkeypatch.setattr(verify, "examine", spy)
    return seen


def test_list_of_unreadable_files_is_exact(odd_folder):
    root, bad = odd_folder
    found = {
        item.path.relative_to(root).as_posix(): item.reason for item in unreadable(check_files(root, files(root)))
    }
    assert found.keys() == bad.keys()
    assert all(word in found[name] for name, word in bad.items())


def test_check_and_decode_agree(odd_folder):
    root, _ = odd_folder
    bad = set()
    for path in files(root):
        try:
            decode(path)
        except DecodeError as error:
            bad.add(Unreadable(path, error.reason))
    assert set(unreadable(check_files(root, files(root)))) == bad


@pytest.mark.parametrize("truncated", [False, True])
def test_check_and_decode_agree_on_files_cut_short(tmp_path, truncated):
    """Also where only the finest detail of the last blocks is lost, which an eighth of the size does not show."""
    content = jpeg(2, (200, 150))
    for cut in (1, 2, 3, 4, 6, 8, 12, 20, 50, 100, 2000):
        file = tmp_path / f"{cut}.jpg"
        file.write_bytes(content[:-cut])
        found = [item.path for item in unreadable({file: verify.examine(file)}, truncated)]
        try:
            decode(file, 16, DecodeOptions(truncated=truncated))
        except DecodeError:
            assert found == [file]
        else:
            assert found == []


def test_second_check_only_looks_at_what_changed(odd_folder, examined):
    root, _ = odd_folder
    first = check_files(root, files(root))
    assert sorted(examined) == sorted(files(root))
    examined.clear()
    assert check_files(root, files(root)) == first
    assert examined == []
    mended = root / "cats" / "empty.jpg"
    mended.write_bytes(jpeg(77))
    broken = root / "cats" / "0.jpg"
    stat = broken.stat()
    broken.write_bytes(broken.read_bytes()[:-200])
    os.utime(broken, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same time, other size
    touched = root / "cats" / "1.jpg"
    os.utime(touched, ns=(1, 1))
    second = check_files(root, files(root))
    assert sorted(examined) == sorted([mended, broken, touched])
    assert (second[mended].reason, second[broken].reason[:9]) == ("", "truncated")


def test_a_file_rewritten_with_its_size_and_time_is_looked_at_again(tmp_path, examined):
    """As by exiftool -P, which corrects an orientation and keeps the time."""
    file = tmp_path / "0.bmp"
    for number in range(2):
        picture(number).save(file)
        os.utime(file, (1, 1))
        (verdict,) = check_files(tmp_path, [file]).values()
        assert verdict.digest
    assert examined == [file, file]


def test_a_limit_of_its_own_leaves_other_results_alone(tmp_path, examined):
    picture(0, (200, 150)).save(tmp_path / "0.png")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(tmp_path / "1.png")
    paths = sorted(tmp_path.glob("*.png"))
    for limit, broken in ((179, 0), (0.02, 1), (179, 0), (0.02, 1)):
        verdicts = check_files(tmp_path, paths, limit)
        assert len(unreadable(verdicts)) == broken
        assert verdicts[paths[1]].samples == ("integers", 0, 1199)
    assert len(examined) == 4


def test_folders_that_change_their_names_are_read_again(tmp_path):
    """Of bitmaps of equal size and time, as an archive holds them, only the inode tells."""
    paths = []
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        picture(number).save(tmp_path / name / "0.bmp")
        os.utime(tmp_path / name / "0.bmp", (1, 1))
        paths.append(str(tmp_path / name / "0.bmp"))
    before = [verdict.digest for verdict in check_files(tmp_path, paths).values()]
    for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
        (tmp_path / old).rename(tmp_path / new)
    after = [verdict.digest for verdict in check_files(tmp_path, paths).values()]
    assert after == before[::-1] != before


def test_cache_is_one_file_and_damage_to_it_is_harmless(make_folder, own_cache, examined):
    root = make_folder({"a": 3, "b": 3})
    check_files(root, files(root))
    (cached,) = [path for path in own_cache.rglob("*") if path.is_file()]
    for content in ("", "{}", '{"version": 1}', cached.read_text()[:-20], "[1, 2]"):
        cached.write_text(content)
        examined.clear()
        assert not unreadable(check_files(root, files(root)))
        assert len(examined) == 6


def test_what_may_mend_itself_is_not_kept(make_folder, examined):
    root = make_folder({"a": 3, "b": 3})
    paths = files(root)
    moved = paths[0].rename(root / "away")
    assert [item.reason for item in unreadable(check_files(root, paths))] == ["no such file"]
    moved.rename(paths[0])
    assert not unreadable(check_files(root, paths))


def test_cache_that_cannot_be_written_is_only_a_warning(make_folder, own_cache, caplog):
    own_cache.write_text("a file in the way")
    root = make_folder({"a": 3, "b": 3})
    assert not unreadable(check_files(root, files(root)))
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "pathlib.Path.replace"])
def test_read_only_cache_means_that_nothing_is_remembered(make_folder, examined, monkeypatch, caplog, call):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    root = make_folder({"a": 3, "b": 3})
    paths = files(root)
    (root / "a" / "0.jpg").write_bytes(b"")
    monkeypatch.setattr(call, refuse)
    for _ in range(2):
        examined.clear()
        caplog.clear()
        assert [item.path.name for item in unreadable(check_files(root, paths))] == ["0.jpg"]
        assert len(examined) == 6
        assert "cannot be kept" in caplog.text


def test_cache_that_may_not_be_read_is_no_hindrance(make_folder, examined, monkeypatch):
    root = make_folder({"a": 3, "b": 3})
    check_files(root, files(root))
    examined.clear()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    assert not unreadable(check_files(root, files(root)))
    assert len(examined) == 6


def test_long_check_logs_one_line_without_a_terminal(make_folder, monkeypatch, caplog, capsys):
    monkeypatch.setattr(progress_bar, "SHOWN_AFTER", 0.0)
    root = make_folder({"a": 3, "b": 3})
    with caplog.at_level(logging.INFO, logger="tlab"):
        check_files(root, files(root))
    assert [record.message.startswith("Checked 6 images in") for record in caplog.records] == [True]
    assert "images/s" in caplog.text
    assert capsys.readouterr().err == ""


def test_long_check_shows_a_bar_on_a_terminal(make_folder, monkeypatch, capsys):
    monkeypatch.setattr(progress_bar, "SHOWN_AFTER", 0.0)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    root = make_folder({"a": 3, "b": 3})
    check_files(root, files(root))
    shown = capsys.readouterr().err
    assert "Checking images" in shown
    assert "images/s" in shown


def test_lone_format_is_remarked_with_the_way_out(make_folder):
    root = make_folder({"a": 40, "b": 40})
    picture(5).save(root / "a" / "lone.jpg", "GIF")
    (sentence,) = remarks(root)
    assert sentence.startswith("a/lone.jpg is a GIF among 80 JPEG files")
    assert "'data.exclude=[a/lone.jpg]'" in sentence


@pytest.mark.parametrize(("jpegs", "gifs"), [(20, 1), (60, 10)])
def test_few_files_or_many_of_another_format_are_no_remark(make_folder, jpegs, gifs):
    root = make_folder({"a": jpegs, "b": jpegs // 2})
    for i in range(gifs):
        picture(500 + i).save(root / "a" / f"x{i}.gif")
    assert remarks(root) == []


def test_same_image_in_train_and_val_or_under_two_labels(make_folder):
    root = make_folder({"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4, "test/a": 2, "test/b": 2})
    for i in range(4):
        (root / "val" / "a" / f"{i}.jpg").write_bytes((root / "train" / "a" / f"{i}.jpg").read_bytes())
    (root / "train" / "b" / "7.jpg").write_bytes((root / "train" / "a" / "7.jpg").read_bytes())
    leak, labels = remarks(root)
    assert leak.startswith("In train and val alike, byte for byte: 4 (train/a/0.jpg = val/a/0.jpg, ")
    assert leak.count("=") == 3
    assert "and 1 more" in leak
    assert labels == "With two labels, byte for byte the same image: 1 (train/a/7.jpg = train/b/7.jpg)."


def test_remarks_stay_short_for_hundreds(make_folder):
    root = make_folder({"train/a": 150, "train/b": 2, "val/a": 150, "val/b": 2})
    for i in range(150):
        (root / "val" / "a" / f"{i}.jpg").write_bytes((root / "train" / "a" / f"{i}.jpg").read_bytes())
    (sentence,) = remarks(root)
    assert len(sentence) < 250
    assert "and 147 more" in sentence


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared data")
def test_gif_that_is_no_photograph():
    root = SHARED / "hymenoptera"
    assert unreadable(check_files(root, files(root))) == []
    lone = [sentence for sentence in remarks(root) if "imageNotFound.gif" in sentence]
    assert len(lone) == 1
    assert "'data.exclude=[train/ants/imageNotFound.gif]'" in lone[0]
    excluded = folder_index(root, exclude=["train/ants/imageNotFound.gif"])
    assert len(excluded.splits["train"]) == 244


@pytest.fixture
def no_time_left(monkeypatch, examined):
    """Let the time of a check be over once three groups of two files were examined and one was glanced at."""
    monkeypatch.setattr(verify, "AHEAD", 2)
    monkeypatch.setattr(verify, "cpu_count", lambda: 1)
    glances: list[str] = []
    true = verify._format_of_first_bytes
    monkeypatch.setattr(verify, "_format_of_first_bytes", lambda path: glances.append(path) or true(path))
    monkeypatch.setattr(
        verify._Clock,
        "spent",
        property(lambda self: (self.seconds or 0) and 0.1 * len(examined) + 0.05 * len(glances)),
    )
    return glances


def test_a_check_whose_time_is_over_passes_over_the_rest_the_same_in_later_runs(
    make_folder, examined, no_time_left
):
    root = make_folder({"a": 10, "b": 10})
    paths = [str(path) for path in files(root)]
    first = check_files(root, paths)
    decoded = [path for path in paths if first[path].is_decoded]
    assert len(decoded) == 6 == len(examined)
    assert {path[len(str(root)) + 1] for path in decoded} == {"a", "b"}  # a sample, not the first
    assert {first[path].format for path in paths} == {"JPEG"}
    assert not unreadable(first)
    assert check_files(root, paths[::-1]) == first
    assert {path: check.digest for path, check in verify.read_files(root, paths).items()} == {
        path: first[path].digest for path in decoded
    }
    assert len(examined) == 6
    Path(paths[0]).write_bytes(jpeg(99))
    more = check_files(root, paths)  # other files: the check goes on
    assert sum(more[path].is_decoded for path in paths) >= 6
    whole = check_files(root, paths, seconds=None)
    assert all(whole[path].digest for path in paths)


def test_a_glance_is_no_check_for_one_that_has_more_time(make_folder, no_time_left):
    root = make_folder({"a": 10, "b": 10})
    for number in range(8):
        picture(number).save(root / "a" / f"{number}.jpg", "PNG")
    paths = [str(path) for path in files(root)]
    check_files(root, paths)
    assert all(check.is_decoded for check in check_files(root, paths, seconds=None).values())


def test_first_bytes_that_are_no_image_are_looked_into(make_folder, examined, no_time_left):
    root = make_folder({"a": 10, "b": 10})
    paths = [str(path) for path in files(root)]
    for path in paths:
        Path(path).write_bytes(b"<html>not found</html>")
    found = check_files(root, paths)
    assert len(unreadable(found)) == len(examined) > 6  # those of the glance too


def test_what_cannot_be_opened_now_and_more_time_let_a_check_go_on(make_folder, examined, no_time_left):
    root = make_folder({"a": 10, "b": 10})
    paths = [str(path) for path in files(root)]
    for path in paths[::2]:  # half of all, so that some come to their turn
        Path(path).rename(f"{path}.away")
    first = check_files(root, paths)
    away = {path for path in paths if first[path].reason}
    assert away
    examined.clear()
    no_time_left.clear()
    assert check_files(root, paths) == first
    assert {str(path) for path in examined} == away  # these alone are tried again
    examined.clear()
    check_files(root, paths, seconds=1e9)
    assert len(examined) > len(away)
