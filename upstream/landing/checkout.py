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

    def applied(self):
        """The primitives that mlx/fast.h declares already."""
        text = (self.path / "mlx/fast.h").read_text()
        return tuple(op for op in PRIMITIVES if f" {op}(" in text)

    def update(self, wanted, dry_run=False):
        """Makes the checkout hold just these primitives.

        Returns the paths that are written and those that are removed. Nothing is written if
        anything is amiss: raises Missing for a place that is not found, Conflict for a file or a
        text that is not as this tool wrote it.
        """
        present = self.applied()
        wanted = tuple(op for op in PRIMITIVES if op in wanted)
        change = self._change(wanted)
        before, after = self._files(self._change(present)), self._files(change)
        self._check_files(before, after)
        texts = self._edited(change.insertions, present, wanted) | after
        written = sorted(path for path, text in texts.items() if self._differs(path, text))
        removed = sorted(set(before) - set(after))
        if not dry_run:
            self._write({path: texts[path] for path in written}, removed)
        return written, removed

    def _change(self, chosen):
        ops = self._read("mlx/ops.h")
        declared = re.search(r"\barray gather_qmm\(.*?\);", ops, re.S)
        if not declared:
            raise Missing("mlx/ops.h has no longer the function gather_qmm")
        change = Change(has_global_scale="global_scale" in declared.group())
        for part in (graph, cpu, gpu, metal, cuda, python):
            part.add(change, chosen)
        return change

    def _read(self, path):
        if not (self.path / path).is_file():
            raise Missing(f"MLX has no longer the file {path}")
        return (self.path / path).read_text()

    def _files(self, change):
        return {
            path: formatting.clang_format(text, path, self.path)
            for path, text in change.files.items()
        }

    def _inserted(self, insertion):
        """The text of an insertion in the checkout's style; entries of lists are in it already."""
        if insertion.text.startswith(("#include", "NO_", "    ", "const char*")):
            return insertion.text
        return formatting.block(insertion.text, insertion.path, self.path)

    def _check_files(self, before, after):
        for path, text in before.items():
            if self._differs(path, text):
                raise Conflict(f"{path} is not as this tool wrote it; keep or remove it by hand")
        for path in sorted(set(after) - set(before)):
            if (self.path / path).exists():
                raise Conflict(f"{path} is there already, and not from this tool")

    def _edited(self, insertions, present, wanted):
        """MLX's own files without what `present` needs and with what `wanted` needs."""
        texts = {path: self._read(path) for path in {i.path: None for i in insertions}}
        for insertion in insertions:
            if insertion.owners & set(present):
                text = self._inserted(insertion)
                if texts[insertion.path].count(text) != 1:
                    raise Conflict(
                        f"{insertion.path} was changed after {', '.join(present)} came into it: "
                        f"it no longer has {text.strip().splitlines()[0]!r} ... as it was written"
                    )
                texts[insertion.path] = texts[insertion.path].replace(text, "")
        lacking = []
        for insertion in insertions:
            if not insertion.owners & set(wanted):
                continue
            text = texts[insertion.path]
            try:
                place = insertion.place(text)
            except Missing as error:
                lacking.append(f"{insertion.path} has no longer {error}")
            else:
                added = self._inserted(insertion)
                texts[insertion.path] = text[:place] + added + text[place:]
        if lacking:
            raise Missing("; ".join(dict.fromkeys(lacking)))
        return texts

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
            while not any(full.parent.iterdir()):
                full = full.parent
                full.rmdir()
