"""Charts: plotly figures from tables, in one look. Each takes a DataFrame and returns a Figure."""

from .bars import bars
from .curves import lines, spectrum, spikes
from .maps import head_map, heat_map, token_grid
from .pictures import picture_maps
from .scatter import scatter
from .style import captioned, sample, token_label
from .words import shaded_words

__all__ = [
    "bars",
    "captioned",
    "head_map",
    "heat_map",
    "lines",
    "picture_maps",
    "sample",
    "scatter",
    "shaded_words",
    "spectrum",
    "spikes",
    "token_grid",
    "token_label",
]
