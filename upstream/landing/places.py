"""Finds where something belongs in a file of MLX, by the file's structure."""

import re

from .cpp import blanked, closing
from .errors import Missing


def _line_start(text, position):
    return text.rfind("\n", 0, position) + 1


def before_namespace_end(name):
    """Before the brace that ends the last namespace of this name."""

    def find(text):
        code = blanked(text)
        found = list(re.finditer(rf"\bnamespace\s+{name}\s*\{{", code))
        if not found:
            raise Missing(f"namespace {name}")
        return _line_start(text, closing(code, found[-1].end() - 1))

    return find


def before_function_end(head):
    """Before the brace that ends the function whose declaration begins like this."""

    def find(text):
        code = blanked(text)
        start = code.find(head)
        if start < 0:
            raise Missing(f"the function {head}")
        return _line_start(text, closing(code, code.index("{", start)))

    return find


def before_array_end(name):
    """Before the brace that ends the array's initializer."""

    def find(text):
        code = blanked(text)
        found = re.search(rf"\b{name}\[\]\s*=\s*\{{", code)
        if not found:
            raise Missing(f"the array {name}")
        return _line_start(text, closing(code, found.end() - 1))

    return find


def after_includes(prefix):
    """After the last include of a path that begins like this."""

    def find(text):
        found = list(re.finditer(rf'^#include "{prefix}[^"]*"\n', text, re.M))
        if not found:
            raise Missing(f'an #include "{prefix}..."')
        return found[-1].end()

    return find


def after_source(command, entry):
    """After an entry, which is not the last, of a CMake command's list."""

    def find(text):
        for start in re.finditer(rf"\b{command}\s*\(", text):
            end = closing(text, start.end() - 1)
            line = re.compile(rf"^[^\n]*(?<![\w.]){re.escape(entry)}\n", re.M)
            if found := line.search(text, start.end(), end):
                return found.end()
        raise Missing(f"the entry {entry} in a list of {command}")

    return find


def after_call(call):
    """After a CMake command that stands on a line of its own."""

    def find(text):
        found = re.search(rf"^{re.escape(call)}\n", text, re.M)
        if not found:
            raise Missing(f"the line {call}")
        return found.end()

    return find


def after_listed(directive, entry):
    """After an entry of a reStructuredText directive's list."""

    def find(text):
        start = re.search(rf"^\.\. {directive}::", text, re.M)
        found = start and re.compile(rf"^ +{entry}\n", re.M).search(text, start.end())
        if not found:
            raise Missing(f"the entry {entry} of a {directive}")
        return found.end()

    return find
