"""How the block that owns a `SwitchGLU` combines the experts' outputs, read from its source.

This only serves reports made before the model ran. Whether a sum is fused is decided by the
operations themselves, and once they were seen, the report says what was seen.
"""

import ast
import functools
import inspect
import textwrap


@functools.cache
def combine_form(owner_class, attribute):
    """Why the weighted sum of `self.<attribute>(...)` in a class's methods is not expected to
    fuse, or "" if it is."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner_class)))
    except (OSError, TypeError, SyntaxError):
        return "the source of the block is not available"
    reader = _Reader(attribute)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            reader.read_function(node)
    if not reader.calls:
        return "the block does not call the experts in a method of its own"
    return "" if reader.fused else reader.note or "the block does not weight and sum the outputs"


class _Reader:
    """Follows the experts' outputs through assignments: "outputs", then "weighted", then a sum."""

    def __init__(self, attribute):
        self.attribute = attribute
        self.calls = False
        self.fused = False
        self.note = ""

    def read_function(self, function):
        names = {}
        statements = [node for node in ast.walk(function) if isinstance(node, ast.stmt)]
        for statement in sorted(statements, key=lambda node: node.lineno):
            value = getattr(statement, "value", None)
            if not isinstance(value, ast.expr):
                continue
            kind = self.kind(value, names)
            if isinstance(statement, ast.Assign):
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        names[target.id] = kind

    def kind(self, node, names):
        """What an expression is: "outputs", "weighted outputs" or None for anything else."""
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Call):
            return self._call(node, names)
        kinds = [self.kind(child, names) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and "outputs" in kinds:
            return "weighted outputs"
        return None

    def _call(self, node, names):
        function = node.func
        passed = [self.kind(argument, names) for argument in node.args]
        owner = self.kind(function.value, names) if isinstance(function, ast.Attribute) else None
        if owner is not None and function.attr == "astype":
            return owner
        if owner == "weighted outputs" and function.attr == "sum":
            self.fused = True
        elif ast.unparse(function) == f"self.{self.attribute}":
            self.calls = True
            return "outputs"
        for kind in passed:
            if kind is not None:
                self.note = f"the block passes the {kind} to {ast.unparse(function)}"
        return None
