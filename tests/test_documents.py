"""The documents: each command runs as typed, each link leads somewhere, and the site builds without a network."""

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from tlab.config import schema
from tlab.core.files import write_text

ROOT = Path(__file__).parents[1]
SITE = sorted((ROOT / "docs/pages").glob("*.md"))
READ = [*sorted(ROOT.glob("README*.md")), *SITE, ROOT / "benchmarks/README.md"]
LINKED = [*READ, ROOT / "CONTRIBUTING.md"]

BLOCK = re.compile(r"^```\w*\n(.*?)^```$|((?:^(?: {4}[^\n]*)?\n)+)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"(?<![\w./-])(python -m tlab\.\w+[^`\n]*|make(?: [a-z-]+)?(?: [A-Z]\w*=[^\s`]+)*(?=[`\n]|  #|$))"
)
SOON_OVER = ("data.image_size=32", "trainer.max_epochs=2", "finetune.head_epochs=1", "trainer.precision=32-true")
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none")
# Where a command has checked everything and would begin work that takes minutes; other commands do theirs.
BEGINNINGS = {
    "train": ("tlab.train.train", "tlab.sweeps.sweep.check_writable"),
    "study": ("tlab.sweeps.sweep.check_writable",),
    "tune": ("tlab.tune.fetch_weights_of", "tlab.tune.write_definition"),
    "audit": ("tlab.audit.quiet",),
    "advise": ("tlab.core.files.check_writable",),
}
DONE = ("evaluate", "predict", "compare")  # any other is composed


def blocks(text: str) -> list[str]:
    """Return the code blocks of a Markdown text, fenced or indented, with lines that go on joined."""
    found = [
        fenced or re.sub(r"^ {4}", "", indented, flags=re.MULTILINE) for fenced, indented in BLOCK.findall(text)
    ]
    return [re.sub(r"\\\n\s*", "", block).strip("\n") for block in found if block.strip()]


def commands(text: str) -> list[str]:
    """Return the commands of tlab and make in a text: in code blocks and in code within a line."""
    inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("\n", text))
    code = "\n".join([*blocks(text), *inline])
    code = re.sub(r"\$\((python[^)]*)\).*", r"\1", code)  # eval "$(python -m ...)"
    return COMMAND.findall(code)


TYPED = list(dict.fromkeys(command for file in READ for command in commands(file.read_text(encoding="utf-8"))))
OF_TLAB = [command for command in TYPED if command.startswith("python -m tlab.") and command.count(" ") > 2]
PYTHON = [
    pytest.param(block, id=f"{file.name}-{number}")
    for file in (ROOT / "README.md", *SITE)  # that in Chinese has the same
    for number, block in enumerate(blocks(file.read_text(encoding="utf-8")))
    if block.startswith(("import tlab", "from tlab"))
]


class Begun(BaseException):
    """A command has checked everything, and begins."""


def begin(*_: Any, **__: Any) -> None:
    raise Begun


def outcome(main: Callable[[], None]) -> int | str:
    """Return the exit code of a command, or that it has begun its work."""
    try:
        main()
    except Begun:
        return "begun"
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture(scope="module")
def folder(photos: Path, compose_quick: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the documents name, around one set of drawn images and one run."""
    import tlab

    folder = tmp_path_factory.mktemp("documents")
    images = sorted((photos / "train").rglob("*.png"))
    for name, table, sample in (
        ("kaggle", "train", "sample_submission"),
        ("cifar10", "trainLabels", "sampleSubmission"),
    ):
        for image in images:
            for split in ("train", "test"):
                (folder / name / split).mkdir(parents=True, exist_ok=True)
                shutil.copy(image, folder / name / split / f"{image.parent.name}_{image.name}")
        names = [(file.stem, file.stem.partition("_")[0]) for file in sorted((folder / name / "train").iterdir())]
        rows = "".join(f"{name},{label},{name[-1]}\n" for name, label in names)
        write_text(folder / name / f"{table}.csv", f"id,label,patient\n{rows}")
        rows = "".join(f"{name},red\n" for name, _ in names)
        write_text(folder / name / f"{sample}.csv", f"id,label\n{rows}")
    for link, target in {
        "photos": photos,
        "new_photos": photos / "val",
        "sketches": photos / "val",
        "test": folder / "kaggle/test",
        "sample_submission.csv": folder / "kaggle/sample_submission.csv",
    }.items():
        (folder / link).symlink_to(target)
    run = tlab.fit(compose_quick(run_dir=folder / "outputs/runs/NAME"))
    for sweep in ("NAME", "folds"):
        shutil.copytree(run, folder / f"outputs/multirun/{sweep}/aug=none/seed=0")
    return folder


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    with patch.dict(os.environ):  # commands leave in it what they tell the processes that they start
        os.environ.pop("TLAB_THIS_COMMAND", None)
        yield folder
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize("file", READ, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_command_is_overlooked(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert sum(command.startswith("python") for command in commands(text)) == text.count("python -m tlab.")


@pytest.mark.parametrize("command", OF_TLAB)
def test_a_command_runs_as_typed(command: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, module, *arguments = shlex.split(command, comments=True)
    name = module.removeprefix("tlab.")
    for place in BEGINNINGS.get(name, ()):
        monkeypatch.setattr(place, begin)
    asks = {"--help", "--cfg", "--shell-completion"} & {argument.partition("=")[0] for argument in arguments}
    resumes = name == "tune" and not any(argument.startswith("data") for argument in arguments)
    composed = resumes or name not in (*DONE, *BEGINNINGS)
    more = () if "--shell-completion" in asks else ("--cfg", "job", *QUIET) if composed and not asks else QUIET
    monkeypatch.setattr(sys, "argv", [name, *arguments, *more])
    main = importlib.import_module(module).main
    assert outcome(main) == (0 if asks or composed or name in DONE else "begun")


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs_as_typed(block: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tlab

    compose = tlab.compose
    monkeypatch.setattr(tlab, "compose", lambda *overrides: compose(*overrides, *SOON_OVER))
    exec(compile(block, "document", "exec"), {})


def test_both_languages_have_the_same_code() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    assert commands(chinese) == commands(english)
    without_remarks = [
        [re.sub(" +#.*", "", block) for block in blocks(text) if block.startswith("import")]
        for text in (english, chinese)
    ]
    assert without_remarks[0] == without_remarks[1] != []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_knows_each_goal(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for command in (command for command in TYPED if command.startswith("make")):
        result = subprocess.run(
            [*shlex.split(command), "-n"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"


def anchors(file: Path) -> set[str]:
    """Return the names by which headings of a Markdown file are linked."""
    text = BLOCK.sub("\n", file.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", LINKED, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(file: Path) -> None:
    """Those into pages of which a part is made when the site is built are checked then."""
    text = re.sub(r"`[^`\n]+`", "", BLOCK.sub("\n", file.read_text(encoding="utf-8")))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        told = target.read_text(encoding="utf-8") if target.suffix == ".md" and target.is_file() else ""
        made_later = "<!-- " in told or told.startswith("--8<--")
        if "://" not in link and not (target.exists() and (not anchor or made_later or anchor in anchors(target))):
            broken.append(link)
    named = re.findall(r"python (benchmarks/[\w/]+\.py)", file.read_text(encoding="utf-8"))
    assert broken + [script for script in named if not (ROOT / script).is_file()] == []


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_key_with_its_rules() -> None:
    page = hook("reference").on_page_markdown((ROOT / "docs/pages/configuration.md").read_text(encoding="utf-8"))
    rows = dict(re.findall(r'^\| <a id="([\w.]+)"></a>`.*?` \| (.*) \|$', page, re.MULTILINE))
    keys = {
        f"{command}.{name}": key
        for command, node in schema.COMMANDS.items()
        for name, key in schema.keys(node).items()
    }
    assert rows.keys() == {name for name, key in keys.items() if key.metadata["help"]}
    assert rows["train.data.batch_size"].startswith("`32` | integer, at least 1 | images in a training step")
    assert rows["train.data.labels"].startswith("`labels.csv` | text |")
    assert rows["train.data.root"].startswith(" | text or null | DIR/train")
    assert rows["train.loss.tau"].startswith("`1.0` | number, at least 0 |")
    assert "`skip`, `read`, `error`" in rows["train.data.unreadable"]


def test_the_drawn_plans_are_those_of_the_runs() -> None:
    drawings = hook("drawings")
    drawn = drawings.draw_plan("last", drawings.plan_of("last"))
    told = re.findall(r"<title>epoch 0, (\w+): (.*?)</title>", drawn)
    assert told == [*((f"{name}", "frozen") for name in ("stem", "layer1", "layer2", "layer3")), *told[4:]]
    assert told[4:] == [("layer4", "rate x 0.3"), ("head", "rate x 1")]


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_nothing_of_a_network(tmp_path: Path, browser: Any) -> None:
    make = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        str(ROOT / "docs/mkdocs.yml"),
        "-d",
        str(tmp_path),
    ]
    result = subprocess.run(make, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    pages = {file.with_suffix(".html").name for file in SITE}
    for name in pages:
        page.goto(f"file://{tmp_path / name}")
    page.locator(".md-search__input").focus()
    page.keyboard.type("BatchNorm")
    page.wait_for_selector(".md-search-result__item")
    assert {url for url in asked if not url.startswith(("file:", "data:"))} == set()
    assert pages <= {Path(url).name for url in asked}
