"""Evaluates options whose values are known within C++ text."""

import re

from .cpp import blanked, closing
from .errors import Missing


def fold(text, **values):
    """Evaluates options: with exact=True, `x.exact ? a : b` becomes `a`, and so on.

    Declarations of the options (`bool exact;`) go too. Raises Missing for a use it does not know.
    """
    for name, value in values.items():
        text = re.sub(rf"^ *(?:bool|int) {name};[^\n]*\n", "", text, flags=re.M)
        pattern = re.compile(rf"(?<![\w.>:])(!?)(?:\w+(?:\.|->|::))*{name}\b(?!\s*[({{])")
        while found := pattern.search(blanked(text)):
            text = _fold_one(text, *found.span(), value != bool(found.group(1)))
    return text


def condition(text, expression, value):
    """Evaluates a comparison whose value is known."""
    marked = text.replace(expression, "known_condition")
    if marked == text:
        raise Missing(f"this project's source no longer has: {expression!r}")
    return fold(marked, known_condition=value)


def _fold_one(text, begin, end, value):
    """Folds one occurrence, text[begin:end], of a condition whose value is known."""
    code = blanked(text)
    before = code[:begin].rstrip()
    next_ = end + len(code[end:]) - len(code[end:].lstrip())
    neutral, deciding = ("&&", "||") if value else ("||", "&&")
    if code[next_] == "?":
        return _fold_choice(text, code, begin, next_, value)
    if code.startswith(neutral, next_):
        return text[:begin] + text[next_ + 2 :].lstrip()
    if before.endswith(neutral):
        return text[: len(before) - 2] + text[end:]
    if before.endswith(deciding):
        return _fold_all(text, code, begin, value, neutral)
    if re.search(r"\bif\s*(?:constexpr\s*)?\($", before) and code[next_] == ")":
        return _fold_statement(text, code, before.rindex("if"), next_ + 1, value)
    raise Missing(f"an option cannot be folded: {text[max(0, begin - 40) : end + 40]!r}")


def _fold_choice(text, code, begin, mark, value):
    """`condition ? a : b`."""
    colon = _operand_end(code, mark + 1)
    end = _operand_end(code, colon + 1)
    kept = text[mark + 1 : colon] if value else text[colon + 1 : end]
    return text[:begin] + kept.strip() + text[end:]


def _fold_all(text, code, begin, value, neutral):
    """`if (... && condition ...)`, where the condition decides the whole."""
    opening = _enclosing(code, begin)
    end = closing(code, opening)
    if not re.search(r"\bif\s*$", code[:opening]) or neutral in code[opening:end]:
        raise Missing(f"an option cannot be folded: {text[opening : end + 1]!r}")
    return fold(text[: opening + 1] + "known_condition" + text[end:], known_condition=value)


def _fold_statement(text, code, head, end, value):
    """`if (condition) a; else b;`, with or without braces; `head` is where it begins."""
    inner, end = _body(text, code, end)
    otherwise = re.match(r"\s*else\s*", code[end:])
    if otherwise:
        other, end = _body(text, code, end + otherwise.end())
        inner = inner if value else other
    elif not value:
        inner = ""
        comment = re.search(r"(?:^ *//[^\n]*\n)+ *$", text[:head], re.M)
        head = comment.start() if comment else head
    if re.match(r"(?:.*;\s*)?(?:return|throw)\b[^;]*;$", blanked(inner), re.S):
        end = closing(code, _enclosing(code, head))  # what follows is never reached
        inner += "\n"
    return text[:head] + inner + text[end:]


def _body(text, code, start):
    """A statement's text without braces, and where it ends."""
    start += len(code[start:]) - len(code[start:].lstrip())
    if code[start] == "{":
        end = closing(code, start) + 1
        return text[start + 1 : end - 1].strip(), end
    end = code.index(";", start) + 1
    return text[start:end].strip(), end


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
