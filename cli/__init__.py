"""The command line. A command is a dataclass: its fields are its flags, calling it does the work."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from ..data.errors import UserError
from .parsing import parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. A user's mistake is one line on stderr and exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # The answer to a user's command is not a page of other libraries' notices.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        parse(words)(shlex.join(["crosslens", *words]))
    except KeyboardInterrupt:
        sys.exit(_complain("stopped; what is done is kept, the same command goes on", 130))
    except UserError as error:
        sys.exit(_complain(str(error)))


def _complain(line: str, code: int = 2) -> int:
    print(f"crosslens: {line}", file=sys.stderr)
    return code
