"""The code blocks of docs/tutorial.md run, in order and in one process."""

import linecache
import re
from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZMLX_CACHE_DIR", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), flags=re.DOTALL)
    assert len(blocks) > 15
    names = {"__name__": "tutorial"}
    for number, block in enumerate(blocks):
        # `jit` reads a function's source, so each block is a file to Python.
        file = f"<tutorial block {number}>"
        linecache.cache[file] = (len(block), None, block.splitlines(True), file)
        exec(compile(block, file, "exec"), names)
    printed = capsys.readouterr().out
    assert "softplus(x)" in printed and "softmax" in printed
