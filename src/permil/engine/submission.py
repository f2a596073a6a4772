"""Submissions of declared tasks to batch systems: a DAG of HTCondor, arrays of SLURM jobs, a Makefile.

Each format is a pure function of a list of `Job`. Jobs are repeatable: one whose products are up to date does nothing, so that a
failed submission can be repeated unchanged.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Form = Literal["condor-dag", "slurm-array", "make"]
"""Names of the formats."""

_MEBIBYTE = 1 << 20
_MEMORY_STEP_MIB = 100


@dataclass(frozen=True)
class Job:
    """One command of a submission.

    Attributes
    ----------
    name
        Unique; letters, digits and underscores.
    array
        Name of the array of similar jobs that this one belongs to; jobs of an array do not need each other.
    words
        Arguments of the command `permil`.
    needs
        Names of the jobs that must have succeeded before; they come earlier in the list of jobs.
    memory
        Estimate of the peak memory, bytes.
    """

    name: str
    array: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()
    memory: float = 0.0


def job_name(*parts: str) -> str:
    """Return a name of letters, digits and underscores; other characters are replaced by their numbers."""
    return re.sub(r"\W", lambda found: f"_{ord(found[0]):x}_", "_".join(parts), flags=re.ASCII)


def submission_text(form: Form, jobs: Sequence[Job], *, program: Sequence[str], logs: Path) -> str:
    """Return a submission in one of the formats; see `condor_dag`, `slurm_arrays` and `makefile`."""
    if form == "make":
        return makefile(jobs, program=program)
    return (condor_dag if form == "condor-dag" else slurm_arrays)(jobs, program=program, logs=logs)


def condor_dag(jobs: Sequence[Job], *, program: Sequence[str], logs: Path) -> str:
    """Return the input file of DAGMan (``condor_submit_dag``, HTCondor 10 or later), one node for each job.

    Parameters
    ----------
    jobs
        Each after those that it needs.
    program
        Absolute path of the program, and the arguments that come before those of a job.
    logs
        Existing folder for the logs.
    """
    lines = [
        "# condor_submit_dag FILE",
        "SUBMIT-DESCRIPTION permil {",
        "  universe = vanilla",
        f"  executable = {_condor_text(program[0])}",
        '  arguments = "$(words)"',
        "  request_cpus = 1",
        "  request_memory = $(mebibytes)",
        "  should_transfer_files = NO",
        "  getenv = True",
        f"  log = {_condor_text(str(logs / 'condor.log'))}",
        f"  output = {_condor_text(str(logs))}/$(JOB).out",
        f"  error = {_condor_text(str(logs))}/$(JOB).err",
        "}",
        "",
    ]
    for job in jobs:
        words = " ".join(_condor_word(word) for word in (*program[1:], *job.words))
        lines += [f"JOB {job.name} permil", f'VARS {job.name} mebibytes="{_mebibytes(job)}" words="{_vars_value(words)}"']
    lines += [f"PARENT {' '.join(job.needs)} CHILD {job.name}" for job in jobs if job.needs]
    return "\n".join(lines) + "\n"


def _condor_text(text: str) -> str:
    """Return text of a submit description in which nothing is a macro."""
    return text.replace("$", "$(DOLLAR)")


def _condor_word(word: str) -> str:
    """Return an argument in the new syntax of HTCondor, inside double quotes."""
    word = _condor_text(word).replace('"', '""')
    return "'" + word.replace("'", "''") + "'" if not word or re.search(r"[\s']", word) else word


def _vars_value(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def slurm_arrays(jobs: Sequence[Job], *, program: Sequence[str], logs: Path) -> str:
    """Return a shell script that submits one array of SLURM jobs after the other (``sh FILE``), and starts none itself.

    An array waits for the arrays that hold the needs of its jobs. Arguments of the script, such as ``--account=lsst``, are passed to
    each ``sbatch``.

    Parameters
    ----------
    jobs, program, logs
        See `condor_dag`.
    """
    arrays = _arrays(jobs)
    array_of = {job.name: job.array for job in jobs}
    lines = ["#!/bin/sh", "# sh FILE [OPTIONS OF SBATCH]...", "set -e", ""]
    for name, members in arrays.items():
        needed = list(dict.fromkeys(array_of[need] for job in members for need in job.needs))
        options = [
            "--parsable",
            f"--job-name={name}",
            f"--array=1-{len(members)}",
            "--ntasks=1",
            "--cpus-per-task=1",
            f"--mem={max(map(_mebibytes, members))}M",
            f"--output={shlex.quote(str(logs / f'{name}_%a.log'))}",
        ]
        if needed:
            options += ["--kill-on-invalid-dep=yes", f"--dependency=afterok:{':'.join(f'$job_{need}' for need in needed)}"]
        lines += [f"job_{name}=$(sbatch {' '.join(options)} \"$@\" <<'EOF'", "#!/bin/sh", "case $SLURM_ARRAY_TASK_ID in"]
        lines += [f"({number}) exec {shlex.join([*program, *job.words])} ;;" for number, job in enumerate(members, 1)]
        # A cluster of a federation is appended to the number of a job.
        lines += ["esac", "EOF", ")", f"job_{name}=${{job_{name}%%;*}}", ""]
    lines.append(f'echo "submitted {len(jobs)} jobs in {len(arrays)} arrays"')
    return "\n".join(lines) + "\n"


def _arrays(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    arrays: dict[str, list[Job]] = {}
    for job in jobs:
        arrays.setdefault(job.array, []).append(job)
    return arrays


def makefile(jobs: Sequence[Job], *, program: Sequence[str]) -> str:
    """Return a Makefile (``make -f FILE -j2``), one target for each job and one for each array.

    ``make PERMIL=...`` runs another program.

    Parameters
    ----------
    jobs, program
        See `condor_dag`.
    """
    arrays = _arrays(jobs)
    targets = [*(job.name for job in jobs), *(name for name in arrays if name not in {job.name for job in jobs})]
    lines = [
        "# make -f FILE -j2",
        f"# A job takes up to {max(map(_mebibytes, jobs))} MiB of memory.",
        f"PERMIL = {_make_text(shlex.join(program))}",
        "",
        f"all: {' '.join(job.name for job in jobs)}",
        f".PHONY: all {' '.join(targets)}",
        "",
    ]
    for name, members in arrays.items():
        if [job.name for job in members] != [name]:
            lines += [f"{name}: {' '.join(job.name for job in members)}", ""]
    for job in jobs:
        lines += [f"{job.name}: {' '.join(job.needs)}".rstrip(), f"\t$(PERMIL) {_make_text(shlex.join(job.words))}", ""]
    return "\n".join(lines)


def _make_text(text: str) -> str:
    return text.replace("$", "$$")


def _mebibytes(job: Job) -> int:
    """Return the memory of a job in MiB, rounded up."""
    return _MEMORY_STEP_MIB * max(math.ceil(job.memory / _MEBIBYTE / _MEMORY_STEP_MIB), 1)
