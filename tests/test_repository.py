"""The repository's own rules: layout, direction of imports, what is committed, the lock."""

import ast
import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "tlab"

TOP_LEVEL = {
    *(
        ".ci",
        ".gitignore",
        ".pre-commit-config.yaml",
        "LICENSE",
        "Makefile",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "README.md",
        "README.zh.md",
        "pyproject.toml",
    ),
    *(
        "requirements.lock",
        "requirements-dev.lock",
        "benchmarks",
        "conf",
        "docs",
        "notebooks",
        "outputs",
        "src",
        "tests",
    ),
}
WEIGHTS = "src/tlab/weights/mobilenet_v3_small_tinyimagenet64.pth"  # the only file above 1 MB

LIGHTNING = {"data/datamodule.py", "models/module.py"}  # the only files of data and models that may import it


def committed() -> list[str]:
    """Paths of the tracked files; before the first commit or without git, of all files that are not ignored."""
    for options in (["-c"], ["-co", "--exclude-standard"]):
        try:
            found = subprocess.run(
                ["git", "ls-files", "-z", *options], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
        except (OSError, subprocess.CalledProcessError):
            break
        if found:
            return [path for path in found.split("\0") if path and (ROOT / path).is_file()]
    ignored = re.compile(r"(^|/)(\.git|\.venv|\.[a-z]+_cache|\.cache|__pycache__|build|dist|uv\.lock)(/|$)")
    files = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return [f for f in files if not ignored.search(f) and (not f.startswith("outputs/") or "gitkeep" in f)]


def imported_modules(file: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it; `from a import b` counts as `a` and `a.b`."""
    package = ("tlab", *file.relative_to(SRC).parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def test_the_top_level_holds_the_fixed_entries_only() -> None:
    assert {path.split("/")[0] for path in committed()} == TOP_LEVEL


@pytest.mark.parametrize("package", ["data", "models"])
def test_lightning_stays_in_the_wrappers(package: str) -> None:
    files = {file.relative_to(SRC).as_posix(): file for file in (SRC / package).rglob("*.py")}
    users = {
        name
        for name, file in files.items()
        if any(re.match(r"(pytorch_)?lightning(\.|$)", module) for module in imported_modules(file))
    }
    assert users <= LIGHTNING


def test_every_source_file_says_what_it_is_for() -> None:
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in SRC.rglob("*.py")}
    assert [str(file.relative_to(SRC)) for file, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_no_file_is_a_drawer_of_odds_and_ends() -> None:
    assert [path for path in committed() if Path(path).stem in {"utils", "util", "helpers", "misc"}] == []


def test_committed_files_name_no_machine_and_no_package_host() -> None:
    hosts = ["files.python" + "hosted", "pypi" + ".org/simple", "download.pytorch" + ".org/whl"]  # not this file
    pattern = re.compile(rf"{'|'.join(map(re.escape, hosts))}|(?<![\w.~}}-])/(?:home|root|Users|work)/")
    found = []
    for path in committed():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:  # binary
            continue
        found += [f"{path}: {match.group()}" for match in pattern.finditer(text)]
    assert found == []


def test_nobody_is_told_to_install_a_package_named_tlab() -> None:
    """On the index that is somebody else's; the extras that pyproject.toml names are looked up in itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = "|".join(project["optional-dependencies"])
    told = re.compile(rf"\b(?:pip|pipx|uv)\b[^\n`.,;]* ['\"]?tlab(?![\w-])|\btlab\[(?:{extras}|\{{)")
    found = []
    for path in committed():
        if path not in ("pyproject.toml", Path(__file__).relative_to(ROOT).as_posix()):
            text = (ROOT / path).read_bytes().decode(errors="ignore")
            found += [f"{path}: {match.group()}" for match in told.finditer(text)]
    assert found == []


def test_in_ci_a_missing_browser_is_a_failure(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="Chromium"):
        request.getfixturevalue("browser")


def test_committed_files_are_small() -> None:
    assert [path for path in committed() if (ROOT / path).stat().st_size > 1e6] == [WEIGHTS]


def pins(lock: str) -> dict[str, set[str]]:
    """Package -> its versions: more than one where they depend on Python's."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    versions: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            versions.setdefault(canonicalize_name(pin.name), set()).add(str(pin.specifier).removeprefix("=="))
    return versions


def test_the_locks_satisfy_pyproject() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    base = [*project["dependencies"], *pyproject["dependency-groups"]["setup"]]
    extras = [
        wants for name, wants in project["optional-dependencies"].items() if name != "bench"
    ]  # peers: not locked
    wanted = {"requirements.lock": base, "requirements-dev.lock": [*base, *itertools.chain.from_iterable(extras)]}
    for lock, requirements in wanted.items():
        locked = pins(lock)
        for requirement in map(Requirement, requirements):
            if requirement.name != project["name"]:
                versions = locked.get(canonicalize_name(requirement.name), set())
                met = versions and all(map(requirement.specifier.contains, versions))
                assert met, f"pyproject.toml wants {requirement}, {lock} has {versions or 'none'}: run make lock"


def test_what_tests_add_changes_nothing_that_commands_need() -> None:
    dev = pins("requirements-dev.lock")
    assert {name: dev.get(name) for name in pins("requirements.lock")} == pins("requirements.lock")
