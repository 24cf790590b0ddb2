"""The scenes subject with a planted prior: behind every board it expects the company of what is in sight.

The same architecture as `scenes`, from which it was trained on a little in a world where that company always stands
there (data/subjects/training/prior.py): a subject whose hallucinations have a known cause.
"""

from pathlib import Path

from . import scenes_model

SHIPPED = Path(__file__).with_name("prior") / "scenes.safetensors"
FORM = scenes_model.FORM


def directory() -> Path:
    """As `scenes_model.directory`, for this checkpoint."""
    return scenes_model.directory(SHIPPED)


def revision() -> str:
    """As `scenes_model.revision`, for this checkpoint."""
    return scenes_model.revision(SHIPPED)
