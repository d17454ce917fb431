"""Makes MLX's code of this project's: names, namespaces, and options that MLX does not get."""

import re

from .cpp import blanked, closing
from .errors import Missing

CLASSES = {
    "GatherQmmSwiglu": "GatherQMMSwiglu",
    "GatherQmmCombine": "GatherQMMCombine",
    "AddRmsNorm": "AddRMSNorm",
    "MoeRoute": "MoERoute",
}


def edit(text, *changes):
    """Replaces texts, each of which must be there; lines may be broken elsewhere.

    changes: (old, new), or (old, new, count) for one that is there more than once.
    """
    for old, new, *count in changes:
        expected = count[0] if count else 1
        pattern = re.compile(r"\s+".join(re.escape(part) for part in re.split(r"\s+", old)))
        text, found = pattern.subn(lambda _, new=new: new, text)
        if found != expected:
            raise Missing(f"this project's source has {found} times instead of {expected}: {old!r}")
    return text


def _without(text, begin, end):
    return text[:begin] + text[end:]


def _operand_end(code, start):
    """Where the operand of ?: that begins at `start` ends: at a bracket, comma or semicolon."""
    i, nested = start, 0
    while i < len(code):
        if code[i] in "([{":
            i = closing(code, i)
        elif code[i] == "?":
            nested += 1
        elif code[i] == ":" and code[i - 1 : i + 2].count(":") == 1:
            if nested == 0:
                return i
            nested -= 1
        elif code[i] in ",;)]}":
            return i
        i += 1
    return i


def _enclosing(code, position):
    """The bracket that is open at a position."""
    depth = 0
    for i in range(position - 1, -1, -1):
        depth += (code[i] in ")]}") - (code[i] in "([{")
        if depth < 0:
            return i
    raise Missing("no bracket is open")


def _fold_one(text, found, value):
    """Folds one occurrence of a condition whose value is known."""
    code = blanked(text)
    begin, end = found.span()
    after = code[end:]
    space = len(after) - len(after.lstrip())
    before = code[:begin].rstrip()
    if after.lstrip().startswith("?"):
        first = end + space + 1
        colon = _operand_end(code, first)
        last = _operand_end(code, colon + 1)
        kept = text[first:colon] if value else text[colon + 1 : last]
        return text[:begin] + kept.strip() + text[last:]
    if after.lstrip().startswith("&&" if value else "||"):
        rest = end + space + 2
        return _without(text, begin, rest + len(text[rest:]) - len(text[rest:].lstrip()))
    if before.endswith("&&" if value else "||"):
        return _without(text, len(before) - 2, end).replace("  ", " ", 0)
    if before.endswith("||" if value else "&&"):
        opening = _enclosing(code, begin)
        end = closing(code, opening)
        whole = code[opening + 1 : end]
        if re.search(r"\bif\s*$", code[:opening]) and ("&&" if value else "||") not in whole:
            text = text[: opening + 1] + "known_condition" + text[end:]
            return fold(text, known_condition=value)
    if (statement := re.search(r"\bif\s*(?:constexpr\s*)?\($", before)) and after[space] == ")":
        head = statement.start()
        body = end + space + 1
        body += len(code[body:]) - len(code[body:].lstrip())
        braces = code[body] == "{"
        stop = closing(code, body) + 1 if braces else code.index(";", body) + 1
        inner = text[body + 1 : stop - 1] if braces else text[body:stop]
        otherwise = re.match(r"\s*else\s*", code[stop:])
        rest = stop
        if otherwise:
            body = stop + otherwise.end()
            braces = code[body] == "{"
            rest = closing(code, body) + 1 if braces else code.index(";", body) + 1
            if not value:
                inner = text[body + 1 : rest - 1] if braces else text[body:rest]
        elif not value:
            inner = ""
            comment = re.search(r"(?:^ *//[^\n]*\n)+ *$", text[:head], re.M)
            head = comment.start() if comment else head
        inner = inner.strip()
        if re.match(r"(?:.*;\s*)?(?:return|throw)\b[^;]*;$", blanked(inner), re.S):
            depth = _enclosing(code, head)
            rest = closing(code, depth)  # what follows is never reached
            inner += "\n"
        return text[:head] + inner + text[rest:]
    raise Missing(f"an option cannot be folded: {text[max(0, begin - 40) : end + 40]!r}")


def fold(text, **values):
    """Evaluates options whose values are known: `x.exact ? a : b` becomes `a`, and so on.

    Declarations of the options (`bool exact;`) go too.
    """
    for name, value in values.items():
        text = re.sub(rf"^ *(?:bool|int) {name};[^\n]*\n", "", text, flags=re.M)
        pattern = re.compile(rf"(?<![\w.>:])(!?)(?:\w+(?:\.|->|::))*{name}\b(?!\s*[({{])")
        while found := pattern.search(blanked(text)):
            text = _fold_one(text, found, value != bool(found.group(1)))
    return text


def condition(text, expression, value):
    """Evaluates a comparison whose value is known."""
    marked = text.replace(expression, "known_condition")
    if marked == text:
        raise Missing(f"this project's source no longer has: {expression!r}")
    return fold(marked, known_condition=value)


def _unqualified(text):
    """Drops `mx::`; what a local name would hide keeps the whole namespace."""

    def replaced(found):
        name = found.group(1)
        hidden = re.search(rf"(?<!mx::)(?<![.>\w]){name}\b", code)
        return f"mlx::core::{name}" if hidden else name

    code = blanked(text)
    return re.sub(r"\bmx::(\w+)", replaced, text)


_CONSTANT = re.compile(r"\bk([A-Z]\w*)\b")


def host(text):
    """Host code of this project as MLX's: its namespaces, names of classes, comments."""
    text = re.sub(r"^namespace mx = mlx::core;\n", "", text, flags=re.M)
    text = _unqualified(text)
    text = text.replace("zmlx::fast::", "").replace("zmlx::", "")
    for ours, theirs in CLASSES.items():
        text = re.sub(rf"\b{ours}\b", theirs, text)
    return re.sub(r"^( *)///<? ?", r"\1// ", text, flags=re.M).replace("///< ", "// ")


def kernel(text, namespace):
    """A kernel's source: its namespace and comments."""
    text = re.sub(r"\bzmlx\b", namespace, text)
    return re.sub(r"^( *)/// ?", r"\1// ", text, flags=re.M)
