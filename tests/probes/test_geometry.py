"""Where image tokens lie on their pictures, proved by painting: which positions change with one part of a picture."""

from __future__ import annotations

import pytest

from ..helpers.painted_families import SETTINGS, build_painted
from ..helpers.painting import prepared, prove
from ..helpers.vision_subjects import FAMILIES, build

# One wide, one tall, and two of a prompt.
SIZES = [((300, 200),), ((200, 420),), ((300, 200), (200, 420))]


@pytest.mark.parametrize("family", FAMILIES)
def test_painted_cells_are_where_the_geometry_says(family):
    opened = prepared(*build(family))
    assert all(prove(opened, sizes) for sizes in SIZES)


@pytest.mark.parametrize("family", SETTINGS)
def test_painted_cells_of_more_families(family, tmp_path):
    opened = prepared(*build_painted(family, tmp_path))
    assert all(prove(opened, sizes) for sizes in SIZES)
