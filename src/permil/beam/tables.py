"""`permil beam fit` and `predict`: fit a model to a table of nodes, and predict signals for a table of positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import FloatArray
from permil.beam.fits import model_from_hdus, model_to_hdus
from permil.beam.model import BeamModel
from permil.beam.nodes import (
    BUNCH_COLUMNS,
    PLACE_COLUMNS,
    REQUIRED_COLUMNS,
    bunch_labels,
    nodes_from_table,
)
from permil.camera import Camera
from permil.errors import BeamError, InputError, PermilError
from permil.products import Description, check_output, read_table, write_hdus, write_table
from permil.products.tables import numbers, recognise

ADDED_COLUMNS = ("beam", "beam_err")


def fit_table(
    path_in: str | Path, path_out: str | Path, *, amp: str | int | None = None, camera: Camera | None = None
) -> Description:
    """Fit a beam model to a table of nodes and write it; return its description.

    Parameters
    ----------
    path_in
        Table of nodes (see `nodes_from_table`).
    path_out
        FITS file of the model.
    amp
        Use only the rows of this amplifier.
    camera
        Camera with the positions of the amplifiers, for tables that name detector and box.

    Raises
    ------
    PermilError
        If the table cannot be used, or the model cannot be fitted or written.
    """
    check_output(path_out, inputs=[path_in])
    try:
        table = read_table(path_in, columns=REQUIRED_COLUMNS, purpose="node table")
        model = BeamModel.from_nodes(nodes_from_table(table, amp=amp, camera=camera))
    except PermilError as error:
        error.path = error.path or str(path_in)
        raise
    write_hdus(path_out, model_to_hdus(model))
    return Description(model.describe(), {"out": path_out} | model.facts())


def predict_table(path_model: str | Path, path_in: str | Path, path_out: str | Path) -> Description:
    """Add the columns ``beam`` and ``beam_err`` to a table of projector positions and write it; return a summary sentence.

    Both are in the unit of the fitted signal and NaN outside the hull of the nodes. ``beam_err`` is the error of the model: a measurement
    also has the node noise, which is given in the metadata of the table.

    Parameters
    ----------
    path_model
        FITS file of the model.
    path_in
        Table with ``x_mm``, ``y_mm``; the position is that of the fitted bunch unless ``ref_x_mm``, ``ref_y_mm`` give another.
    path_out
        Table to write: the same rows and columns plus the two columns.

    Raises
    ------
    PermilError
        If the model or the table cannot be used, or the result cannot be written.
    """
    check_output(path_out, inputs=[path_model, path_in])
    model = model_from_hdus(path_model)
    table = read_table(path_in, columns=("x_mm", "y_mm"), purpose="table of positions")
    try:
        table = predict(model, table)
    except PermilError as error:
        error.path = error.path or str(path_in)
        raise
    write_table(path_out, table)
    outside = int(np.isnan(np.asarray(table["beam"])).sum())
    return Description(
        f"{len(table)} positions, {outside} of them without data (nan); node noise {model.node_noise:.2e} is not in beam_err",
        {"out": path_out, "positions": len(table), "without_data": outside, "node_noise": model.node_noise},
    )


def predict(model: BeamModel, table: Table) -> Table:
    """Return a copy of a table of positions with the predicted signal and its error.

    Positions in other units than mm are converted; a masked position has the signal NaN.

    Raises
    ------
    InputError
        If the table already has one of the added columns, lacks or misspells a column, or a position is not a number in a unit of length.
    BeamError
        If the model has several bunches and the table does not give positions.
    """
    present = [name for name in ADDED_COLUMNS if name in table.colnames]
    if present:
        raise InputError(f"the table already has a column {', '.join(present)}", remedy="rename or remove it", value=present)
    places = recognise(table, needed=("x_mm", "y_mm"), optional=BUNCH_COLUMNS, purpose="table of positions")
    bunches = _bunches(model, places)
    ref_x_mm, ref_y_mm = _places(model, places, bunches)
    ux, uy = ref_x_mm - numbers(places, "x_mm", unit="mm"), ref_y_mm - numbers(places, "y_mm", unit="mm")
    beam, beam_err = np.full(len(table), np.nan), np.full(len(table), np.nan)
    for bunch in np.unique(bunches):
        members = bunches == bunch
        known = str(bunch) if bunch in model.gains else None
        beam[members], beam_err[members] = model.predict_signal(ux[members], uy[members], bunch=known)
    result = table.copy()
    for name, column in zip(ADDED_COLUMNS, (beam, beam_err), strict=True):
        result[name] = column
        result[name].unit = model.nodes.unit or None
    result.meta["beam_node_noise"] = model.node_noise
    return result


def _bunches(model: BeamModel, table: Table) -> NDArray[np.str_]:
    """Return the bunch of each row: the only one, the one named in the row, or none (mean gain)."""
    if len(model.gains) == 1:
        return np.full(len(table), next(iter(model.gains)))
    return bunch_labels(table)


def _places(model: BeamModel, table: Table, bunches: NDArray[np.str_]) -> tuple[FloatArray, FloatArray]:
    if set(PLACE_COLUMNS) <= set(table.colnames):
        return numbers(table, "ref_x_mm", unit="mm"), numbers(table, "ref_y_mm", unit="mm")
    unknown = sorted(set(bunches.tolist()) - set(model.gains))
    if unknown:
        raise BeamError(
            "the model was fitted to several bunches and the table does not give the position of each row",
            remedy="add columns ref_x_mm and ref_y_mm, or the columns that name the bunch",
            value=unknown,
            allowed=list(model.gains),
        )
    first = {bunch: int(np.flatnonzero(model.nodes.bunch == bunch)[0]) for bunch in np.unique(bunches).tolist()}
    index = np.array([first[bunch] for bunch in bunches.tolist()], dtype=int)
    return model.nodes.ref_x_mm[index], model.nodes.ref_y_mm[index]
