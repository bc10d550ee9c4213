"""Set-up and packaging: what the Makefile promises, and a wheel that works from any folder."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tlab

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder, untouched by a make that runs these tests."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder, with a space in its name, that has what make setup reads."""
    folder = tmp_path / "my checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, folder)
    return folder


@needs_make
def test_make_alone_lists_every_command() -> None:
    rules = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    listed = re.findall(r"^  make (\S+)  +\S", make(ROOT).stdout, re.MULTILINE)
    assert listed == rules
    assert {"help", "setup", "demo", "test", "lint", "bench"} <= set(listed)


@needs_make
def test_setup_with_an_old_python_ends_in_one_sentence(checkout: Path) -> None:
    result = make(checkout, "setup", "PYTHON=false")
    assert result.returncode != 0
    assert "tlab needs Python 3.11 or newer" in result.stderr
    assert not (checkout / ".venv").exists()


@pytest.fixture
def stamp(checkout: Path) -> Path:
    """The mark of a set-up that is done, newer than all that it depends on."""
    stamp = checkout / ".venv" / ".ready"
    stamp.parent.mkdir()
    stamp.write_text(f"{checkout.resolve()}\n", encoding="utf-8")
    return stamp


@needs_make
@pytest.mark.parametrize(("code", "goes_on"), [(130, True), (0, False)])
def test_a_demo_that_was_stopped_goes_on(checkout: Path, stamp: Path, code: int, goes_on: bool) -> None:
    """The interpreter notes how it was called, and ends as a run that is stopped, or over."""
    python = checkout / ".venv/bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$TLAB_COMMAND: $@" > called\nexit {code}\n', encoding="utf-8")
    python.chmod(0o755)
    (checkout / "conf").mkdir()
    own_photos = re.search(r"python -m tlab\.train (.*)", make(checkout, "demo").stdout)
    assert (own_photos is None) == goes_on
    assert own_photos is None or tlab.compose(*own_photos[1].split()).backbone.weights == "packaged"
    assert (checkout / "called").read_text().startswith("make demo: -m tlab.train experiment=demo hydra.run.dir=")
    assert (checkout / "outputs/.demo").exists() == goes_on
    (checkout / "outputs/.demo").write_text("outputs/runs/earlier\n")
    make(checkout, "demo")
    assert (checkout / "called").read_text().endswith("hydra.run.dir=outputs/runs/earlier\n")


@needs_make
def test_a_demo_with_other_settings_begins_anew(checkout: Path, stamp: Path) -> None:
    (checkout / "outputs").mkdir()
    (checkout / "outputs/.demo").write_text("outputs/runs/earlier\n")
    os.utime(checkout / "outputs/.demo", (0, 0))
    (checkout / "conf").mkdir()
    assert "earlier" not in make(checkout, "-n", "demo").stdout


# Stands for Python: makes a .venv of itself, and notes what it is to remove and the locks it is to install; that
# named in `broken` fails.
PYTHON = """#!/bin/sh
case "$*" in
  *"venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo new >> installed ;;
  *"pip uninstall"*) for package; do :; done; echo "-$package" >> installed ;;
  *"pip install"*.lock) for lock; do :; done; echo "$lock" >> installed; ! grep -qsx "$lock" broken ;;
esac
"""


