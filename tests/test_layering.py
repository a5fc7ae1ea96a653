"""Who may know whom: flows -> tasks -> {steering, store}. The direction is a test, so it cannot erode; so is what names
say: a variable holds what its name says, and a class name means one thing."""

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import trimtab
import trimtab.steering
import trimtab.store

ROOT = Path(__file__).resolve().parents[1]
MAY_KNOW = {
    "front": {"tasks"},
    "store": {"store"},
    "steering": {"steering"},
    "tasks": {"tasks", "steering", "store"},
    "flows": {"flows", "tasks"},
}
FOREIGN = {
    "front": {"torch", "transformers", "zarr", "icechunk", "h5py", "prefect"},
    "store": {"torch", "transformers", "prefect", "safetensors"},
    "steering": {"zarr", "icechunk", "prefect", "h5py", "xarray"},
    "tasks": set(),
    "flows": {"torch", "transformers", "zarr", "icechunk", "h5py"},
}
HOOKS = {
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_module_forward_hook",
}
FILES = sorted(path for layer in MAY_KNOW for path in (ROOT / layer).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found.append((node, node.module or ""))
            if node.module == "trimtab":
                found += [(node, f"trimtab.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_file_knows_only_what_its_layer_may(path):
    layer, tree = path.relative_to(ROOT).parts[0], parsed(path)
    for node, name in imported(tree):
        top, _, rest = name.partition(".")
        where = f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
        if top == "trimtab" and rest:
            assert rest.split(".")[0] in MAY_KNOW[layer], f"{where}: {layer} may know {sorted(MAY_KNOW[layer])}"
            assert not inside_function(tree, node), f"{where} inside a function, which hides who knows whom"
        assert top not in FOREIGN[layer], f"{where}: {layer} works without it"


def rooms_known() -> dict[str, dict[str, str]]:
    """For every room, the rooms it imports from, each with one import as the example; names under TYPE_CHECKING too.

    A room is a folder of modules, or a single module at a layer's root.
    """
    modules = {module_name(path): room_of(path) for path in FILES}
    edges: dict[str, dict[str, str]] = {}
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom):
                for name in {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}:
                    room = modules.get(name)
                    if room is not None and room != room_of(path):
                        example = f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
                        edges.setdefault(room_of(path), {}).setdefault(room, example)
    return edges


def module_name(path: Path) -> str:
    return ".".join(("trimtab", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def room_of(path: Path) -> str:
    layer, *inside = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((layer, *(inside[:-1] or inside)))


def test_there_is_no_circle_between_rooms():
    """What a room does can be read without reading the rooms that use it."""
    edges = rooms_known()
    sorter = TopologicalSorter({room: set(others) for room, others in edges.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = error.args[1]
        steps = [edges[user][used] for used, user in pairwise(circle)]
        pytest.fail(f"{' -> '.join(reversed(circle))}: {'; '.join(steps)}")


def inside_function(tree: ast.AST, node: ast.stmt) -> bool:
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))
    return any(inner is node for function in functions for inner in ast.walk(function))


def test_hooks_are_registered_in_one_file():
    for path in FILES:
        calls = {n.attr for n in ast.walk(parsed(path)) if isinstance(n, ast.Attribute)} & HOOKS
        assert not calls or path == ROOT / "steering/model/hooks.py", f"{path} registers hooks: {calls}"


INSIDES = {"children", "named_children", "modules", "named_modules", "get_text_config", "get_output_embeddings"}
NOT_OF_A_MODEL = {"ndim", "dtype", "__dict__", "sequences", "_eos_token_tensor"}  # of tensors, processors and results


def test_only_the_anatomy_knows_what_is_inside_a_model():
    """What differs between families (names of parts, keys of a configuration) is asked of the Anatomy. Outside
    `steering/model/` nothing looks a part up by name, walks through modules, or reads the text configuration."""
    for path in (ROOT / "steering").rglob("*.py"):
        if not path.is_relative_to(ROOT / "steering/model"):
            guesses = [node for node in ast.walk(parsed(path)) if looks_inside_a_model(node)]
            assert not guesses, f"{path.relative_to(ROOT)}:{guesses[0].lineno}: {ast.unparse(guesses[0])}"


def looks_inside_a_model(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        of_configuration = isinstance(node.value, ast.Attribute) and node.value.attr == "text_config"
        return of_configuration and node.attr != "model_type"
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in INSIDES
    called = ast.unparse(node.func)
    if called in ("getattr", "hasattr"):
        name = node.args[1]
        return isinstance(name, ast.Constant) and name.value not in NOT_OF_A_MODEL
    return called == "next" and ".parameters()" in ast.unparse(node)


def test_what_is_loaded_is_data():
    """No pickle, no eval."""
    for path in FILES:
        tree = parsed(path)
        modules = {name.split(".")[0] for _, name in imported(tree)}
        assert not modules & {"pickle", "dill", "cloudpickle", "marshal"}, path
        called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert not called & {"eval", "exec"}, path


EVERY_PUBLIC_NAME = "[getattr(trimtab.steering, name) for name in trimtab.steering.__all__]"


@pytest.mark.parametrize(
    ("module", "then", "without"),
    [
        ("trimtab", "", ("torch", "transformers", "prefect", "zarr", "numpy")),
        ("trimtab.store", "", ("torch", "transformers", "prefect")),
        ("trimtab.store", "trimtab.store.ActivationStore", ("torch", "transformers", "prefect", "h5py", "xarray")),
        ("trimtab.steering", "", ("torch", "zarr", "icechunk", "prefect", "h5py")),
        ("trimtab.steering", EVERY_PUBLIC_NAME, ("zarr", "icechunk", "prefect", "h5py")),
    ],
)
def test_importing_a_layer_leaves_the_others_out(module, then, without):
    code = f"import sys, {module}; {then or None}; print(*[name for name in {without!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [], done.stdout + done.stderr[-800:]


@pytest.mark.parametrize("package", [trimtab, trimtab.steering, trimtab.store])
def test_no_public_name_is_hidden_by_a_module(package):
    """`from trimtab.steering import fold` would give the module `fold` once anything had imported it."""
    modules = {path.stem for folder in package.__path__ for path in Path(folder).iterdir()} - {"__init__"}
    assert not modules & set(package.__all__)


@pytest.mark.parametrize("package", [trimtab, trimtab.steering])
def test_what_is_typed_is_what_is_found(package):
    """The stub that type checkers read, and the lookup at run time."""
    stub = ast.parse(Path(package.__path__[0], "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.asname: (node.module, alias.name) for node in imports for alias in node.names}
    assert typed.keys() == set(package.__all__) <= set(dir(package))
    for name, (module, attribute) in typed.items():
        assert getattr(package, name) is getattr(importlib.import_module(str(module)), attribute)


PLACEHOLDERS = {"found", "asked", "known", "chosen", "made", "kept", "held", "given", "taken", "seen"}
PUBLISHED = {  # keys of stored verdicts and of `--json`: their readers know them by these names
    ("steering/price/result.py", "asked"),
    ("steering/judge/verdict.py", "asked"),
    ("steering/judge/verdict.py", "kept"),
    ("tasks/admin/doctor.py", "found"),
    ("tasks/references.py", "given"),
}


def placeholders(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything that is bound under a placeholder: variables, parameters, attributes and fields."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                if name.strip("_") in PLACEHOLDERS:
                    yield node.lineno, name


@pytest.mark.parametrize(
    "code", ["found = 1", "def f(asked): ...", "self.seen = 1", "for kept in x: ...", "given: int"]
)
def test_a_placeholder_is_noticed(code):
    assert list(placeholders(ast.parse(code)))


def test_every_name_says_what_it_holds():
    for path in FILES:
        place = path.relative_to(ROOT).as_posix()
        bound = [(line, name) for line, name in placeholders(parsed(path)) if (place, name) not in PUBLISHED]
        assert not bound, f"{place}:{bound[0][0]}: '{bound[0][1]}' says nothing of what it holds; use the noun"


def test_one_class_one_name():
    """Public classes of all rooms: a name means the same everywhere."""
    places = defaultdict(list)
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(ROOT).as_posix())
    namesakes = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert not namesakes
