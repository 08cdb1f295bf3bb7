"""What the design promises of the code itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORBIDDEN = {"mlcore": ("django", "triage", "reviews"), "triage": ("reviews",)}
SOURCES = [path for folder in ("mlcore", "triage", "reviews") for path in (ROOT / folder).rglob("*.py")]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in FORBIDDEN[package]
    }
    assert not wrong


def test_web_processes_never_import_torch():
    code = (
        "import sys; from triage.wsgi import application; from django.urls import reverse; reverse('home'); "
    )
    code += "print(sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_every_setting_of_the_environment_is_documented():
    text = (ROOT / "triage" / "settings.py").read_text() + (ROOT / "triage" / "services.py").read_text()
    names = set(re.findall(r"""(?:env\.\w+|required|environ\.get)\(\s*"([A-Z_]+)\"""", text))
    documented = (ROOT / "docs" / "deployment.md").read_text()
    assert len(names) > 8
    assert not {name for name in names if f"`{name}`" not in documented}


def test_pages_name_no_foreign_address():
    pages = [
        *(ROOT / "templates").rglob("*.html"),
        *(ROOT / "static").rglob("*.css"),
        *(ROOT / "static").rglob("*.js"),
    ]
    assert len(pages) > 10
    foreign = [
        f"{path.relative_to(ROOT)}: {match}"
        for path in pages
        for match in re.findall(
            r"""(?:src|href|url|fetch|import)\W{1,3}((?:https?:)?//[^\s"')]+)""", path.read_text()
        )
    ]
    assert not foreign


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_stub_or_leftover(path):
    assert not re.search(
        r"\b(TODO|FIXME|XXX|NotImplemented)\b|breakpoint\(|print\(\s*f?[\"']debug", path.read_text()
    )
