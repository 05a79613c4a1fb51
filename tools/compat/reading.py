"""Our own sources as they are on one release of vLLM: what its comparisons with VLLM_VERSION leave out is left out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from tools.compat.environment import ROOT

APP = ROOT / "backend" / "app"
COMPAT = "app.vllm_compat"
# What runs inside vLLM or drives it; `engine` is read for what it asks of the others' names.
FILES = (APP / "vllm_compat.py", *sorted(APP.glob("vllm_models/*.py")), *sorted(APP.glob("engine/vllm_*.py")))
_ADAPTERS = {"vllm_085.py"}
# Loaded with vLLM's model runner V2 alone.
_RUNNER_V2 = {"model_state.py", "multi_step.py", "ngram_kernel.py"}

Origin = tuple[str, str]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Reading:
    """What is used of vLLM: trees by file, the origin of each imported name, and our classes."""

    trees: dict[str, ast.Module] = field(default_factory=dict)
    imports: dict[str, dict[str, Origin]] = field(default_factory=dict)
    classes: dict[str, tuple[str, ast.ClassDef]] = field(default_factory=dict)
    # A name for one of our classes, chosen by release.
    aliases: dict[str, str] = field(default_factory=dict)


def read(version: tuple[int, ...]) -> Reading:
    """Read our sources as they are on a release."""
    reading = Reading()
    for path in FILES:
        if path.name not in _ADAPTERS and (path.name not in _RUNNER_V2 or takes_runner_v2(version)):
            tree = ast.parse(path.read_text("utf-8"))
            reading.trees[path.name] = ast.fix_missing_locations(_Decided(version).visit(tree))
    compat = reading.trees["vllm_compat.py"]
    asked = {name for tree in reading.trees.values() if tree is not compat for name in _asked_of_compat(tree)}
    compat.body = _reachable(compat.body, asked)
    for name, tree in reading.trees.items():
        reading.imports[name] = dict(_imports(tree))
        reading.classes |= {node.name: (name, node) for node in tree.body if isinstance(node, ast.ClassDef)}
    reading.aliases = _aliases(compat)
    exported = reading.imports["vllm_compat.py"]
    for names in reading.imports.values():
        for local, (module, name) in list(names.items()):
            if module == COMPAT:
                del names[local]
                if name in exported:
                    names[local] = exported[name]
    return reading


def takes_runner_v2(version: tuple[int, ...]) -> bool:
    """Return whether vllm_compat lists a release among those of which the service takes model runner V2."""
    tree = ast.parse((APP / "vllm_compat.py").read_text("utf-8"))
    (listed,) = (
        node.value.args[0]
        for node in tree.body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "RUNNER_V2"
        and isinstance(node.value, ast.Call)
    )
    return version[:2] in ast.literal_eval(listed)


class _Decided(ast.NodeTransformer):
    """Writes what each comparison with VLLM_VERSION gives, and leaves out what is then never run."""

    def __init__(self, version: tuple[int, ...]) -> None:
        self._version = version

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if "VLLM_VERSION" not in {term.id for term in [node.left, *node.comparators] if isinstance(term, ast.Name)}:
            return node
        code = compile(ast.fix_missing_locations(ast.Expression(node)), "comparison", "eval")
        return ast.Constant(eval(code, {"VLLM_VERSION": self._version}))  # noqa: S307 - a comparison of ours

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        deciding = isinstance(node.op, ast.Or)
        known = [value.value for value in node.values if isinstance(value, ast.Constant)]
        return ast.Constant(deciding) if deciding in known else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return (node.body if node.test.value else node.orelse) or [ast.Pass()]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        ends = [place for place, statement in enumerate(node.body) if isinstance(statement, ast.Return)]
        node.body = node.body[: ends[0] + 1] if ends else node.body
        return node


def _asked_of_compat(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == COMPAT:
            yield from (alias.name for alias in node.names)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in {"compat", "vllm_compat"}
        ):
            yield node.attr


def _reachable(body: list[ast.stmt], asked: set[str]) -> list[ast.stmt]:
    """Leave out definitions that nothing uses on this release."""
    definitions = {node.name: node for node in body if isinstance(node, Definition)}
    others = [node for node in body if not isinstance(node, Definition) and "__all__" not in ast.unparse(node)]
    used: set[str] = set()
    new = asked | {name for node in others for name in _names(node)}
    while new:
        used |= new
        new = {name for one in new if one in definitions for name in _names(definitions[one])} - used
    return [node for node in body if not isinstance(node, Definition) or node.name in used]


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _imports(tree: ast.Module) -> Iterator[tuple[str, Origin]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("vllm", "app"):
            for alias in node.names:
                if node.module.startswith("vllm") or node.module == COMPAT:
                    yield alias.asname or alias.name, (node.module, alias.name)


def _aliases(compat: ast.Module) -> dict[str, str]:
    """Return the names whose value is what a function returns, where that is the name of a class."""
    returned = {
        node.name: node.body[-1].value.id
        for node in compat.body
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.body[-1], ast.Return)
        and isinstance(node.body[-1].value, ast.Name)
    }
    found = {}
    for node in compat.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(func=ast.Name(id=function))) if (
                function in returned
            ):
                found[name] = returned[function]
    return found
