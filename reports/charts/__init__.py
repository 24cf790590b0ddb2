"""Charts: plotly figures from tables, in one look. Each takes a DataFrame and returns a Figure."""

from .curves import lines, spectrum, spikes
from .dots import dots
from .graphs import token_graph
from .grids import token_grid
from .maps import head_map, heat_map
from .pictures import picture_maps, word_pictures
from .scatter import scatter
from .style import captioned, sample, token_label
from .words import shaded_words

__all__ = [
    "captioned",
    "dots",
    "head_map",
    "heat_map",
    "lines",
    "picture_maps",
    "sample",
    "scatter",
    "shaded_words",
    "spectrum",
    "spikes",
    "token_graph",
    "token_grid",
    "token_label",
    "word_pictures",
]
