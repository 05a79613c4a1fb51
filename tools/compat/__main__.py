"""Run the contract tests on releases of vLLM, each in an environment of its own: python -m tools.compat [RELEASE...]

Goes on where it stopped: a release that was run with the same sources is left out. Needs Linux on x86-64, g++ for the
oldest releases, and 20 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from tools.compat.contracts import FAILED, NOT_RUN, Outcome
from tools.compat.environment import ROOT, install_uv, make_environment, remove_environment
from tools.compat.failure import EnvironmentFailed
from tools.compat.record import FOLDER, SOURCES, Result, is_green, read_results, source_hash, write_results
from tools.compat.releases import RELEASES, Release, find
from tools.compat.running import run_contracts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("releases", nargs="*", help="releases to run, all by default, newest first")
    parser.add_argument("--again", action="store_true", help="run releases again that have a result for these sources")
    parser.add_argument("--keep", action="store_true", help="keep each environment (3 to 8 GB)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compat", help="folder for environments and logs")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder for the table, docs by default")
    parser.add_argument("--list", action="store_true", help="print the releases as JSON and end")
    options = parser.parse_args()
    if options.list:
        _say(json.dumps([release.version for release in RELEASES]))
        return 0
    try:
        chosen = [find(version) for version in options.releases] or list(reversed(RELEASES))
    except ValueError as error:
        parser.error(str(error))
    # So that what was started is ended and removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work: Path = options.work.resolve()
    (work / "logs").mkdir(parents=True, exist_ok=True)
    install_uv(work)
    failed = []
    for release in chosen:
        known = read_results(options.results).get(release.version)
        if known is not None and known["sources"] == source_hash() and not options.again:
            _say(f"{release.version}: has a result for these sources; --again runs it again")
            result = known
        else:
            result = run_release(release, work, options.keep)
            write_results(options.results, {release.version: result})
        if not is_green(result):
            failed.append(release.version)
    if failed:
        _say(f"Not every contract holds on {', '.join(failed)}. Logs: {work / 'logs'}")
    return 1 if failed else 0


def run_release(release: Release, work: Path, keep: bool) -> Result:
    """Make the environment, run the contracts in it, and return what happened."""
    log = work / "logs" / f"{release.version}.log"
    log.write_text("")
    sources, begun = source_hash(), time.monotonic()
    outcome, packages, looked_at = Outcome(), {"torch": release.torch}, 0
    _say(f"{release.version}: making the environment")
    made = ran = begun
    try:
        environment = make_environment(release, work, log)
        packages = environment.versions()
        made = time.monotonic()
        _say(f"{release.version}: running the contracts ({made - begun:.0f} s for the environment)")
        outcome = run_contracts(environment, work, log)
        ran = time.monotonic()
        if release.libraries is not None:
            looked_at = _check_sources(release, work, outcome)
    except EnvironmentFailed as error:
        outcome.failures.append(f"environment: {error}")
    finally:
        if not keep:
            remove_environment(work / "envs" / release.version, work)
    _report(release.version, outcome, log)
    return {
        "torch": packages["torch"],
        "contracts": outcome.contracts,
        "failures": outcome.failures,
        "packages": packages,
        "seconds": {"environment": round(made - begun), "contracts": round(max(0.0, ran - made))},
        "sources": sources,
        **({"libraries": release.libraries, "source_checks": looked_at} if release.libraries is not None else {}),
    }


def _check_sources(release: Release, work: Path, outcome: Outcome) -> int:
    """Add what is wrong with the release's own sources to the outcome; return how much was looked at."""
    from tools.compat.source import check_release  # needs the service's packages, which --list does without

    findings = check_release(release.version, work)
    outcome.failures += [f"{SOURCES}{fault}" for fault in findings.faults]
    return findings.checked


def _report(version: str, outcome: Outcome, log: Path) -> None:
    if outcome.green:
        _say(f"{version}: every contract holds")
        return
    for status in (FAILED, NOT_RUN):
        if names := [name for name, found in outcome.contracts.items() if found == status]:
            _say(f"{version}: {status}: {', '.join(names)}")
    for failure in outcome.failures[:5]:
        _say(f"    {failure}")
    _say(f"    the whole output: {log}; the same tests by hand: make compat VLLM={version} ARGS='--keep --again'")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
