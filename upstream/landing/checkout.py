"""Applies changes to an MLX checkout, checks that they fit, and takes them back."""

import re
from pathlib import Path

from . import cpu, cuda, formatting, gpu, graph, metal, python
from .change import PRIMITIVES, Change
from .errors import Conflict, Missing


class Checkout:
    """An MLX checkout and the primitives that this tool has put into it."""

    def __init__(self, path):
        self.path = Path(path)
        if not (self.path / "mlx/fast.h").is_file():
            raise Missing(f"{path} is no checkout of MLX: it has no mlx/fast.h")
        self._formatted = {}

    def applied(self):
        """The primitives that mlx/fast.h declares already."""
        text = (self.path / "mlx/fast.h").read_text()
        return tuple(op for op in PRIMITIVES if f" {op}(" in text)

    def change(self, chosen):
        """What the checkout holds with these primitives and not without, formatted."""
        ops = (self.path / "mlx/ops.h").read_text()
        declared = re.search(r"\barray gather_qmm\(.*?\);", ops, re.S)
        if not declared:
            raise Missing("mlx/ops.h has no longer the function gather_qmm")
        change = Change(has_global_scale="global_scale" in declared.group())
        for part in (graph, cpu, gpu, metal, cuda, python):
            part.add(change, chosen)
        for path, text in change.files.items():
            change.files[path] = self._format(formatting.clang_format, path, text)
        return change

    def _format(self, format_, path, text):
        if not path.endswith((".h", ".cpp")):
            return text
        key = (path, text)
        if key not in self._formatted:
            self._formatted[key] = format_(text, path, self.path)
        return self._formatted[key]

    def _text_of(self, insertion):
        if insertion.text.startswith(("#include", "NO_", "    ", "INCLUDE", "const char*")):
            return insertion.text
        return self._format(formatting.block, insertion.path, insertion.text)

    def _edited(self, present, wanted):
        """MLX's own files without what `present` needs and with what `wanted` needs.

        Raises Missing for a place, Conflict for a text that is not there any more.
        """
        texts = {}
        insertions = self.change(wanted).insertions
        for insertion in insertions:
            path = self.path / insertion.path
            if insertion.path not in texts:
                if not path.is_file():
                    raise Missing(f"MLX has no {insertion.path}")
                texts[insertion.path] = path.read_text()
            if insertion.owners & set(present):
                text = self._text_of(insertion)
                if texts[insertion.path].count(text) != 1:
                    raise Conflict(
                        f"{insertion.path} was changed after {', '.join(present)} came into it: "
                        f"it no longer has {text.strip().splitlines()[0]!r} ... as it was written"
                    )
                texts[insertion.path] = texts[insertion.path].replace(text, "")
        for insertion in insertions:
            text = texts[insertion.path]
            try:
                place = insertion.place(text)
            except Missing as error:
                raise Missing(f"{insertion.path} has no longer {error}") from None
            if insertion.owners & set(wanted):
                texts[insertion.path] = text[:place] + self._text_of(insertion) + text[place:]
        return texts

    def update(self, wanted, dry_run=False):
        """Makes the checkout hold just these primitives.

        Returns the paths that are written and those that are removed.
        """
        present = self.applied()
        wanted = tuple(op for op in PRIMITIVES if op in wanted)
        before, after = self.change(present).files, self.change(wanted).files
        texts = self._edited(present, wanted)
        for path, text in before.items():
            if not (self.path / path).is_file() or (self.path / path).read_text() != text:
                raise Conflict(f"{path} is not as this tool wrote it; keep or remove it by hand")
        for path in set(after) - set(before):
            if (self.path / path).exists():
                raise Conflict(f"{path} is there already, and not from this tool")
        texts |= after
        written = [p for p, text in texts.items() if self._differs(p, text)]
        removed = sorted(set(before) - set(after))
        if not dry_run:
            self._write({p: texts[p] for p in written}, removed)
        return sorted(written), removed

    def _differs(self, path, text):
        full = self.path / path
        return not full.is_file() or full.read_text() != text

    def _write(self, texts, removed):
        for path, text in texts.items():
            full = self.path / path
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_text(text)
        for path in removed:
            full = self.path / path
            full.unlink()
            if not any(full.parent.iterdir()):
                full.parent.rmdir()