class Clone:
    """A checkout in which make is given again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "python").write_text(PYTHON, encoding="utf-8")
        (folder / "python").chmod(0o755)

    def make(self, goal: str) -> list[str]:
        """Return what it does to .venv: makes it anew, removes a package, installs what a lock names."""
        (self.folder / "installed").write_text("")
        make(self.folder, goal, f"PYTHON={self.folder / 'python'}")
        return (self.folder / "installed").read_text().split()

    def change(self, name: str) -> None:
        """Make a file newer than both stamps, which are newer than the other files."""
        inputs, stamps = (*LOCKS, "pyproject.toml"), (".venv/.ready", ".venv/.ready-dev")
        for age, file in enumerate((*inputs, *stamps, name)):
            if (self.folder / file).exists():
                os.utime(self.folder / file, (age, age))


@pytest.fixture
def clone(checkout: Path) -> Clone:
    return Clone(checkout)


@needs_make
def test_tests_add_to_what_the_demo_needs(clone: Clone) -> None:
    base, dev = LOCKS
    assert clone.make("demo") == ["new", base]
    assert clone.make("test") == [dev]
    assert clone.make("lint") == clone.make("demo") == clone.make("setup") == []
    clone.change("pyproject.toml")
    assert clone.make("setup") == [dev]


@needs_make
def test_what_tests_need_stays_when_a_lock_changes(clone: Clone) -> None:
    base, dev = LOCKS
    assert clone.make("test") == ["new", base, dev]
    clone.change(base)
    assert clone.make("demo") == [dev]
    clone.change(dev)
    assert clone.make("demo") == []
    assert clone.make("test") == [dev]
    assert clone.make("test") == []


@needs_make
def test_only_what_a_lock_has_named_goes(clone: Clone) -> None:
    lock = clone.folder / LOCKS[0]
    pinned = lock.read_text(encoding="utf-8")
    lock.write_text(f"{pinned}old-tool==1.0 ; python_version < '4'\nold-name==1.0\n", encoding="utf-8")
    assert clone.make("setup") == ["new", LOCKS[0]]
    lock.write_text(f"{pinned}old-tool==2.0\n", encoding="utf-8")
    clone.change(LOCKS[0])
    assert clone.make("setup") == ["-old-name", LOCKS[0]]
    assert clone.make("test") == ["-old-tool", LOCKS[1]]


@needs_make
@pytest.mark.parametrize("lock", LOCKS)
def test_an_installation_that_broke_off_is_begun_anew(clone: Clone, lock: str) -> None:
    (clone.folder / "broken").write_text(lock)
    assert clone.make("test")[-1] == lock
    (clone.folder / "broken").unlink()
    assert clone.make("demo") == ["new", LOCKS[0]]


@needs_make
def test_a_moved_folder_gets_what_is_needed_first(clone: Clone) -> None:
    clone.make("test")
    clone.folder = clone.folder.rename(clone.folder.with_name("moved"))
    assert clone.make("demo") == ["new", LOCKS[0]]
    assert clone.make("test") == [LOCKS[1]]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Output of a command that has to succeed."""
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from the source distribution, as `pip install .` and an upload would have it."""
    out = tmp_path_factory.mktemp("dist")
    uv = (sys.executable, "-m", "uv", "build", "--quiet", "--offline", "--no-build-isolation")
    run(*uv, "--python", sys.executable, "--out-dir", out, ROOT, cwd=out)
    assert len(list(out.glob("*.tar.gz"))) == 1
    (built,) = out.glob("*.whl")
    return built


def shipped(folder: Path) -> set[str]:
    """Files below a folder, relative to it, without Python's caches."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in files}


def test_the_wheel_holds_code_configuration_and_weights(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    configuration = {f"tlab/conf/{name}" for name in shipped(ROOT / "conf")}
    plugins = {f"hydra_plugins/{name}" for name in shipped(ROOT / "src" / "hydra_plugins")}
    assert names == {f"tlab/{name}" for name in shipped(ROOT / "src" / "tlab")} | plugins | configuration


def test_an_installed_wheel_composes_its_configuration_anywhere(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "else where"
    elsewhere.mkdir()
    uv = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps")
    run(*uv, "--python", sys.executable, "--target", target, wheel, cwd=elsewhere)
    # PYTHONPATH goes before site-packages, and so before an editable install of this checkout.
    where = run(sys.executable, "-c", "import tlab; print(tlab.__file__)", cwd=elsewhere, PYTHONPATH=str(target))
    assert Path(where.strip()) == target / "tlab" / "__init__.py"
    command = (sys.executable, "-m", "tlab.train", "--cfg", "job", "data.root=photos")
    assert "root: photos" in run(*command, cwd=elsewhere, PYTHONPATH=str(target))
    assert list(elsewhere.iterdir()) == []
