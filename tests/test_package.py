"""The wheel holds all that the package needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import pkgutil, sys
from importlib import import_module
import crosslens
base = sys.argv[1]
assert crosslens.__file__.startswith(base), crosslens.__file__
names = [m.name for m in pkgutil.walk_packages(crosslens.__path__, "crosslens.") if not m.name.endswith("__main__")]
for name in names:
    assert import_module(name).__file__.startswith(base), name
from crosslens.data.tasks import passages, facts
from crosslens.reports.pages import build
assert len(passages.documents()) > 50
from pathlib import Path
assert (Path(base) / "crosslens/reports/pages/templates/page.html").is_file()
assert (Path(base) / "crosslens/data/facts.csv").is_file()
from crosslens.cli.recipe_runs import known_recipes
assert {"tour", "full", "vhd"} <= set(known_recipes())
assert (Path(base) / "crosslens/data/subjects/scenes/scenes.safetensors").is_file()
assert "crosslens.data.subjects.training.answers" in names
print(len(names))
"""


def run(*words: object, **options) -> str:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_wheel_installs_and_imports(tmp_path):
    pip = (sys.executable, "-m", "pip", "-q")
    source = tmp_path / "source"
    # A copy: building writes into the tree.
    tracked = run("git", "-C", ROOT, "ls-files", "-z").split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("crosslens-*.whl")
    installed = tmp_path / "installed"
    run(*pip, "install", "--no-deps", "--target", installed, wheel)
    printed = run(
        sys.executable, "-c", PROGRAM, installed, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(installed)}
    )
    assert int(printed.split()[-1]) > 40


DOOR = """
import sys
from time import perf_counter
began = perf_counter()
import crosslens
assert perf_counter() - began < 0.3
assert not {"torch", "transformers", "pandas", "plotly"} & set(sys.modules)
assert set(crosslens.__all__) <= set(dir(crosslens))
crosslens.open_run
assert "torch" not in sys.modules
for name in crosslens.__all__:
    assert getattr(crosslens, name) is not None, name
assert dir(crosslens) == sorted(crosslens.__all__)
from crosslens import metrics, repairs, stats
assert metrics.logit_lens and repairs.vhr and stats.group_bootstrap
try:
    crosslens.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError("a name that is not there")
"""


def test_the_public_names_come_when_they_are_asked_for():
    run(sys.executable, "-c", DOOR)
