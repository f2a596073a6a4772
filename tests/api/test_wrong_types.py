"""Arguments of public functions that are no paths and no lists of texts: one sentence, no traceback of another library."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import permil
from permil.errors import InputError, PermilError


def _kind_of(value):
    return type(value).__name__


FUNCTIONS = {
    "run": permil.run,
    "load_config": permil.load_config,
    "open_run": permil.open_run,
    "load_camera": permil.load_camera,
    "load_beam": permil.load_beam,
    "Flat.read": permil.Flat.read,
    "Flat.write": permil.Flat(np.ones((4, 4))).write,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("path", [None, 5, 2.5, b"out", ["out"], io.BytesIO(b"out"), np.int64(3)], ids=_kind_of)
def test_what_is_no_path_is_refused(function, path):
    with pytest.raises(InputError, match=rf"the path of .* of type {type(path).__name__}; give it as text or as a pathlib.Path"):
        function(path)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"Flat.write"}))
@pytest.mark.parametrize("kind", [str, np.str_, Path])
def test_paths_of_any_kind_are_understood(name, kind, tmp_path):
    with pytest.raises(PermilError, match="absent"):
        FUNCTIONS[name](kind(tmp_path / "absent"))
    FUNCTIONS["Flat.write"](kind(tmp_path / "flat.fits"))
    assert permil.Flat.read(kind(tmp_path / "flat.fits")).shape == (4, 4)


@pytest.mark.parametrize("texts", ["seed=3", [3], 3, [None], {"seed": 3}.values(), [b"seed=3"]], ids=_kind_of)
def test_what_is_no_list_of_texts_is_refused(texts):
    with pytest.raises(InputError, match=r"overrides of the configuration are .*; give a list of texts"):
        permil.load_config({}, texts)
    with pytest.raises(InputError, match=r"stages are .*; give a list of texts"):
        permil.run({}, stages=texts)


@pytest.mark.parametrize(
    "texts", [["seed=3"], ("seed=3",), np.array(["seed=3"]), {"seed=3"}, (text for text in ["seed=3"])], ids=_kind_of
)
def test_lists_of_any_kind_are_understood(texts):
    assert permil.load_config({}, texts).seed == 3
