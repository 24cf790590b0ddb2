"""python -m crosslens.tests.sweep: the table of all types of the installed transformers; goes on where it was killed.

--only llama vision:gemma3 text:gemma4_text:31B   these types alone (all variants of a bare name)
--out tests/sweep/verdicts.md                      the table, as it is kept; beside it the verdicts as verdicts.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from crosslens import probes

from .building import Type, all_types
from .judging import Verdict
from .processes import judged

ORDER = ("wrong", "traceback", "exact", "in part", "refused", "not built")
HEAD = """# Model types of transformers {version}

Every type registered for causal language models (text) or for image-text-to-text (vision), as a tiny random model with
the type's own wiring: opened, checked, and compared with plain eager forwards (`tests/sweep`). *exact*: states, z and
patterns, a knockout and a patch of every head, and padding. *in part*: exact where layers have a pattern.

Types marked bfloat16 are compared with eager bfloat16, within its roundings. *vision tower*: whether its own sites
are proved as well; where not, it is refused alone.

{counts}

| type | kind | verdict | reason | sweeps | images | vision tower |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Judge what is not judged yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("verdicts.md"))
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    types = [one for one in all_types() if not asked.only or {one[1], ":".join(filter(None, one))} & set(asked.only)]
    file = asked.out.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    known = read_verdicts(file)
    for one, verdict in judged([one for one in types if one not in known], asked.jobs):
        known[one] = verdict
        print(*filter(None, one), verdict.verdict, verdict.reason[:200], sep="\t", flush=True)
        file.write_text(json.dumps([_state(), list(known.items())], indent=0), "utf-8")
    asked.out.write_text(table({one: known[one] for one in types}), "utf-8")
    print(_counts(known), asked.out, file=sys.stderr)


def read_verdicts(file: Path) -> dict[Type, Verdict]:
    """What is judged already, by the same code on the same transformers."""
    state, verdicts = json.loads(file.read_text("utf-8")) if file.exists() else ("", [])
    return {tuple(one): Verdict(*found) for one, found in verdicts} if state == _state() else {}


def _state() -> str:
    """Whatever verdicts depend on."""
    files = sorted([*Path(probes.__path__[0]).rglob("*.py"), *Path(__file__).parent.glob("*.py")])
    return transformers.__version__ + " " + sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def table(verdicts: dict[Type, Verdict]) -> str:
    """The page: counts, then a line a type, what is wrong first."""
    rows = sorted(verdicts.items(), key=lambda item: (ORDER.index(item[1].verdict), item[0]))
    lines = "".join(_line(*item) for item in rows)
    return HEAD.format(version=transformers.__version__, counts=_counts(verdicts)) + lines


def _line(one: Type, found: Verdict) -> str:
    sweeps = found.replay and f"whole forwards: {found.replay}"
    cells = [" ".join(filter(None, one[1:])), one[0], found.verdict, found.reason, sweeps, found.images, found.tower]
    return f"| {' | '.join(map(_cell, cells))} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _counts(verdicts: dict[Type, Verdict]) -> str:
    counts = Counter(found.verdict for found in verdicts.values())
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER if counts[verdict])


if __name__ == "__main__":
    main()
