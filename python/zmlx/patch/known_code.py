"""Telling whether a function still computes what a pattern takes it to compute.

mlx-lm has no other sign of what a module computes than its code. So a pattern knows the code that
it replaces by a digest, and steps aside from all other: a new version of mlx-lm, a subclass.
Formatting, comments, annotations, docstrings and the order of keywords do not matter, nor does the
version of Python.
"""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A method's code up to the names of the attributes of `self` that it uses.

    Attributes:
        digest: of the code with the attributes numbered.
        attributes: their names, in the order of first use.
        outer: names that are neither arguments nor local.
    """

    digest: str
    attributes: tuple[str, ...]
    outer: frozenset[str]


@functools.cache
def code_digest(function: Callable) -> str:
    """A digest of a function's code; "" if its source is not available."""
    tree = _tree(function)
    return "" if tree is None else _digest(_Plain().visit(tree))


def call_digest(cls: type) -> str:
    """The digest of a class's own `__call__`; "" if it has none."""
    call = cls.__dict__.get("__call__")
    return "" if call is None else code_digest(call)


@functools.cache
def code_shape(function: Callable) -> Shape | None:
    """The shape of a plain function; None for anything else, and if its source is not available."""
    tree = _tree(function)
    if tree is None:
        return None
    numbered = _Numbered()
    tree = numbered.visit(tree)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    outer = names.intersection(function.__globals__).difference(function.__code__.co_varnames)
    return Shape(_digest(tree), tuple(numbered.names), frozenset(outer))


def roles(function: Callable, known: dict[str, tuple], meant: dict[str, object]):
    """What is known of a method's code.

    Args:
        function: the method.
        known: by the digest of a shape `(what, names)`: anything, and names for the parts that the
            attributes play, in the order of first use.
        meant: objects that the names outside of the method must stand for.

    Returns:
        `(what, attributes)` with a dict from parts to the method's attributes; None if the code is
        not known.
    """
    shape = code_shape(function)
    if shape is None or shape.digest not in known:
        return None
    if any(meant.get(name) is not function.__globals__[name] for name in shape.outer):
        return None
    what, names = known[shape.digest]
    return what, dict(zip(names, shape.attributes, strict=True))


def _tree(function):
    """A plain function's definition without its name and docstring, or None."""
    if not inspect.isfunction(function) or function.__closure__ or hasattr(function, "__wrapped__"):
        return None
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, SyntaxError, ValueError):  # no source, or not that of one function
        return None
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list:
        return None
    tree.name, tree.returns = "_", None
    if ast.get_docstring(tree, clean=False) is not None:
        tree.body = tree.body[1:] or [ast.Pass()]
    return tree


def _digest(tree):
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


class _Plain(ast.NodeTransformer):
    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_Call(self, node):
        # Only where evaluating them does nothing else does the order of keywords not matter.
        if all(isinstance(k.value, ast.Name | ast.Attribute | ast.Constant) for k in node.keywords):
            node.keywords.sort(key=lambda k: k.arg or "")
        return self.generic_visit(node)


class _Numbered(_Plain):
    def __init__(self):
        self.names = []

    def visit_Attribute(self, node):
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            if node.attr not in self.names:
                self.names.append(node.attr)
            node.attr = f"a{self.names.index(node.attr)}"
        return node
