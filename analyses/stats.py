"""The statistics, under the name that users import; see common/stats.py."""

from .common.stats import *  # noqa: F403
from .common.stats import __all__ as __all__
