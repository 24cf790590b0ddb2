"""What is read from an analysis' file without importing it is what importing it gives."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import get_type_hints

import pytest
from crosslens.analyses import find_analyses
from crosslens.analyses.reading import Source, read_analyses


@pytest.mark.parametrize("name", list(find_analyses()))
def test_reading_equals_importing(name):
    module, source = import_module(find_analyses()[name]), read_analyses()[name]
    assert source.title == (module.__doc__ or "").splitlines()[0]
    assert (source.question, source.paper) == (module.QUESTION, module.PAPER)
    own, read = module.Options(), source.Options()
    assert [(f.name, getattr(read, f.name)) for f in fields(read)] == [
        (f.name, getattr(own, f.name)) for f in fields(own)
    ]
    assert get_type_hints(source.Options) == get_type_hints(module.Options)


def source(tmp_path, text):
    path = tmp_path / "analysis.py"
    path.write_text(text)
    return Source("analysis", path)


def test_constants_follow_one_another(tmp_path):
    read = source(
        tmp_path,
        '"""Title"""\n'
        "from __future__ import annotations\n"
        "import torch_that_is_not_there\n"
        "from dataclasses import dataclass\n"
        'VERSION, QUESTION = 4, "Why?"\n'
        'PAPER: str = "arXiv 1234.56789"\n'
        "WAYS = (1, 2)\n"
        "Pair = tuple[int, int]\n"
        "@dataclass(frozen=True)\n"
        "class Base:\n    pair: Pair = WAYS\n"
        "@dataclass(frozen=True)\n"
        "class Options(Base):\n    draws: int = len(WAYS)\n",
    )
    assert (read.constant("VERSION", None), read.question, read.paper) == (4, "Why?", "arXiv 1234.56789")
    assert (read.Options().pair, read.Options().draws) == ((1, 2), 2)
    assert get_type_hints(read.Options)["pair"] == tuple[int, int]


def test_what_only_importing_would_give_is_told(tmp_path):
    read = source(
        tmp_path, "import torch\nfrom dataclasses import dataclass\n@dataclass\nclass Options:\n    t: int = torch.e\n"
    )
    with pytest.raises(NameError):
        read.Options  # noqa: B018 it is read here
