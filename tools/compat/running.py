"""Runs the contract tests in an environment, and sees that nothing of them is left running."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from tools.compat.contracts import TESTS, Outcome, read_outcome
from tools.compat.environment import ROOT, Environment

# Far above what a release takes on two slow cores.
_LONGEST = 1800.0


def run_contracts(environment: Environment, work: Path, log: Path, root: Path = ROOT, *options: str) -> Outcome:
    """Run the contract tests of the sources in `root`, in a process group of their own; `options` are pytest's."""
    report = log.with_suffix(".xml")
    report.unlink(missing_ok=True)
    command = [
        str(environment.python), "-m", "pytest", "-p", "no:cacheprovider", "--tb=long", f"--junitxml={report}",
        f"--basetemp={work / 'pytest'}", *options, TESTS,
    ]  # fmt: skip
    late = False
    with log.open("a") as sink:
        process = subprocess.Popen(
            command, cwd=root, env=environment.variables, stdout=sink, stderr=sink, start_new_session=True
        )
        try:
            process.wait(_LONGEST)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    outcome = read_outcome(report)
    if late:
        outcome.failures.append(f"the tests took longer than {_LONGEST:.0f} s and were ended")
    elif not report.exists():
        outcome.failures.append(f"pytest ended with status {process.returncode} before it had a report")
    return outcome
