"""Where the names in a Python program come from, read from its syntax tree. Nothing is run.

`Program.uses` lists each place where a program takes a value by name, with the dotted origin of
that value: `sp.run` after `import subprocess as sp` is `subprocess.run`, and so is
`getattr(__import__("subprocess"), "r" + "un")`. The instance that a call makes is marked by
brackets: `pathlib.Path().read_text`.

It follows imports of every form, assignments, default values, annotations, attributes of `self`,
getattr, `__dict__`, sys.modules, `__import__` and import_module. It does not follow containers,
what functions return, or texts that are computed at run time: what a program hides there, the
sandbox notes when it opens, starts, connects or compiles something (`sandbox/inside/audit.py`).
Reading `os.environ`, asking `os.stat` and native code it does not see.

A program is read in a bounded number of steps, whatever it is: each question is asked once, and
one whose answers lead through too many names is refused as `code_too_deep`.
"""

from __future__ import annotations

import ast
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from toolgenesis_sft.errors import ModelFault
from toolgenesis_sft.python_source import parser_bomb

MAX_CODE_CHARS = 500_000
MAX_CHAIN = 40  # nested calls that are followed
MAX_ORIGINS = 200  # of one expression
MAX_NAME_CHARS = 1_000  # of a text or an origin; the head of a longer origin stands for it
# One is a question, or an origin found (more for a long one). The standard library's hungriest
# module takes 54,000; all of them take some 4 s and 400 MiB, the tree included.
MAX_STEPS = 500_000

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
IMPORTERS = ("builtins.__import__", "importlib.import_module", "importlib.__import__")

Origins: TypeAlias = frozenset[str]
NONE: Origins = frozenset()
COMPUTED = "?"  # stands for a name that only exists at run time


@dataclass(frozen=True)
class Use:
    """A value taken by name. `origins` is empty where it is the program's own.

    attributes: the names after the dots, as written.
    is_copied: the value gets another name, under which it is followed.
    is_called: with `num_arguments`, of which the first is the text `first_text` (None where the
    program does not spell it out) or has the origins `first_origins`; `keywords` are named.
    """

    line: int
    attributes: tuple[str, ...]
    origins: Origins
    is_copied: bool = False
    is_called: bool = False
    num_arguments: int = 0
    first_text: str | None = None
    first_origins: Origins = NONE
    keywords: frozenset[str | None] = frozenset()


