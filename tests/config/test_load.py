"""Configurations: the short one is enough, mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from permil.config import Config, load_config
from permil.errors import ConfigError

SHORT = """
camera: lsstcam
exposures: {roots: [raw]}
isr: {gains: gains.ecsv}
beam: {reference: [{detector: R22_S11, amp: C14, row: 1000, column: 256, box: 30}]}
output: out
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_short_configuration_is_enough(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, SHORT))
    assert config.beam.reference[0].column == 256
    assert config.output == tmp_path / "out"
    assert [Path(root) for root in config.exposures.roots] == [tmp_path / "raw"]
    assert Path(config.isr.gains) == tmp_path / "gains.ecsv"


def test_special_words_are_no_paths(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, "isr: {gains: nominal, bias: none}"))
    assert (config.isr.gains, config.isr.bias) == ("nominal", "none")


def test_overrides_win(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, SHORT), ["flat.keep_pointings=false", "output=elsewhere", "flat.leds=[red, uv]"])
    assert config.flat.keep_pointings is False
    assert config.output == tmp_path / "elsewhere"
    assert config.flat.leds == ["red", "uv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flat: {sover: divide}", r"unknown key flat\.sover; did you mean solver\? keys of flat are .*keep_pointings"),
        ("flats: {}", r"unknown key flats; did you mean flat\?"),
        ("flat: {solver: joint-ish}", r"key flat\.solver = 'joint-ish': .*'divide'"),
        ("beam: {reference: [{detector: R22_S11, amp: C14, row: -1, column: 2}]}", r"key beam\.reference\.0\.row = -1"),
        (
            "beam: {reference: [{detector: R22_S11, amps: C14, row: 1, column: 2}]}",
            r"unknown key beam\.reference\.0\.amps; did you mean amp",
        ),
        ("flat: [1, 2]", r"key flat = \[1, 2\]"),
        ("- just\n- a list", "not a configuration"),
        ("a: [", "not valid YAML in line"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(_write(tmp_path, text))
    assert "config.yaml" in str(caught.value)


@pytest.mark.parametrize("override", ["flat", "=3", "flat..solver=divide", "camera.name=x", "flat.leds=[red"])
def test_bad_overrides_are_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(_write(tmp_path, SHORT), [override])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: the configuration cannot be read"):
        load_config(tmp_path / "nothing.yaml")


def test_resolved_configuration_comes_back(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, SHORT))
    again = load_config(_write(tmp_path, config.as_yaml()))
    assert again == config


def test_every_key_is_explained() -> None:
    def check(model: type, where: str) -> None:
        for name, entry in model.model_fields.items():
            assert entry.description, f"{where}{name} has no description"

    check(Config, "")
    for name, entry in Config.model_fields.items():
        if hasattr(entry.annotation, "model_fields"):
            check(entry.annotation, f"{name}.")
    assert yaml.safe_load(Config().as_yaml())["camera"] == "lsstcam"
