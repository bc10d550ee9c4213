"""The house: which package may import which, how large a room may be, and that nothing runs in a circle."""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TLAB = REPOSITORY / "src/tlab"
# From the ground up: a package imports those below it, and none above. Within a floor, no two import each other.
FLOORS = (
    {"core"},
    {"config", "data", "models", "pages"},
    {"finetuning", "runs"},
    {"comparison", "dashboards", "sweeps"},
    {
        "advising",
        "assembly",
        "auditing",
        "evaluating",
        "exporting",
        "explaining",
        "launchers",
        "predictions",
        "search",
        "serving",
        "studies",
    },
    {"entry points"},
)
MOST_MODULES = 16  # in a folder: what a reader takes in at a glance


def modules() -> dict[str, Path]:
    named = {".".join(file.relative_to(TLAB.parent).with_suffix("").parts): file for file in TLAB.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for name, file in named.items()}


MODULES = modules()


def imports(module: str) -> set[str]:
    """The modules of tlab that a module imports, also inside functions and for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.partition(".")[0] == "tlab"} - {module}


IMPORTS = {module: imports(module) for module in MODULES}


def package(module: str) -> str:
    """The package that a module is in; those at the top are the entry points."""
    inner = module.split(".")[1:]
    return inner[0] if inner and (TLAB / inner[0]).is_dir() else "entry points"


FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
ARROWS = {
    (package(module), package(other)): f"{module} imports {other}"
    for module, others in IMPORTS.items()
    for other in others
    if package(module) != package(other)
}


def test_every_package_has_its_floor():
    folders = {folder.name for folder in TLAB.iterdir() if folder.is_dir() and any(folder.glob("*.py"))}
    assert folders == FLOOR.keys() - {"entry points"}


def test_nothing_imports_what_lies_above_it():
    assert [line for (lower, upper), line in ARROWS.items() if FLOOR[lower] < FLOOR[upper]] == []


@pytest.mark.parametrize("graph", ["modules", "packages"])
def test_nothing_runs_in_a_circle(graph):
    edges: dict[str, set[str]] = {}
    if graph == "modules":
        # a package that holds anything but its docstring imports its own modules, and is imported by others' names
        edges = {module: {other for other in others if other in MODULES} for module, others in IMPORTS.items()}
    else:
        for lower, upper in ARROWS:
            edges.setdefault(lower, set()).add(upper)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_top_holds_the_commands_alone():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    entries = {target.partition(":")[0].removeprefix("tlab.") for target in scripts.values()}
    assert {file.stem for file in TLAB.glob("*.py")} == {"__init__", "__main__", "command", *entries}


def test_no_room_is_crowded():
    counts = {
        folder: sum(file.name != "__init__.py" for file in folder.glob("*.py"))
        for folder in TLAB.rglob("*")
        if folder.is_dir()
    }
    assert {folder.name: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_what_assembles_a_run_has_no_lambda():
    """Each name is bound before it is used: no order of statements that nobody wrote down."""
    files = [TLAB / "train.py", *(TLAB / "assembly").glob("*.py")]
    lambdas = [
        f"{file.name}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Lambda)
    ]
    assert lambdas == []


def test_one_run_fits_one_screen():
    tree = ast.parse((TLAB / "train.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    lengths = {function.name: function.end_lineno - function.lineno for function in functions}
    assert {name: length for name, length in lengths.items() if length > 75} == {}
