"""Maps over pictures: drawn where rows and columns are known, else said in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from crosslens import Subject
from crosslens.analyses.attention import sinks
from crosslens.analyses.lenses import image_lens
from crosslens.data.example import Example, Segment
from crosslens.data.tasks import Task
from crosslens.probes.runs.run import Settings, run
from crosslens.reports.figures import image_lens as lens_figures
from crosslens.reports.figures import sinks as sink_figures
from crosslens.reports.pages import build as pages

from ..helpers.vision_subjects import build, picture

SIZES = [(30, 30), (60, 30), (30, 60)]


def examples(n: int | None = None, seed: int = 0, *, tokenizer: Any) -> list[Example]:
    """Pictures of three shapes, each of its own group."""
    made = []
    for i in range(n or 6):
        segments = (Segment("image", picture(i, SIZES[i % 3])), Segment("question", " w4 w5"))
        made.append(Example(f"e{i}", f"g{i}", segments, " w6", (" w7",)))
    return made


def analyse(family, out, **settings):
    module: Any = SimpleNamespace(
        __doc__="Shapes", VERSION=1, TEMPLATE="raw", BOS=True, SOURCE="tests", examples=examples
    )
    options = sinks.Options(roles=("special", "question", "image"), dimensions=(3,), tau=2.0)
    analyses = {"sinks": (sinks, options), "image_lens": (image_lens, image_lens.Options(shown=3))}
    opened = Subject(*build(family), name=f"tiny-{family}")
    for name, value in settings.items():
        setattr(opened.model.config, name, value)
        setattr(opened.processor, name, value)
    directories = run(opened, Task("shapes", module, {}), analyses, Settings(out=out))
    return [{p.stem: pd.read_parquet(p) for p in (d / "tables").glob("*.parquet")} for d in directories]


@pytest.mark.parametrize(
    ("family", "expected"),
    [("qwen2_vl", [[2, 2], [1, 2], [2, 1]]), ("llava_next", [[4, 4], [2, 4], [4, 2]])],
)
def test_maps_are_drawn_in_their_pictures_shape(family, expected, tmp_path):
    """LLaVA-NeXT: of its tiles joined, each cell once; the thumbnail and the newlines are in no map."""
    on_sinks, on_lens = analyse(family, tmp_path)
    for table in (on_sinks["on_pictures"], on_lens["grid"].query("state == 0 and rank == 1")):
        assert not table.duplicated(["example", "row", "column"]).any()
        shapes = table.groupby("example")[["row", "column"]].max() + 1
        assert shapes.loc[["e0", "e1", "e2"]].to_numpy().tolist() == expected
        assert table.groupby("example").size().loc[["e0", "e1", "e2"]].tolist() == [r * c for r, c in expected]
    assert "on-pictures" in sink_figures.figures(on_sinks)
    shown = lens_figures.figures(on_lens)["grids"].layout.images
    assert [[image.sizey, image.sizex] for image in shown] == expected
    assert "unmapped" not in on_lens.keys() | on_sinks.keys()
    assert on_sinks["patches"].empty  # no mean over pictures of different shapes


def test_what_is_not_known_is_not_drawn_and_is_said(tmp_path):
    """With its class token a LLaVA's picture is a token more than its patches."""
    on_sinks, on_lens = analyse("llava", tmp_path, vision_feature_select_strategy="full")
    assert not {"on_pictures", "pictures"} & set(on_sinks)
    assert not {"on-pictures", "patches"} & set(sink_figures.figures(on_sinks))
    assert not [name for name in lens_figures.figures(on_lens) if name == "grids"]
    assert len(on_lens["grid"]) > 0
    for tables in (on_sinks, on_lens):
        assert tables["unmapped"]["n"].tolist() == [6]
    of_runs = [page for page in pages.build(tmp_path) if page.name.startswith(("sinks.", "image_lens."))]
    assert len(of_runs) == 2
    for page in of_runs:
        assert "No map is drawn over these pictures: the numbers of this model" in page.read_text()
