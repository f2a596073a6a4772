"""Labels of exposures that show a part of the mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from campaigns import draw_campaign

from permil.spots.catalog import SpotCatalog
from permil.spots.measurements import common_window


def _cut(catalog: SpotCatalog, first_i: int, first_j: int) -> SpotCatalog:
    """Return what is left of a catalog without its first columns and rows, labelled as `find_grid` would: from 0."""
    part = catalog.select((catalog.grid_i >= first_i) & (catalog.grid_j >= first_j))
    return part.with_labels(part.grid_i - first_i, part.grid_j - first_j)


def _labels(catalog):
    return set(zip(catalog.grid_i.tolist(), catalog.grid_j.tolist(), catalog.flux.tolist(), strict=True))


def test_parts_are_placed_by_their_fluxes():
    campaign = draw_campaign(np.random.default_rng(0), exposures=6, fixed=True)
    whole = campaign.catalogs
    parts = [*whole[:2], _cut(whole[2], 3, 0), _cut(whole[3], 0, 5), _cut(whole[4], 4, 2), whole[5]]
    placed = common_window(parts, [True, True, False, False, False, True], columns=15, rows=15)
    assert placed.decided
    assert not placed.left_out
    for found, true in zip(placed.catalogs, whole, strict=True):
        assert _labels(found) <= _labels(true)


def test_where_nothing_is_decided_labels_agree_with_each_other():
    campaign = draw_campaign(np.random.default_rng(1), exposures=4, fixed=True)
    shifts = [(2, 1), (4, 0), (0, 3), (3, 3)]
    parts = [_cut(catalog, *shift) for catalog, shift in zip(campaign.catalogs, shifts, strict=True)]
    placed = common_window(parts, [False] * 4, columns=15, rows=15)
    assert not placed.decided
    assert len(placed.catalogs) == 4
    for found, true in zip(placed.catalogs, campaign.catalogs, strict=True):
        assert _labels(found) <= _labels(true)  # together the parts reach node (0, 0)


def test_equal_fluxes_do_not_decide():
    campaign = draw_campaign(np.random.default_rng(2), exposures=2, fixed=True)
    rng = np.random.default_rng(0)
    flat = [replace(entry, flux=1e5 + rng.normal(0, 300, len(entry))) for entry in campaign.catalogs]
    placed = common_window([flat[0], _cut(flat[1], 3, 0)], [True, False], columns=15, rows=15)
    assert len(placed.catalogs) == 1
    assert "ambiguous" in placed.left_out[0][1]
