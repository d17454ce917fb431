"""Telling whether a function still computes what a pattern takes it to compute."""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable


@functools.cache
def code_digest(function: Callable) -> str:
    """A digest of a function's source, without its formatting, comments, annotations and
    docstring; "" if the source is not available.

    mlx-lm has no other sign of what a module computes than its code. A digest that is not known
    means that a pattern has to step aside, be it a new version of mlx-lm or a subclass.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ""
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef):
        return ""
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
    node.returns = None
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:16]


def call_digest(cls: type) -> str:
    """The digest of a class's own `__call__`; "" if it has none."""
    call = cls.__dict__.get("__call__")
    return "" if call is None else code_digest(call)
