"""Is a patched model's output unchanged, and how much faster is it?

``python -m zmlx.validate <model>`` generates greedily with the stock and with the patched model
and compares token by token; :func:`validate` does the same from Python. See
:mod:`zmlx.validate.verdict` for what ``PASS`` means exactly.
"""

from zmlx.validate.prompts import DEFAULT_PROMPTS
from zmlx.validate.run import validate
from zmlx.validate.verdict import Report

__all__ = ["DEFAULT_PROMPTS", "Report", "validate"]
