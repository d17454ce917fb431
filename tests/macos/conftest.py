"""What ``make macos`` has built, and the scripts that check it."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "macos"))


@pytest.fixture(scope="session")
def deps():
    return ROOT / "build" / "macos-deps"


@pytest.fixture(scope="session")
def wheel():
    (path,) = (ROOT / "dist" / "macos").glob("*.whl")
    return path
