"""vLLM's Python sources, read and not imported: which names there are, and what takes which arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """One file's names."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.tree = ast.parse(path.read_text("utf-8"))

    @cached_property
    def names(self) -> dict[str, ast.stmt]:
        """What each name of the module is bound by, whatever condition that is under; the last one counts."""
        return {name: statement for statement in _statements(self.tree.body) for name in _bound(statement)}

    @cached_property
    def typed_only(self) -> set[str]:
        """Names that are there for type checkers alone."""
        found = [
            node for node in self.tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        typed = {name for node in found for statement in node.body for name in _bound(statement)}
        others = (statement for node in self.tree.body if node not in found for statement in _statements([node]))
        return typed - {name for statement in others for name in _bound(statement)}

    @cached_property
    def stars(self) -> list[str]:
        found = [node for node in _statements(self.tree.body) if isinstance(node, ast.ImportFrom)]
        return [self.origin(node) for node in found if node.names[0].name == "*"]

    @cached_property
    def lazy(self) -> set[str]:
        """The strings of a module that makes names when they are asked for: a name among them may be one."""
        if "__getattr__" not in self.names:
            return set()
        return {
            node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }

    def origin(self, node: ast.ImportFrom) -> str:
        """Return the absolute name of the module that `node` imports from."""
        if not node.level:
            return node.module or ""
        parts = self.package.split(".")
        return ".".join([*parts[: len(parts) + 1 - node.level], *([node.module] if node.module else [])])


@dataclass(frozen=True, eq=False)
class Class:
    """A class, and where its bases are to be looked for."""

    module: Module
    node: ast.ClassDef


class Sources:
    """The sources below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = lru_cache(maxsize=None)(self._module)

    def _module(self, name: str) -> Module | None:
        path = self.folder.joinpath(*name.split("."))
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return Module(name, file)
        return None

    def has(self, module: str, name: str) -> bool:
        """Whether `from module import name` finds something."""
        found = self.module(module)
        if found is None:
            return False
        known = (name in found.names and name not in found.typed_only) or name in found.lazy
        known = known or self.module(f"{module}.{name}") is not None
        return known or any(self.has(star, name) for star in found.stars)

    def find(self, module: str, name: str) -> Class | Function | None:
        """Return the class or function that a name stands for, or the class of what it is an instance of; else None."""
        found = self.module(module)
        if found is None:
            return None
        match found.names.get(name):
            case ast.ClassDef() as node:
                return Class(found, node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() as function:
                return function
            case ast.ImportFrom() as node:
                (real,) = [alias.name for alias in node.names if (alias.asname or alias.name) == name]
                return self.find(found.origin(node), real)
            case ast.Assign(value=ast.Name(id=other)) | ast.Assign(value=ast.Call(func=ast.Name(id=other))):
                return self.find(module, other)
            case ast.AnnAssign(value=ast.Call(func=ast.Name(id=other))) | ast.AnnAssign(annotation=ast.Name(id=other)):
                return self.find(module, other)
        origin = next((star for star in found.stars if self.has(star, name)), None)
        return None if origin is None else self.find(origin, name)

    def lineage(self, cls: Class) -> Iterator[Class]:
        """Yield a class and those of its ancestors that are vLLM's, nearest first."""
        yield cls
        for base in cls.node.bases:
            name = base.value if isinstance(base, ast.Subscript) else base
            if isinstance(name, ast.Name) and isinstance(found := self.find(cls.module.name, name.id), Class):
                yield from self.lineage(found)

    def method(self, cls: Class, name: str) -> Function | None:
        return next((found for one in self.lineage(cls) if (found := methods(one.node).get(name))), None)

    def fields(self, cls: Class) -> dict[str, ast.AnnAssign]:
        """Return the annotated names of a class: of a dataclass, its fields."""
        pairs = [
            (node.target, node)
            for one in self.lineage(cls)
            for node in one.node.body
            if isinstance(node, ast.AnnAssign)
        ]
        return {target.id: node for target, node in pairs if isinstance(target, ast.Name)}

    def attributes(self, cls: Class) -> set[str]:
        """Return what an instance has: methods, properties, names of the class, and what its methods set on it."""
        found: set[str] = set()
        for one in self.lineage(cls):
            found |= {name for node in one.node.body for name in _bound(node)}
            found |= {
                node.attr
                for node in ast.walk(one.node)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            }
        return found


def methods(node: ast.ClassDef) -> dict[str, Function]:
    return {one.name: one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body that run in its own scope, those under conditions too."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for inner in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, inner, []))
            for handler in getattr(statement, "handlers", []):
                yield from _statements(handler.body)


def _bound(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
        case ast.Assign(targets=targets):
            return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []
