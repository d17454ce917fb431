"""``jit``: from a Python function of scalars to a kernel, by way of its syntax tree."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import textwrap
from collections.abc import Callable
from typing import Any

from zmlx.kernel import Kernel, elementwise

#: Python's and MLX's names for functions of the language that are called otherwise there.
_RENAMED = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "clip": "clamp",
    "fabs": "abs",
    "isclose": None,
    "maximum": "max",
    "minimum": "min",
    "negative": "-",
    "power": "pow",
    "remainder": None,
}
_CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan, "tau": math.tau}
_MODULES = ("mx", "math", "np", "numpy", "mlx", "nn")
_BINARY = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
}
_COMPARE = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_MOST_STEPS = 1000


class _Reader:
    """Turns a function's body into bindings and an expression of the language."""

    def __init__(self, function: Callable, arguments: list[str]) -> None:
        self._function = function
        self._bindings: list[str] = []
        self._names = {name: name for name in arguments}
        self._numbers: dict[str, float] = {}
        self._outside = {**inspect.getclosurevars(function).globals}
        self._outside.update(inspect.getclosurevars(function).nonlocals)

    def read(self, body: list[ast.stmt]) -> str:
        result = self._statements(body)
        if result is None:
            raise self._error(body[-1], "the function must end with a return")
        return " ".join([*self._bindings, result])

    def _error(self, node: ast.AST, message: str) -> ValueError:
        line = getattr(node, "lineno", 1)
        return ValueError(f"[jit] {self._function.__name__}, line {line}: {message}.")

    def _statements(self, body: list[ast.stmt]) -> str | None:
        for i, statement in enumerate(body):
            if isinstance(statement, ast.Return):
                if statement.value is None:
                    raise self._error(statement, "return needs a value")
                return self._expression(statement.value)
            if isinstance(statement, ast.If):
                return self._branch(statement, body[i + 1 :])
            self._statement(statement)
        return None

    def _branch(self, statement: ast.If, rest: list[ast.stmt]) -> str:
        """``if c: return a`` and what follows is ``c ? a : ...``."""
        condition = self._expression(statement.test)
        known = dict(self._names)
        yes = self._statements(statement.body)
        self._names = dict(known)
        no = self._statements(statement.orelse or rest)
        self._names = known
        if yes is None or no is None:
            raise self._error(statement, "both ways of an if must return")
        return f"(({condition}) ? ({yes}) : ({no}))"

    def _statement(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return  # a docstring
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            self._bind(statement.targets[0], self._expression(statement.value))
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self._bind(statement.target, self._expression(statement.value))
        elif isinstance(statement, ast.AugAssign):
            value = ast.BinOp(
                ast.Name(statement.target.id, ast.Load()), statement.op, statement.value
            )
            self._bind(statement.target, self._expression(ast.copy_location(value, statement)))
        elif isinstance(statement, ast.For):
            self._loop(statement)
        else:
            kind = type(statement).__name__.lower()
            raise self._error(statement, f"a kernel cannot hold this statement ({kind})")

    def _bind(self, target: ast.expr, value: str) -> None:
        if not isinstance(target, ast.Name):
            raise self._error(target, "only plain names can be assigned to")
        # Each assignment is a binding of its own: what was read before keeps its meaning.
        name = f"{target.id}_{len(self._bindings)}_"
        self._bindings.append(f"let {name} = {value};")
        self._names[target.id] = name
        self._numbers.pop(target.id, None)

    def _loop(self, loop: ast.For) -> None:
        """A ``for i in range(...)`` of fixed length is written out."""
        call = loop.iter
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "range"
            and isinstance(loop.target, ast.Name)
            and not loop.orelse
        ):
            raise self._error(loop, "loops must be of the form 'for i in range(...)'")
        steps = range(*[self._whole(argument) for argument in call.args])
        if len(steps) > _MOST_STEPS:
            raise self._error(loop, f"a loop may have at most {_MOST_STEPS} steps")
        for i in steps:
            self._numbers[loop.target.id] = i
            self._names.pop(loop.target.id, None)
            for statement in loop.body:
                if isinstance(statement, ast.Return | ast.If):
                    raise self._error(statement, "a loop cannot hold return or if")
                self._statement(statement)

    def _whole(self, node: ast.expr) -> int:
        try:
            value = eval(  # of numbers and names of numbers only
                compile(ast.Expression(node), "<range>", "eval"), {}, self._all_numbers()
            )
        except Exception:
            value = None
        if not isinstance(value, int):
            raise self._error(node, "range needs whole numbers known beforehand")
        return value

    def _all_numbers(self) -> dict[str, Any]:
        numbers = {k: v for k, v in self._outside.items() if isinstance(v, int | float)}
        return {**numbers, **self._numbers}

    def _number(self, value: float) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return f"({value})" if value < 0 else str(value)
        if math.isnan(value):
            return "NAN"
        if math.isinf(value):
            return "INFINITY" if value > 0 else "(-INFINITY)"
        text = repr(float(value))
        return f"({text})" if value < 0 else text

    def _expression(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=bool() | int() | float()):
                return self._number(node.value)
            case ast.Name():
                return self._name(node)
            case ast.Attribute():
                return self._constant(node)
            case ast.BinOp():
                return self._binary(node)
            case ast.UnaryOp():
                return self._unary(node)
            case ast.BoolOp():
                sign = " && " if isinstance(node.op, ast.And) else " || "
                return "(" + sign.join(self._expression(value) for value in node.values) + ")"
            case ast.Compare():
                return self._compare(node)
            case ast.IfExp():
                parts = (node.test, node.body, node.orelse)
                test, yes, no = (self._expression(part) for part in parts)
                return f"({test} ? {yes} : {no})"
            case ast.Call():
                return self._call(node)
        kind = type(node).__name__
        raise self._error(node, f"a kernel cannot hold this expression ({kind})")

    def _name(self, node: ast.Name) -> str:
        if node.id in self._names:
            return self._names[node.id]
        numbers = self._all_numbers()
        if node.id in numbers:
            return self._number(numbers[node.id])
        raise self._error(node, f"there is no '{node.id}' here: only arguments and numbers")

    def _constant(self, node: ast.Attribute) -> str:
        if isinstance(node.value, ast.Name) and node.value.id in _MODULES:
            if node.attr in _CONSTANTS:
                return self._number(_CONSTANTS[node.attr])
            raise self._error(node, f"there is no constant '{ast.unparse(node)}'")
        raise self._error(node, f"'{ast.unparse(node)}' is not a number")

    def _binary(self, node: ast.BinOp) -> str:
        left, right = self._expression(node.left), self._expression(node.right)
        if isinstance(node.op, ast.Pow):
            return f"pow({left}, {right})"
        if isinstance(node.op, ast.Div):  # Python's, of integers too
            return f"(float({left}) / float({right}))"
        if isinstance(node.op, ast.Mod):
            # Python's has the sign of the divisor.
            return f"({left} - {right} * floor(float({left}) / float({right})))"
        if isinstance(node.op, ast.FloorDiv):
            return f"floor(float({left}) / float({right}))"
        sign = _BINARY.get(type(node.op))
        if sign is None:
            raise self._error(node, f"the operator of '{ast.unparse(node)}' has no meaning here")
        return f"({left} {sign} {right})"

    def _unary(self, node: ast.UnaryOp) -> str:
        signs = {ast.USub: "-", ast.UAdd: "+", ast.Not: "!", ast.Invert: "~"}
        return f"({signs[type(node.op)]}{self._expression(node.operand)})"

    def _compare(self, node: ast.Compare) -> str:
        parts, left = [], self._expression(node.left)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            sign = _COMPARE.get(type(op))
            if sign is None:
                raise self._error(node, f"the comparison '{ast.unparse(node)}' has no meaning here")
            right = self._expression(comparator)
            parts.append(f"({left} {sign} {right})")
            left = right
        return "(" + " && ".join(parts) + ")"

    def _call(self, node: ast.Call) -> str:
        name = node.func
        if isinstance(name, ast.Attribute):
            module = ast.unparse(name.value)
            if module.split(".")[0] not in (*_MODULES, "metal"):
                raise self._error(node, f"'{ast.unparse(name)}' is not a function of kernels")
            called = name.attr
        elif isinstance(name, ast.Name):
            called = name.id
        else:
            raise self._error(node, "this cannot be called")
        if node.keywords:
            raise self._error(node, f"{called} takes no keywords here")
        arguments = [self._expression(argument) for argument in node.args]
        called = _RENAMED.get(called, called)
        if called is None:
            raise self._error(node, f"there is no '{ast.unparse(name)}' in kernels")
        if called == "-":
            return f"(-{arguments[0]})"
        if called in ("max", "min") and len(arguments) > 2:
            return functools.reduce(lambda a, b: f"{called}({a}, {b})", arguments)
        return f"{called}({', '.join(arguments)})"


def jit(fn: Callable | None = None, *, compute_dtype: Any = None) -> Kernel | Callable:
    """Makes a kernel of a Python function of scalars, by its syntax tree; a decorator.

    In the body ``exp``, ``mx.exp`` and ``math.exp`` mean the same; there may be assignments, loops
    over ``range`` of fixed length, ``if`` with a ``return`` on both ways, and numbers from outside.
    The function itself never runs.

    Raises:
        ValueError: with the line, if the function holds anything else.
    """
    if fn is None:
        return functools.partial(jit, compute_dtype=compute_dtype)
    try:
        source = inspect.getsource(fn)
    except OSError:
        raise ValueError(
            f"[jit] the source of {fn.__name__} cannot be read; define it in a file or a notebook."
        ) from None
    tree = ast.parse(textwrap.dedent(source)).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise ValueError("[jit] expected a function defined with def.")
    given = tree.args
    if given.vararg or given.kwarg or given.kwonlyargs or given.defaults or given.posonlyargs:
        raise ValueError(f"[jit] {fn.__name__}: arguments must be plain names without defaults.")
    names = [argument.arg for argument in given.args]
    expression = _Reader(fn, names).read(tree.body)
    return elementwise(expression, name=fn.__name__, inputs=names, compute_dtype=compute_dtype)
