"""Shared by all tests: no network, shapes checked at run time, the real model where a test asks for it."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")
# Processes that share the tests (pytest -n) share the cores: threads that wait for each other's cores cost far more
# than they give. Not in the process that starts them: they would inherit its number.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

import pytest
from jaxtyping import install_import_hook

with install_import_hook(["crosslens.analyses.metrics", "crosslens.probes.model.attention"], "beartype.beartype"):
    import crosslens.analyses.metrics
    import crosslens.probes.model.attention  # noqa: F401


@pytest.fixture(scope="session")
def smollm2():
    """The real model, loaded once and proved once."""
    from crosslens import load

    return load("smollm2")
