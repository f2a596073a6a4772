"""The reader of YAML files: keys given twice, text that YAML 1.1 changes, files that are no configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from permil.config import load_config
from permil.config.legacy import import_legacy
from permil.errors import ConfigError
from permil.yaml_file import parse_yaml, read_yaml

REFERENCE = "detector: R22_S11, amp: C14, row: 1, column: 2"


def _write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("isr: {gains: a.ecsv}\nflat: {}\nisr: {bias: none}\n", "key isr is given twice, in line 1 and in line 3"),
        ("isr:\n  gains: a\n  bias: none\n  gains: b\n", r"key isr\.gains is given twice, in line 2 and in line 4"),
        ('isr:\n  gains: a\n  "gains": b\n', r"isr\.gains is given twice, in line 2 and in line 3"),
        ("flat: {leds: [red],\n  joint: {drift: true},\n  'leds': [uv]}", r"flat\.leds is given twice, in line 1 and in line 3"),
        ("isr: {gains: a, gains: a}", "key isr.gains is given twice, in line 1"),
        (
            f"beam:\n  reference:\n  - {{{REFERENCE}}}\n  - {{{REFERENCE},\n     row: 3}}",
            r"beam\.reference\.row is given twice, in line 4 and in line 5",
        ),
        ("flat: {<<: {leds: [red]},\n  <<: {leds: [uv]}}", "<< is given twice, in line 1 and in line 2"),
        ("plan:\n  scan: &s {nx: 3,\n    nx: 4}", r"plan\.scan\.nx is given twice, in line 2 and in line 3"),
        ("compare: {led_of: {r: red,\n  r: nm960}}", r"compare\.led_of\.r is given twice, in line 1 and in line 2"),
    ],
)
def test_key_given_twice(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(_write(tmp_path, text))
    assert "config.yaml" in str(caught.value)


def test_key_given_twice_in_a_file_of_the_old_analysis(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key ref_pix_x is given twice, in line 1 and in line 2"):
        import_legacy([_write(tmp_path, "{'led_name': 'red', 'ref_pix_x': 1000,\n 'ref_pix_x': 256}")])


def test_anchors_and_merge_keys_are_no_repetitions(tmp_path: Path) -> None:
    text = f"beam:\n  reference:\n  - &first {{{REFERENCE}}}\n  - {{<<: *first, amp: C15, box: 10}}\n  - *first\n"
    boxes = load_config(_write(tmp_path, text)).beam.reference
    assert [(box.amp, box.row, box.box) for box in boxes] == [("C14", 1, 30), ("C15", 1, 10), ("C14", 1, 30)]
    # Of several merged maps the first wins, and the map's own keys win over all.
    assert parse_yaml("[&a {x: 1, y: 1}, &b {y: 2, z: 2}, {<<: [*a, *b], z: 3}]")[2] == {"x": 1, "y": 1, "z": 3}


def test_aliases_are_copies() -> None:
    first, second = parse_yaml("[&a {x: [1]}, *a]")
    first["x"].append(2)
    assert second == {"x": [1]}


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("12:00:00", "12:00:00"),
        ("0123", "0123"),
        ("1:30.5", "1:30.5"),
        ("2019-10-28", "2019-10-28"),
        ("2019-10-28 12:00:00", "2019-10-28 12:00:00"),
        ("6841D", "6841D"),
        ("1e3", 1000.0),
        ("1E-4", 1e-4),
        ("'1e3'", "1e3"),
        ("-.5e2", -50.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("-0b11", -3),
        ("007.5", 7.5),
        ("-0", 0),
        ("{on: off, 960: x, 'no': yes}", {"on": False, "960": "x", "no": True}),
        ("~", None),
        ("", None),
    ],
)
def test_what_is_read_is_what_was_written(text: str, content: Any) -> None:
    found = parse_yaml(text)
    assert found == content
    assert isinstance(found, type(content))
    if isinstance(content, float | int):
        assert repr(found) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("isr:\n  gains: Größe\n".encode("latin-1"), r"not UTF-8 text \(byte 0xf6 in line 2\); give a configuration in YAML"),
        (b"SIMPLE  =                    T" + b"\x00\xff" * 5000, "not UTF-8 text"),
        ("isr: {}\n\x00flat: {}", r"line 2 has the character U\+0000"),
        ("isr:\n\tgains: x", "line 2, which has a tab; indent with spaces"),
        ("isr: {}\n---\nflat: {}", "a second document starts in line 2"),
        ("- isr", "not a configuration"),
        ("isr", "not a configuration"),
        ("isr: &x {gains: *x}", "line 1 contains itself"),
        ("isr: *x", "not valid YAML in line 1"),
        ("a: " + "[" * 100_000, "nested more than 100 levels"),
        ("? [isr, flat]\n: x", "a key in line 1 is empty or not a name"),
        ("'': x", "a key in line 1 is empty"),
        ("isr:\n\u00a0 gains: x", r"the key gains in line 2 has the invisible character U\+00A0"),
        ("isr: {gains: !include x}", "the tag !include in line 1 is not supported"),
        ("isr: !!python/object:os.system {}", "the tag !!python/object:os.system"),
        ("on: 1", "unknown key on;"),
        ("Isr: {}", "unknown key Isr; did you mean isr"),
        ("isr: {<<: 3}", "the merge key << in line 1 names no map"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(_write(tmp_path, text))


def test_aliases_that_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 100000 entries"):
        load_config(_write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_and_line_ends_of_other_systems(tmp_path: Path, encoding: str) -> None:
    path = _write(tmp_path, "isr:\r\n  gains: Größe.ecsv\r\n".encode(encoding))
    assert load_config(path).isr.gains == str(tmp_path / "Größe.ecsv")


def test_folder_and_large_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="larger than 10 MB"):
        read_yaml(_write(tmp_path, b"#" * 10_000_001))
