"""The wheel holds what the checkout holds: a package not listed works in the checkout and is missing from the wheel."""

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import trimtab

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("flows", "tasks", "store", "steering")
DOOR = ROOT / "front"  # `trimtab` itself: the layers are its packages
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    listed = set(SETTINGS["tool"]["setuptools"]["packages"])
    found = {
        "trimtab." + init.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for layer in LAYERS
        for init in (ROOT / layer).rglob("__init__.py")
    }
    assert listed == {"trimtab", *found}


def test_every_folder_with_modules_is_a_package():
    for layer in LAYERS:
        for module in (ROOT / layer).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} holds modules but no __init__.py"


def test_data_files_are_within_the_patterns_that_are_packaged():
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]["*"]
    packages = {init.parent for layer in LAYERS for init in (ROOT / layer).rglob("__init__.py")}
    packaged = {path for package in packages for pattern in patterns for path in package.glob(pattern)}
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts:
                assert path in packaged, f"{path.relative_to(ROOT)} would be missing from the wheel"


def test_the_front_door_holds_no_module_of_its_own():
    """`trimtab.x` must be one of the layers: a module beside them would be a second road to somewhere."""
    assert SETTINGS["tool"]["setuptools"]["package-dir"]["trimtab"] == "front"
    files = {path.name for path in DOOR.iterdir() if path.name != "__pycache__"}
    assert files == {"__init__.py", "__init__.pyi", "py.typed"}


USE = """
import sys, trimtab
heavy = [name for name in ("torch", "zarr", "prefect", "numpy") if name in sys.modules]
assert not heavy, heavy
from trimtab.store import Catalog
from trimtab.steering import Site
assert str(Site("z", 1, 2)) == "z.1.2", "through a layer"
print(trimtab.__file__)
"""


@pytest.mark.parametrize("cwd", [ROOT, ROOT.parent], ids=["in the checkout", "elsewhere"])
def test_the_front_door_of_the_editable_install(cwd):
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert callable(trimtab.load)
    assert Path(done.stdout.strip()) == DOOR / "__init__.py"


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory) -> Path:
    """Python of a throw-away environment with the wheel in it, and this one's other packages."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source") / "trimtab"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "docs", "benchmarks", "tests")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(next(folder.glob("trimtab-*.whl"))) as wheel:
        wheel.extractall(site)
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return folder / "venv" / "bin" / "python"


def test_the_front_door_of_a_built_wheel(installed_wheel):
    done = subprocess.run([installed_wheel, "-c", USE], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert installed_wheel.parents[1] in Path(done.stdout.strip()).parents, "not the checkout"


def test_a_built_wheel_holds_every_file_of_the_checkout(installed_wheel):
    """So what can be imported from the one can be imported from the other; importing all of it takes ten seconds."""
    (site,) = (installed_wheel.parents[1] / "lib").glob("python*/site-packages")
    for folder, inside in ((DOOR, "."), *((ROOT / layer, layer) for layer in LAYERS)):
        sources = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        assert len(sources) >= 3
        for path in sources:
            packed = site / "trimtab" / inside / path.relative_to(folder)
            assert packed.exists() and packed.read_bytes() == path.read_bytes(), path.relative_to(ROOT)


def test_tests_are_not_a_package():
    """With `__init__.py` in tests, pytest puts the repository on sys.path and `steering` is imported twice."""
    assert not list((ROOT / "tests").rglob("__init__.py")) and not (ROOT / "conftest.py").exists()
