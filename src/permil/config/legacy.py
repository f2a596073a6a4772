"""Import of configurations of the ccob-wb analysis (beam_config.yaml, analysis_config.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from permil.errors import ConfigError
from permil.yaml_file import read_yaml

_BEAM_KEYS = {
    "led_name", "rootdir", "rundir", "scan_size", "tmpdir", "ref_raft", "ref_slot", "ref_amps", "ref_pix_x", "ref_pix_y", "npix_for_avg",
}  # fmt: skip
_FLAT_KEYS = {
    "path_to_beam_model", "model_ccdid", "model_ref_amp", "led_beam_model", "path_to_bias", "led_analysis", "raft_list", "sensor_list",
    "outdir_figs", "outdir_fits",
}  # fmt: skip


def import_legacy(paths: list[Path]) -> str:
    """Translate old configuration files to a configuration of permil, as YAML with remarks.

    Parameters
    ----------
    paths
        The file of step 1 (beam), of step 2 (flat), or both.

    Raises
    ------
    ConfigError
        If a file has none of the old keys, or two files contradict each other.
    """
    old: dict[str, Any] = {}
    for path in paths:
        content = read_yaml(path)
        if not (_BEAM_KEYS | _FLAT_KEYS) & set(content):
            raise ConfigError(
                "not a configuration of the old analysis",
                path=path,
                remedy="keys of the old analysis are led_name, rootdir, rundir ... or path_to_beam_model, model_ccdid, led_analysis ...",
            )
        for key, value in content.items():
            if key in old and old[key] != value:
                raise ConfigError(f"key {key} has different values in the two files", path=path, remedy="import one at a time")
            old[key] = value
    remarks = [f"the key {key} is unknown and was left out" for key in old if key not in _BEAM_KEYS | _FLAT_KEYS]
    new: dict[str, Any] = {"camera": "lsstcam", "exposures": {"roots": _roots(old, remarks)}}
    try:
        new["beam"] = {"reference": _reference(old, remarks)}
    except ConfigError as error:
        error.path = ", ".join(str(path) for path in paths)
        raise
    flat = _flat(old, remarks)
    leds = [str(old[key]) for key in ("led_name", "led_beam_model", "led_analysis") if key in old]
    if leds:
        new["beam"]["leds"] = sorted(set(leds))
    if flat:
        new["flat"] = flat
    remarks.append("gains: give the table or the eotest results of the analysed run; nominal gains are only approximate")
    new["isr"] = {"gains": "nominal"}
    new["output"] = str(old.get("outdir_fits") or old.get("tmpdir") or "out")
    text = "".join(f"# {remark}\n" for remark in remarks)
    return text + yaml.safe_dump(new, sort_keys=False)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _roots(old: dict[str, Any], remarks: list[str]) -> list[str]:
    if "rundir" in old:
        # The old code concatenated the two: a leading slash of rundir does not make it absolute.
        top = Path(str(old.get("rootdir", ".")))
        return [str(top / str(run).strip("/")) for run in _listed(old["rundir"])]
    remarks.append("exposures.roots: give the folders of the pointings, of the beam scan and of the biases")
    return ["raw"]


def _reference(old: dict[str, Any], remarks: list[str]) -> list[dict[str, Any]]:
    if "scan_size" in old:
        remarks.append("scan_size is not needed: a scan is recognised by its positions")
    if "ref_raft" in old and "ref_slot" in old:
        detector, amps = f"{old['ref_raft']}_{old['ref_slot']}", _listed(old.get("ref_amps", [5]))
    elif "model_ccdid" in old:
        detector, amps = str(old["model_ccdid"]), _listed(old.get("model_ref_amp", 5))
    else:
        return []
    # The old names are swapped: ref_pix_x is the row, ref_pix_y the column of the trimmed segment.
    place = {
        "row": _integer("ref_pix_x", old.get("ref_pix_x", 1000)),
        "column": _integer("ref_pix_y", old.get("ref_pix_y", 256)),
        "box": _integer("npix_for_avg", old.get("npix_for_avg", 30)),
    }
    return [{"detector": detector, "amp": _integer("the amplifier", amp), **place} for amp in amps]


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} = {value!r} is not an integer", remedy="write an integer", value=value)
    return int(value)


def _flat(old: dict[str, Any], remarks: list[str]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    if "path_to_beam_model" in old:
        remarks.append(
            f"path_to_beam_model = {old['path_to_beam_model']}: pickled beams are not read; add the folders of that scan to "
            "exposures.roots, and the beam is fitted again"
        )
    if "path_to_bias" in old:
        remarks.append(f"path_to_bias = {old['path_to_bias']}: add the folders of the raw biases to exposures.roots instead")
    if "outdir_figs" in old:
        remarks.append("outdir_figs is not needed: figures are in the folder report of the output")
    if "led_analysis" in old:
        flat["leds"] = [str(old["led_analysis"])]
        if old.get("led_beam_model", old["led_analysis"]) != old["led_analysis"]:
            flat["beam_of"] = {str(old["led_analysis"]): str(old["led_beam_model"])}
    if "raft_list" in old or "sensor_list" in old:
        rafts = _listed(old.get("raft_list", []))
        sensors = _listed(old.get("sensor_list", []))
        flat["detectors"] = (
            [f"{raft}_{sensor}" for raft in rafts for sensor in sensors] if sensors else [str(raft) for raft in rafts]
        )
    return flat