@dataclass
class Scope:
    """Names bound in a module, class or function (a comprehension counts as one)."""

    kind: Literal["module", "class", "function", "comprehension"]
    parent: Scope | None = None
    origins: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    values: dict[str, list[tuple[ast.expr, Scope]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    instances: dict[str, list[tuple[ast.expr, Scope]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    elsewhere: set[str] = field(default_factory=set)  # declared global or nonlocal
    certain: dict[str, int] = field(default_factory=dict)  # bound by a statement that always runs

    def bound(self, name: str) -> bool:
        return name in self.origins and name not in self.elsewhere


def parse(code: str) -> ast.Module:
    """Raises ModelFault where the code is no Python, too deep, or over 500,000 characters."""
    if len(code) > MAX_CODE_CHARS:
        raise ModelFault("code_too_large", f"{len(code)} characters")
    if bomb := parser_bomb(code):
        raise ModelFault("code_too_deep", bomb)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" is the model's affair
            return ast.parse(code)
    except (SyntaxError, ValueError) as error:
        raise ModelFault("syntax_error", str(error)) from error
    except (RecursionError, MemoryError) as error:
        raise ModelFault("code_too_deep", str(error)) from error


class Program:
    """One syntax tree: first all bindings, then the origin of each use."""

    def __init__(self, tree: ast.Module) -> None:
        self.module = Scope("module")
        self.stars: list[str] = []
        self.attributes: dict[str, list[tuple[ast.expr, Scope]]] = defaultdict(list)
        self.methods: set[str] = set()
        self._seen: list[tuple[ast.expr, Scope]] = []
        self._calls: dict[int, ast.Call] = {}
        self._copied: set[int] = set()
        self._known: dict[tuple[str, Hashable], Origins] = {}
        self._texts: dict[int, tuple[str | None, int]] = {}  # or None, from this depth on
        self._steps_left = MAX_STEPS
        self._declaring: dict[int, Scope] = {}
        # (node, its scope, whether only what is called in it runs, whether it always runs)
        self._todo: list[tuple[ast.AST, Scope, bool, bool]] = []
        self._push(tree.body, self.module, certain=True)
        while self._todo:
            self._read(*self._todo.pop())
        for scope in self._declaring.values():
            self._share(scope)

    def uses(self) -> list[Use]:
        """In order of lines. A call or a subscript is one where it has a name's origin.

        Raises ModelFault where the program's names lead through too many others.
        """
        return sorted(
            (self._use(node, scope) for node, scope in self._seen), key=lambda use: use.line
        )

    def _use(self, node: ast.expr, scope: Scope) -> Use:
        call = self._calls.get(id(node))
        first = call.args[0] if call and call.args else None
        origins = self.origins(node, scope)
        if isinstance(node, ast.Call | ast.Subscript):
            origins = frozenset(origin for origin in origins if not origin.endswith("()"))
        return Use(
            line=node.lineno,
            attributes=tuple(attributes(node)),
            origins=origins,
            is_copied=id(node) in self._copied,
            is_called=call is not None,
            num_arguments=len(call.args) + len(call.keywords) if call else 0,
            first_text=self.text(first, scope) if first else None,
            first_origins=self.origins(first, scope) if first else NONE,
            keywords=frozenset(word.arg for word in call.keywords) if call else frozenset(),
        )

    # --- bindings -------------------------------------------------------------------------

    def _push(
        self,
        nodes: Iterable[ast.AST | None],
        scope: Scope,
        quiet: bool = False,
        certain: bool = False,
    ) -> None:
        self._todo.extend((node, scope, quiet, certain) for node in nodes if node is not None)

    def _read(self, node: ast.AST, scope: Scope, quiet: bool, certain: bool) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._read_function(node, scope, certain)
            case ast.ClassDef():
                self._bind(scope, node.name, node.lineno, certain)
                self._push([*node.decorator_list, *node.bases, *node.keywords], scope)
                self._push(node.body, Scope("class", scope))
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                inner = Scope("comprehension", scope)
                self._push([node.generators[0].iter], scope, quiet)
                for number, generator in enumerate(node.generators):
                    self._push([generator.target, *generator.ifs], inner, quiet)
                    self._push([generator.iter] if number else [], inner, quiet)
                elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
                self._push(elements, inner, quiet)
            case ast.Import():
                for alias in node.names:
                    origin = alias.name if alias.asname else alias.name.partition(".")[0]
                    self._bind(scope, alias.asname or origin, node.lineno, certain, origin)
            case ast.ImportFrom():
                for alias in node.names:
                    if alias.name == "*" and not node.level:
                        self.stars.append(node.module or "")
                    else:
                        origin = "" if node.level else f"{node.module}.{alias.name}"
                        name = alias.asname or alias.name
                        self._bind(scope, name, node.lineno, certain, origin)
            case ast.Global() | ast.Nonlocal():
                scope.elsewhere.update(node.names)
                self._declaring[id(scope)] = scope
            case ast.Assign():
                for target in node.targets:
                    self._assign(target, node.value, scope)
                    self._read_target(target, scope, node.lineno, certain)
                self._push([node.value], scope)
            case ast.AnnAssign():
                self._annotate(node.target, node.annotation, scope)
                if node.value is not None:
                    self._assign(node.target, node.value, scope)
                    self._read_target(node.target, scope, node.lineno, certain)
                else:
                    self._push([node.target], scope)
                self._push([node.annotation], scope, quiet=True)
                self._push([node.value], scope)
            case ast.NamedExpr():
                holder = scope
                while holder.kind == "comprehension" and holder.parent is not None:
                    holder = holder.parent
                self._assign(node.target, node.value, scope, holder)
                self._bind(holder, node.target.id, node.lineno)
                self._push([node.value], scope, quiet)
            case ast.ExceptHandler():
                if node.name:
                    self._bind(scope, node.name, node.lineno)
                self._push([node.type], scope, quiet=True)
                self._push(node.body, scope)
            case ast.Name():
                if isinstance(node.ctx, ast.Load):
                    if not quiet:
                        self._seen.append((node, scope))
                else:
                    self._bind(scope, node.id, node.lineno)
            case ast.Attribute():
                if isinstance(node.ctx, ast.Load) and not quiet:
                    self._seen.append((node, scope))
                root = node.value
                while isinstance(root, ast.Attribute):
                    root = root.value
                if not isinstance(root, ast.Name):  # what a dotted name begins with is no use
                    self._copied.add(id(root))
                    self._push([root], scope, quiet)
            case ast.Call():
                self._calls[id(node.func)] = node
                self._seen.append((node, scope))
                if isinstance(node.func, ast.Name) and node.func.id in (
                    "getattr",
                    "hasattr",
                    "vars",
                ):
                    self._copied.update(id(argument) for argument in node.args[:1])
                self._push([node.func], scope)
                self._push([*node.args, *node.keywords], scope, quiet)
            case ast.Subscript() if isinstance(node.ctx, ast.Load) and not quiet:
                self._seen.append((node, scope))
                self._copied.add(id(node.value))
                self._push([node.value, node.slice], scope)
            case ast.MatchAs() | ast.MatchStar() | ast.MatchMapping():
                captured = node.rest if isinstance(node, ast.MatchMapping) else node.name
                if captured:
                    self._bind(scope, captured, node.lineno)
                self._push(ast.iter_child_nodes(node), scope)
            case _:
                self._push(ast.iter_child_nodes(node), scope, quiet)

    def _read_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope, certain: bool
    ) -> None:
        inner, arguments = Scope("function", scope), node.args
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = dict(
            zip(reversed([a.arg for a in positional]), reversed(arguments.defaults), strict=False)
        )
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if default is not None:
                defaults[argument.arg] = default
        everything = [*positional, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for argument in filter(None, everything):
            self._bind(inner, argument.arg, argument.lineno)
            if argument.arg in defaults:
                inner.values[argument.arg].append((defaults[argument.arg], scope))
                self._copied.add(id(defaults[argument.arg]))
            if argument.annotation is not None:
                inner.instances[argument.arg].append((argument.annotation, scope))
                self._push([argument.annotation], scope, quiet=True)
        self._push(defaults.values(), scope)
        if isinstance(node, ast.Lambda):
            self._push([node.body], inner)
            return
        self._bind(scope, node.name, node.lineno, certain)
        if scope.kind == "class":
            self.methods.add(node.name)
        self._push(node.decorator_list, scope)
        self._push([node.returns], scope, quiet=True)
        self._push(node.body, inner)

    def _bind(
        self, scope: Scope, name: str, line: int, certain: bool = False, origin: str = ""
    ) -> None:
        scope.origins[name].update([origin] if origin else [])
        if certain:
            scope.certain[name] = min(line, scope.certain.get(name, line))

    def _share(self, scope: Scope) -> None:
        """What a function binds to a `global` or `nonlocal` name is bound further out."""
        outer = scope.parent
        while outer is not None:
            for name in scope.elsewhere:
                if outer.bound(name) or outer.kind == "module":
                    outer.origins[name] |= scope.origins.get(name, set())
                    outer.values[name] += scope.values.get(name, [])
                    outer.instances[name] += scope.instances.get(name, [])
            outer = outer.parent

    def _read_target(self, target: ast.expr, scope: Scope, line: int, certain: bool) -> None:
        if isinstance(target, ast.Name):
            self._bind(scope, target.id, line, certain)
        else:
            self._push([target], scope)

    def _assign(
        self, target: ast.expr, value: ast.expr, scope: Scope, holder: Scope | None = None
    ) -> None:
        """Remember what a name, or an attribute of anything, was given."""
        if isinstance(target, ast.Name):
            (holder or scope).values[target.id].append((value, scope))
            if scope.kind == "class":
                self.attributes[target.id].append((value, scope))
            self._copied.add(id(value))
        elif isinstance(target, ast.Attribute):
            self.attributes[target.attr].append((value, scope))
            self._copied.add(id(value))
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            for part, inner in zip(target.elts, value.elts, strict=False):
                if isinstance(part, ast.Starred):
                    return
                self._assign(part, inner, scope)

    def _annotate(self, target: ast.expr, annotation: ast.expr, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope.instances[target.id].append((annotation, scope))

    # --- origins --------------------------------------------------------------------------

    def origins(self, node: ast.expr, scope: Scope, depth: int = 0) -> Origins:
        """The dotted origins that an expression may have; empty where none is known."""
        self._step()
        return self._once(("node", id(node)), self._origins(node, scope, depth + 1), depth)

    def _once(self, key: tuple[str, Hashable], found: Iterator[str], depth: int) -> Origins:
        """Each question is answered once; one that asks itself gets no answer."""
        if key not in self._known:
            if depth > MAX_CHAIN:
                return NONE
            self._known[key] = NONE
            first: set[str] = set()
            for origin in found:
                self._step(1 + len(origin) // 50)
                first.add(tidy(origin[:MAX_NAME_CHARS]))
                if len(first) > 2 * MAX_ORIGINS:
                    first = set(sorted(first)[:MAX_ORIGINS])
            self._known[key] = frozenset(sorted(first)[:MAX_ORIGINS])
        return self._known[key]

    def _step(self, num_steps: int = 1) -> None:
        self._steps_left -= num_steps
        if self._steps_left < 0:
            raise ModelFault("code_too_deep", f"its names take over {MAX_STEPS} steps to follow")

    def _origins(self, node: ast.expr, scope: Scope, depth: int) -> Iterator[str]:
        match node:
            case ast.Name():
                yield from self._name(node.id, scope, node.lineno, depth)
            case ast.Attribute():
                path, root = attributes(node), node.value
                while isinstance(root, ast.Attribute):
                    root = root.value
                for base in self.origins(root, scope, depth):
                    yield ".".join([base, *path])
                for place, name in enumerate(path, start=1):  # after `self.folder = Path(...)`
                    for base in self._attribute(name, depth):
                        yield ".".join([base, *path[place : place + MAX_NAME_CHARS]])
            case ast.Call():
                yield from self._call(node, scope, depth)
            case ast.Subscript():
                if not (isinstance(node.slice, ast.Name) and node.slice.id == "__name__"):
                    key = self.text(node.slice, scope)
                    for base in self.origins(node.value, scope, depth):
                        yield from self._item(base, key or COMPUTED)
            case ast.BinOp(op=ast.Div()):
                yield from self.origins(node.left, scope, depth)
            case ast.IfExp():
                yield from self.origins(node.body, scope, depth)
                yield from self.origins(node.orelse, scope, depth)
            case ast.BoolOp():
                for part in node.values:
                    yield from self.origins(part, scope, depth)
            case ast.Await() | ast.Starred() | ast.NamedExpr():
                yield from self.origins(node.value, scope, depth)
            case _:
                return

    def _name(self, name: str, scope: Scope, line: int, depth: int) -> Iterator[str]:
        here: Scope | None = scope
        deferred = False  # inside a function, which runs after the module's own statements
        while here is not None:
            if here.bound(name) and (here.kind != "class" or here is scope):
                yield from self._once((name, id(here)), self._bound(name, here, depth), depth)
                if here.kind in ("function", "comprehension"):
                    return  # a local name never falls through to a global one
                if name in here.certain and (deferred or here.certain[name] < line):
                    return
            deferred |= here.kind == "function"
            here = here.parent
        yield from (f"{module}.{name}" for module in self.stars)
        yield f"builtins.{name}"

    def _bound(self, name: str, scope: Scope, depth: int) -> Iterator[str]:
        yield from scope.origins[name]
        for value, where in scope.values.get(name, []):
            yield from self.origins(value, where, depth)
        for annotation, where in scope.instances.get(name, []):
            yield from (f"{origin}()" for origin in self.origins(annotation, where, depth))

    def _attribute(self, name: str, depth: int) -> Origins:
        """What an attribute of that name was given, anywhere in the program."""
        values = self.attributes.get(name, [])
        found = (o for value, where in values for o in self.origins(value, where, depth))
        return self._once(("attribute", name), found, depth)

    def _call(self, node: ast.Call, scope: Scope, depth: int) -> Iterator[str]:
        arguments = node.args
        if isinstance(node.func, ast.Call):  # operator.attrgetter("system")(os)
            maker = self.origins(node.func.func, scope, depth)
            if "operator.attrgetter" in maker and node.func.args and arguments:
                name = self.text(node.func.args[0], scope)
                for base in self.origins(arguments[0], scope, depth):
                    yield f"{base}.{name or COMPUTED}"
        for function in self.origins(node.func, scope, depth):
            text = self.text(arguments[0], scope) if arguments else None
            if function in IMPORTERS:
                yield text or f"importlib.{COMPUTED}"
                if function == IMPORTERS[0] and text:
                    yield text.partition(".")[0]
            elif function == "builtins.getattr" and len(arguments) >= 2:
                name = self.text(arguments[1], scope)
                for base in self.origins(arguments[0], scope, depth):
                    yield f"{base}.{name or COMPUTED}"
            elif function == "builtins.vars" and arguments:
                for base in self.origins(arguments[0], scope, depth):
                    yield f"{base}.__dict__"
            elif function == "sys.modules.get" and text:
                yield text
            else:
                yield f"{function}()"

    def _item(self, base: str, key: str) -> Iterator[str]:
        if base == "sys.modules":
            yield f"importlib.{COMPUTED}" if key == COMPUTED else key
        elif base.endswith(".__dict__"):
            yield f"{base.removesuffix('.__dict__')}.{key}"
        elif base == "builtins":  # __builtins__ is a dict in an imported module
            yield f"builtins.{key}"
        elif base == "builtins.globals()" and key == "__builtins__":
            yield "builtins"

    def text(self, node: ast.expr, scope: Scope, depth: int = 0) -> str | None:
        """A text that the program spells out, in one piece or in several; None otherwise, and
        where it is too long to name anything.

        A text is read once; where there is none, again only from a place less deep.
        """
        known, failed_at = self._texts.get(id(node), (None, MAX_CHAIN + 1))
        if known is None and depth < failed_at:
            self._step()
            self._texts[id(node)] = (None, depth)  # for one that asks for itself
            known = self._text(node, scope, depth + 1)
            if known is not None and len(known) > MAX_NAME_CHARS:
                known = None
            self._texts[id(node)] = (known, depth)
        return known

    def _text(self, node: ast.expr, scope: Scope, depth: int) -> str | None:
        match node:
            case ast.Constant(value=str(value)):
                return value
            case ast.BinOp(op=ast.Add()):
                return self._joined([node.left, node.right], "", scope, depth)
            case ast.JoinedStr():
                return self._joined(node.values, "", scope, depth)
            case ast.FormattedValue():
                return self.text(node.value, scope, depth)
            case ast.Call(
                func=ast.Attribute(value=glue, attr="join"),
                args=[ast.List() | ast.Tuple() as parts],
            ):
                return self._joined(parts.elts, self.text(glue, scope, depth), scope, depth)
            case ast.Subscript(
                slice=ast.Slice(lower=None, upper=None, step=ast.UnaryOp(op=ast.USub()))
            ):
                inner = self.text(node.value, scope, depth)
                return inner[::-1] if inner is not None else None
            case ast.Name():
                here: Scope | None = scope
                while here is not None and not here.bound(node.id):
                    here = here.parent
                values = here.values.get(node.id, []) if here else []
                return self.text(*values[0], depth) if len(values) == 1 else None
            case _:
                return None

    def _joined(
        self, parts: list[ast.expr], glue: str | None, scope: Scope, depth: int
    ) -> str | None:
        if glue is None:
            return None
        texts: list[str] = []
        num_chars = -len(glue)
        for part in parts:
            text = self.text(part, scope, depth)
            if text is None:
                return None
            num_chars += len(glue) + len(text)
            if num_chars > MAX_NAME_CHARS:
                return None
            texts.append(text)
        return glue.join(texts)


def attributes(node: ast.expr) -> list[str]:
    """The names after the dots of a dotted expression, from left to right."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return names[::-1]


def tidy(origin: str) -> str:
    """One spelling for what has several: the builtins module and the os module."""
    for spelling in ("builtins.__builtins__", "builtins.print.__self__", "builtins.len.__self__"):
        if origin == spelling or origin.startswith(f"{spelling}."):
            origin = "builtins" + origin.removeprefix(spelling)
    head, dot, rest = origin.partition(".")
    return f"os{dot}{rest}" if head in ("posix", "nt") else origin
