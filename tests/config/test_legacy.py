"""Old configurations keep their meaning; the two swapped names above all."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from permil.config import load_config
from permil.config.legacy import import_legacy
from permil.errors import ConfigError

BEAM = """{
   'led_name':'nm850',
   'rootdir':'/data/jobs/',
   'rundir':['/13260/BOT_acq/v0/107781/'],
   #'6845D/BOT_acq/v0/48057/'],
   'scan_size':12,
   'tmpdir':'/data/beams',
   'ref_raft':'R22',
   'ref_slot':'S11',
   'ref_amps':[5, 13], #[4,5]
   'ref_pix_x':1000,
   'ref_pix_y':256,
   'npix_for_avg':30,
}"""
FLAT = """{  'path_to_beam_model':'/data/60x60/',
   'model_ccdid':'R22_S11',
   'model_ref_amp':5,
   'led_beam_model':'red',
   'path_to_bias':'/data/bias',
   'led_analysis':'uv',
   'raft_list':['R02','R22'],
   'sensor_list':['S11','S21'],
   'outdir_figs':'/data/figs/',
   'outdir_fits':'/data/fits/'
}"""


def _import(tmp_path: Path, *texts: str) -> tuple[str, Path]:
    paths = []
    for number, text in enumerate(texts):
        path = tmp_path / f"old{number}.yaml"
        path.write_text(text)
        paths.append(path)
    new = import_legacy(paths)
    out = tmp_path / "new.yaml"
    out.write_text(new)
    return new, out


def test_beam_configuration(tmp_path: Path) -> None:
    text, path = _import(tmp_path, BEAM)
    config = load_config(path)
    assert [str(root) for root in config.exposures.roots] == ["/data/jobs/13260/BOT_acq/v0/107781"]
    assert [(box.detector, box.amp, box.row, box.column, box.box) for box in config.beam.reference] == [
        ("R22_S11", 5, 1000, 256, 30),
        ("R22_S11", 13, 1000, 256, 30),
    ]
    assert config.beam.leds == ["nm850"]
    assert str(config.output) == "/data/beams"
    assert "scan_size is not needed" in text


def test_flat_configuration(tmp_path: Path) -> None:
    text, path = _import(tmp_path, FLAT)
    config = load_config(path)
    assert config.flat.leds == ["uv"]
    assert config.flat.beam_of == {"uv": "red"}
    assert config.flat.detectors == ["R02_S11", "R02_S21", "R22_S11", "R22_S21"]
    assert config.beam.reference[0].amp == 5
    assert str(config.output) == "/data/fits"
    assert "pickled beams are not read" in text
    assert "/data/bias" in text


def test_both_files_together(tmp_path: Path) -> None:
    _, path = _import(tmp_path, BEAM, FLAT)
    config = load_config(path)
    assert len(config.beam.reference) == 2
    assert config.flat.leds == ["uv"]


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    text, _ = _import(tmp_path, "{led_name: red, colour: blue}")
    assert "the key colour is unknown" in text
    assert yaml.safe_load(text)["beam"]["leds"] == ["red"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a configuration of the old analysis"):
        _import(tmp_path, "{camera: lsstcam}")
    with pytest.raises(ConfigError, match="different values"):
        _import(tmp_path, "{led_name: red}", "{led_name: blue}")
