"""Progress bars: where there is somebody to see them."""

from __future__ import annotations

import sys


def is_silent() -> bool:
    """No progress into a file; a notebook's error stream is no terminal either, but shows it."""
    return not sys.stderr.isatty() and "ipykernel" not in sys.modules
