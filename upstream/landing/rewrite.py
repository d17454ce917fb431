"""Makes MLX's code of this project's: names, namespaces, comments."""

import re

from .cpp import blanked
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


def _unqualified(text):
    """Drops `mx::`; what a local name would hide keeps the whole namespace."""

    def replaced(found):
        name = found.group(1)
        hidden = re.search(rf"(?<!mx::)(?<![.>\w]){name}\b", code)
        return f"mlx::core::{name}" if hidden else name

    code = blanked(text)
    return re.sub(r"\bmx::(\w+)", replaced, text)


def host(text):
    """Host code of this project as MLX's: its namespaces, names of classes, comments."""
    text = re.sub(r"^namespace mx = mlx::core;\n", "", text, flags=re.M)
    text = _unqualified(text)
    text = text.replace("zmlx::fast::", "").replace("zmlx::", "")
    for ours, theirs in CLASSES.items():
        text = re.sub(rf"\b{ours}\b", theirs, text)
    return re.sub(r"^( *)///<? ?", r"\1// ", text, flags=re.M).replace("///< ", "// ")
