"""Submissions to batch systems: dependencies, memory, and arguments that arrive as they were written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permil.engine.submission import Job, condor_dag, job_name, makefile, slurm_arrays

ODD = ("a b", "it's", 'say "x"', "$HOME $$ $(x)", "back\\slash", "#no; comment & more", "", "*", "é")
JOBS = [
    Job("bias_1", "bias", ("isr", "--detector", "1", *ODD), memory=3e8),
    Job("bias_2", "bias", ("isr", "--detector", "2"), memory=9e8),
    Job("beam", "beam", ("beam", "--led", "red"), ("bias_1",), 3e8),
    Job("flat_1", "flat", ("flat", "1"), ("bias_1", "beam"), 1.6e9),
    Job("flat_2", "flat", ("flat", "2"), ("bias_2", "beam"), 1.7e9),
    Job("finish", "finish", ("run",), ("bias_1", "bias_2", "beam", "flat_1", "flat_2"), 1.7e9),
]
PROGRAM = """\
import json, sys
with open({log!r}, "a") as stream:
    stream.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(sys.argv[1] == {failing!r})
"""


def _program(folder: Path, *, failing: str = "") -> tuple[str, str]:
    """Return a program that lists its arguments in a file and fails at one command."""
    path = folder / "the program.py"
    path.write_text(PROGRAM.format(log=str(folder / "ran.jsonl"), failing=failing))
    return sys.executable, str(path)


def _ran(folder: Path) -> list[tuple[str, ...]]:
    return [tuple(json.loads(line)) for line in (folder / "ran.jsonl").read_text().splitlines()]


def _assert_all_ran_in_order(ran: Sequence[tuple[str, ...]]) -> None:
    assert sorted(ran) == sorted(job.words for job in JOBS)
    places = {job.name: ran.index(job.words) for job in JOBS}
    for job in JOBS:
        assert all(places[need] < places[job.name] for need in job.needs), job.name


def _make(folder: Path, *options: str) -> int:
    command = ["make", "-f", "tasks.mk", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode  # noqa: S603


def test_makefile(tmp_path: Path) -> None:
    (tmp_path / "tasks.mk").write_text(makefile(JOBS, program=_program(tmp_path)))
    assert "up to 1700 MiB" in (tmp_path / "tasks.mk").read_text()
    assert _make(tmp_path, "-j3") == 0
    _assert_all_ran_in_order(_ran(tmp_path))
    (tmp_path / "ran.jsonl").unlink()
    # Files with the names of targets change nothing; an array is a target, too.
    (tmp_path / "bias_2").touch()
    assert _make(tmp_path, "bias") == 0
    assert sorted(_ran(tmp_path)) == sorted(job.words for job in JOBS[:2])


def test_makefile_ends_at_a_job_that_fails(tmp_path: Path) -> None:
    (tmp_path / "tasks.mk").write_text(makefile(JOBS, program=_program(tmp_path, failing="beam")))
    assert _make(tmp_path, "-k") == 2
    assert {words[0] for words in _ran(tmp_path)} == {"isr", "beam"}


# Takes one script from standard input, runs it for each task of the array, and prints a number.
SBATCH = """\
#!/bin/sh
script=$(cat)
number=$(wc -l < "$JOBS")
number=$((number + 101))
echo "$@" >> "$JOBS"
for option in "$@"; do case $option in --array=1-*) last=${option#--array=1-} ;; esac; done
for task in $(seq $last); do
  export SLURM_ARRAY_TASK_ID=$task
  printf '%s\\n' "$script" | sh >&2 || exit 1
done
echo "$number;cluster"
"""


def test_slurm_arrays(tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text(SBATCH)
    (tmp_path / "sbatch").chmod(0o755)
    listed = tmp_path / "jobs.txt"
    listed.touch()
    (tmp_path / "submit.sh").write_text(slurm_arrays(JOBS, program=_program(tmp_path), logs=tmp_path / "the logs"))
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOBS": str(listed)}
    command = ["sh", "submit.sh", "--account=lsst"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "submitted 6 jobs in 4 arrays\n"
    _assert_all_ran_in_order(_ran(tmp_path))
    options = listed.read_text().splitlines()
    assert [re.findall(r"--dependency=afterok:(\S+)", line) for line in options] == [[], ["101"], ["101:102"], ["101:102:103"]]
    assert [re.findall(r"--array=1-(\d) .*--mem=(\d+)M", line)[0] for line in options] == [
        ("2", "900"), ("1", "300"), ("2", "1700"), ("1", "1700"),
    ]  # fmt: skip
    assert all("the logs/" in line and line.endswith(" --account=lsst") for line in options)


def _condor_words(line: str) -> list[str]:
    """Return the arguments that HTCondor passes: VARS, macros, then the new syntax of arguments."""
    value = re.search(r' words="((?:[^"\\]|\\.)*)"$', line)
    assert value is not None, line
    text = re.sub(r"\\(.)", r"\1", value[1])
    assert not re.search(r"\$(?!\(DOLLAR\))", text)
    text = text.replace("$(DOLLAR)", "$").replace('""', '"')
    return [
        re.sub(r"'((?:[^']|'')*)'", lambda quoted: quoted[1].replace("''", "'"), word)
        for word in re.findall(r"(?:'(?:[^']|'')*'|[^\s'])+", text)
    ]


def test_condor_dag(tmp_path: Path) -> None:
    text = condor_dag(JOBS, program=("/bin/python", "-m", "permil"), logs=tmp_path)
    lines = text.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("JOB ")] == [job.name for job in JOBS]
    for job in JOBS:
        (values,) = [line for line in lines if line.startswith(f"VARS {job.name} ")]
        assert _condor_words(values) == ["-m", "permil", *job.words]
        assert int(re.findall(r'mebibytes="(\d+)"', values)[0]) * 2**20 >= job.memory
    parents = {line.rpartition(" ")[2]: line.split()[1:-2] for line in lines if line.startswith("PARENT ")}
    assert parents == {job.name: list(job.needs) for job in JOBS if job.needs}


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" ")), min_size=1))
def test_any_argument_reaches_a_condor_job(words: list[str]) -> None:
    text = condor_dag([Job("a", "a", tuple(words))], program=("/bin/p",), logs=Path("/logs"))
    (line,) = [line for line in text.split("\n") if line.startswith("VARS ")]
    assert _condor_words(line) == words


@pytest.mark.parametrize("parts", [("flat", "ef_43~red", "R22_S11"), ("beam", "SDSSi+empty")])
def test_names_hold_no_special_characters(parts: tuple[str, ...]) -> None:
    assert re.fullmatch(r"\w+", job_name(*parts), re.ASCII)
    assert job_name("beam", "a~b") != job_name("beam", "a_b")
