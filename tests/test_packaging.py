"""The wheel holds what the checkout holds: a package not listed works in the checkout and is missing from the wheel."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("flows", "tasks", "store", "steering")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    listed = set(SETTINGS["tool"]["setuptools"]["packages"])
    found = {
        "trimtab." + init.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for layer in LAYERS
        for init in (ROOT / layer).rglob("__init__.py")
    }
    assert listed == found


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


def test_tests_are_not_a_package():
    """With `__init__.py` in tests, pytest puts the repository on sys.path and `steering` is imported twice."""
    assert not list((ROOT / "tests").rglob("__init__.py")) and not (ROOT / "conftest.py").exists()
