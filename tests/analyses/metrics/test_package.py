"""The package's own rules: every public function is re-exported under one name, and says what it returns."""

import ast
from pathlib import Path

import pytest
from crosslens.analyses import metrics

FAMILIES = sorted(Path(metrics.__file__).parent.glob("[a-z]*.py"))


def public(file: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    nodes = ast.parse(file.read_text()).body
    return [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]


@pytest.mark.parametrize("file", FAMILIES, ids=lambda file: file.stem)
def test_family_is_re_exported_and_documented(file):
    for node in public(file):
        assert getattr(metrics, node.name).__module__ == f"{metrics.__name__}.{file.stem}", node.name
        assert ast.get_docstring(node), node.name


def test_no_name_stands_twice_or_for_a_file():
    names = [node.name for file in FAMILIES for node in public(file)]
    assert len(names) == len(set(names)) > 100
    assert not set(names) & {file.stem for file in FAMILIES}
