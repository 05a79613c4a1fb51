"""Take the shims out of vllm_compat.py one by one, and see which releases notice: python -m tools.compat.shims RELEASE...

A shim is a comparison of VLLM_VERSION with the release from which it is not needed any more, and perhaps with the one from
which it is. Taking it out is writing what the comparison gives on the newest release. Releases between must then fail a
contract, and all others must go on fulfilling every one; for these it is enough to take out, at once, all shims that do not serve them.
Given several releases, only the shims that serve some of them and not all are looked at.
"""

from __future__ import annotations

import argparse
import ast
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.compat.contracts import Outcome
from tools.compat.environment import ROOT, Environment, install_uv, make_environment, remove_environment
from tools.compat.releases import Release, find, numbers
from tools.compat.running import run_contracts

SHIMS = Path("backend/app/vllm_compat.py")
# It tells the operator what was chosen, and chooses nothing.
_NO_SHIM = {"choices"}
# What the contract tests use, besides `backend`.
_COPIED, _LINKED = ("backend", "tests", "tools", "benchmarks", "pyproject.toml"), ("models",)


@dataclass(frozen=True)
class Shim:
    """One comparison in the source: where it stands, the release from which it is needed, and the one from which not."""

    owner: str
    since: tuple[int, ...]
    bound: tuple[int, ...]
    newest: bool
    line: int
    columns: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.owner}-{'.'.join(map(str, self.bound))}"

    def serves(self, version: str) -> bool:
        return self.since <= numbers(version) < self.bound


def find_shims(source: str) -> list[Shim]:
    """Return the shims in order; raises ValueError for a comparison with VLLM_VERSION of another form."""
    found = []
    named = ((statement, _name(statement)) for statement in ast.parse(source).body)
    for statement, owner in (pair for pair in named if pair[1] not in _NO_SHIM):
        for node in ast.walk(statement):
            if isinstance(node, ast.Compare) and "VLLM_VERSION" in [ast.unparse(term) for term in _terms(node)]:
                found.append(_shim(node, owner))
    return sorted(found, key=lambda shim: (shim.line, shim.columns))


def _terms(node: ast.Compare) -> list[ast.expr]:
    return [node.left, *node.comparators]


def _shim(node: ast.Compare, owner: str) -> Shim:
    match node:
        case ast.Compare(left=ast.Name(), ops=[ast.GtE() | ast.Lt()], comparators=[bound]):
            since: ast.expr = ast.Tuple([])
        case ast.Compare(left=since, ops=[ast.LtE(), ast.Lt()], comparators=[ast.Name(), bound]):
            pass
        case _:
            raise _wrong(node)
    if node.lineno != node.end_lineno or node.end_col_offset is None:
        raise _wrong(node)
    columns = (node.col_offset, node.end_col_offset)
    newest = isinstance(node.ops[0], ast.GtE)
    return Shim(owner, ast.literal_eval(since), ast.literal_eval(bound), newest, node.lineno, columns)


def _wrong(node: ast.Compare) -> ValueError:
    return ValueError(
        f"line {node.lineno}: compare VLLM_VERSION by >= or <, or between two releases by <= and <, on one line."
    )


def _name(statement: ast.stmt) -> str:
    """Return the name of what a statement of the module defines, or in a conditional the first name in it."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement.name
    for node in ast.walk(statement):
        if isinstance(node, ast.alias):
            return node.asname or node.name
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return str(node.slice.value)
    return "module"


def without(source: str, shims: Sequence[Shim]) -> str:
    """Return the source with each of these comparisons as the newest release decides it."""
    lines = source.splitlines(keepends=True)
    for shim in sorted(shims, key=lambda shim: (shim.line, shim.columns), reverse=True):
        line, (start, end) = lines[shim.line - 1], shim.columns
        lines[shim.line - 1] = f"{line[:start]}{shim.newest}{line[end:]}"
    return "".join(lines)


def copy_without(shims: Sequence[Shim], folder: Path) -> Path:
    """Copy what the contract tests need to `folder`, without these shims."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / name)
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / SHIMS).write_text(without((ROOT / SHIMS).read_text("utf-8"), shims), "utf-8")
    return folder


def telling(shims: Sequence[Shim], versions: Sequence[str]) -> list[Shim]:
    """Return the shims that serve some of these releases and not all; of a single release, all shims."""
    return [shim for shim in shims if len(versions) == 1 or len({shim.serves(version) for version in versions}) == 2]


def check_release(release: Release, shims: Sequence[Shim], environment: Environment, work: Path) -> list[str]:
    """Return what is not as it should be on one release."""
    others = [shim for shim in shims if not shim.serves(release.version)]
    wrong = []
    outcome = _run("others", others, release, environment, work)
    gone = f"without {', '.join(shim.name for shim in others)}" if others else "with every shim"
    _say(f"{release.version}: {'green' if outcome.green else 'RED'} {gone}")
    if not outcome.green:
        wrong.append(f"{release.version} fails without shims that do not serve it: {outcome.failures[:1]}")
    for shim in shims:
        if not shim.serves(release.version):
            continue
        outcome = _run(shim.name, [shim], release, environment, work, "--exitfirst")
        reason = (outcome.failures or ["nothing failed"])[0]
        _say(f"{release.version}: {'GREEN' if outcome.green else 'red'} without {shim.name}: {reason[:160]}")
        if outcome.green:
            wrong.append(f"{release.version} does not notice that {shim.name} is missing")
    return wrong


def _run(
    name: str, shims: Sequence[Shim], release: Release, environment: Environment, work: Path, *options: str
) -> Outcome:
    tree = copy_without(shims, work / "broken")
    log = work / "logs" / f"{release.version}-without-{name}.log"
    log.write_text("")
    try:
        return run_contracts(environment.with_sources(tree), work, log, tree, *options)
    finally:
        shutil.rmtree(tree)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("releases", nargs="+", type=find, help="releases to look at")
    parser.add_argument("--keep", action="store_true", help="keep each environment (3 to 8 GB)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compat", help="folder for environments and logs")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work: Path = options.work.resolve()
    (work / "logs").mkdir(parents=True, exist_ok=True)
    install_uv(work)
    found = find_shims((ROOT / SHIMS).read_text("utf-8"))
    shims = telling(found, [release.version for release in options.releases])
    wrong = []
    for release in options.releases:
        try:
            environment = make_environment(release, work, work / "logs" / f"{release.version}-shims.log")
            wrong += check_release(release, shims, environment, work)
        finally:
            if not options.keep:
                remove_environment(work / "envs" / release.version, work)
    for fault in wrong:
        _say(fault)
    return 1 if wrong else 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
