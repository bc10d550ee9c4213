from tlab.data import progress_bar


def test_the_bar_passes_every_item_on_and_shows_how_many(monkeypatch, capsys):
    monkeypatch.setattr(progress_bar, "SHOWN_AFTER", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert list(progress_bar.shown(iter(range(5)), "Counting", 5)) == [0, 1, 2, 3, 4]
    drawn = capsys.readouterr().err
    assert "Counting" in drawn
    assert "/5" in drawn


def test_short_work_shows_no_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert list(progress_bar.shown(range(5), "Counting", 5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
