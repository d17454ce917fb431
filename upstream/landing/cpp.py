"""Reads C++ just far enough to take declarations and definitions out of a file by their names."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .errors import Missing

ROOT = Path(__file__).resolve().parents[2]

_SKIP = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S
)
_NAMESPACE = re.compile(r"\s*(?:inline\s+)?namespace(\s+[\w:]+)?\s*\{")
_CLASS = re.compile(
    r"^(?:template\s*<[^{;]*>\s*)?(?:class|struct|enum(?:\s+class)?)\s+([\w:]+(?:<[^{;]*?>)?)"
)


@dataclass(frozen=True)
class Item:
    """One declaration or definition with the comment before it."""

    name: str  # qualified as it is written: `f`, `Class::member`
    text: str


def blanked(text):
    """The same text with comments and literals blanked out, position for position."""
    return _SKIP.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def closing(code, start):
    """The position of the bracket that closes the one at `start`; `code` is blanked."""
    pairs = {"(": ")", "[": "]", "{": "}"}
    stack = []
    for i in range(start, len(code)):
        if code[i] in pairs:
            stack.append(pairs[code[i]])
        elif stack and code[i] == stack[-1]:
            stack.pop()
            if not stack:
                return i
    raise Missing(f"a bracket is not closed: {code[start : start + 60]!r}")


def _end_of_item(code, start):
    """Behind the semicolon or the body that ends the declaration at `start`."""
    head = code[start:]
    is_type = bool(_CLASS.match(head.lstrip()))
    i = start
    while i < len(code):
        c = code[i]
        if c == ";":
            return i + 1
        if c in "([":
            i = closing(code, i)
        elif c == "{":
            before = code[start:i]
            end = closing(code, i)
            # A body ends a function; braces of a value or a type go on to a semicolon.
            if not is_type and "(" in before and not re.search(r"=\s*$", before):
                after = code[end + 1 :].lstrip()
                if not after.startswith(("{", ",")):  # not an initializer in a constructor
                    return end + 1
            i = end
        i += 1
    raise Missing(f"a declaration is not ended: {code[start : start + 60]!r}")


def _name(code):
    code = code.strip()
    found = _CLASS.match(code)
    if found and "(" not in code.split("{")[0]:
        return found.group(1)
    head = code.split("(")[0]
    if "operator" in head:
        return "operator"
    if "=" in head or "(" not in code:
        head = re.split(r"[=;\[{]", code)[0]
    words = re.findall(r"~?[\w:]+", head)
    return words[-1] if words else ""


def parse(text):
    """The items of a file: what its namespaces hold, in order. Preprocessor lines are left out."""
    items, comment_from, i = [], None, 0
    code = blanked(text)
    while i < len(text):
        if text[i].isspace():
            # An empty line parts a comment from what follows.
            if text[i] == "\n" and text[i + 1 : i + 2] == "\n":
                comment_from = None
            i += 1
        elif text.startswith("//", i):
            comment_from = i if comment_from is None else comment_from
            i = text.find("\n", i)
        elif text[i] == "#":
            while text[text.find("\n", i) - 1] == "\\":
                i = text.find("\n", i) + 1
            i, comment_from = text.find("\n", i), None
        elif found := _NAMESPACE.match(code, i):
            i, comment_from = found.end(), None
        elif text[i] in "};":
            i, comment_from = i + 1, None
        else:
            end = _end_of_item(code, i)
            start = i if comment_from is None else comment_from
            items.append(Item(_name(code[i:end]), text[start:end]))
            i, comment_from = end, None
        if i < 0:
            break
    return items


@cache
def items_of(path):
    return parse((ROOT / path).read_text())


def take(path, *names):
    """The texts of the items of these names in a file of this project, in this order.

    All overloads of a name are taken. Raises Missing for a name that the file does not have.
    """
    texts = []
    for name in names:
        found = [item.text for item in items_of(path) if item.name == name]
        if not found:
            raise Missing(f"{path} has no '{name}'; upstream/ must follow this project's source")
        texts += found
    return texts


def all_of(path, without=()):
    """The texts of all items of a file but some."""
    names = {item.name for item in items_of(path)}
    for name in without:
        if name not in names:
            raise Missing(f"{path} has no '{name}'; upstream/ must follow this project's source")
    return [item.text for item in items_of(path) if item.name not in without]


def member(class_text, name):
    """The text of a class's member of this name."""
    code = blanked(class_text)
    body = code.index("{", re.search(r"\b(?:class|struct)\b", code).start())
    inner = class_text[body + 1 : closing(code, body)]
    inner = re.sub(r"^ *(?:public|private|protected):$", "", inner, flags=re.M)
    for item in parse(inner):
        if item.name == name:
            return item.text
    raise Missing(f"a class has no member '{name}'; upstream/ must follow this project's source")
