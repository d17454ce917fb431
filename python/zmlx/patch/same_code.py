"""Whether two methods are the same code, up to the names of the attributes that they use."""

import ast
import functools
import inspect
import textwrap
from dataclasses import dataclass


def roles(method, reference):
    """The attributes of `self` in `method` that play the parts of those in `reference`.

    Both are compared as syntax trees: comments, annotations, docstrings, layout and the order of
    keywords do not matter, and neither do the versions of Python and of its bytecode. Everything
    else has to agree, and global names have to mean the same objects.

    Returns:
        a dict from the attribute names of `reference` to those of `method`, or None if the code is
        not the same.
    """
    mine, theirs = _shape(reference), _shape(method)
    if mine is None or theirs is None or mine.tree != theirs.tree:
        return None
    if any(reference.__globals__[n] is not method.__globals__.get(n) for n in mine.globals):
        return None
    return dict(zip(mine.attributes, theirs.attributes, strict=True))


@dataclass(frozen=True)
class _Shape:
    """A function's syntax tree as text with the attributes of `self` numbered, their names, and the
    names that are neither arguments nor local."""

    tree: str
    attributes: tuple
    globals: frozenset


@functools.cache
def _shape(function):
    """A plain function's shape, or None for anything else."""
    if not inspect.isfunction(function) or function.__closure__ or hasattr(function, "__wrapped__"):
        return None
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, SyntaxError, ValueError):  # no source, or not that of one function
        return None
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list:
        return None
    tree.name, tree.returns = "", None
    if ast.get_docstring(tree, clean=False) is not None:
        del tree.body[0]
    reader = _Reader()
    tree = reader.visit(tree)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    outer = used.intersection(function.__globals__).difference(function.__code__.co_varnames)
    return _Shape(ast.dump(tree), tuple(reader.names), frozenset(outer))


class _Reader(ast.NodeTransformer):
    def __init__(self):
        self.names = []

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_Call(self, node):
        # Only where evaluating them does nothing else does the order of keywords not matter.
        if all(isinstance(k.value, ast.Name | ast.Attribute | ast.Constant) for k in node.keywords):
            node.keywords.sort(key=lambda k: k.arg or "")
        return self.generic_visit(node)

    def visit_Attribute(self, node):
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            if node.attr not in self.names:
                self.names.append(node.attr)
            node.attr = str(self.names.index(node.attr))
        return node
