"""The signature that macOS demands of code for Apple silicon, at least an ad-hoc one.

The formats are those of Apple's ``cs_blobs.h``; all numbers are big-endian.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

_EMBEDDED, _CODE_DIRECTORY = 0xFADE0CC0, 0xFADE0C02
_AD_HOC = 0x2
_SHA256 = 2


def is_sound(path: Path, signature: bytes) -> bool:
    """Whether an ad-hoc signature covers the file, page by page up to the signature itself.

    Args:
        path: the signed file.
        signature: what its LC_CODE_SIGNATURE points to.
    """
    magic, _, blobs = struct.unpack_from(">3I", signature)
    if magic != _EMBEDDED:
        return False
    offsets = [struct.unpack_from(">2I", signature, 12 + 8 * i)[1] for i in range(blobs)]
    directories = [
        signature[offset:]
        for offset in offsets
        if struct.unpack_from(">I", signature, offset)[0] == _CODE_DIRECTORY
    ]
    return bool(directories) and all(_fits(path.read_bytes(), entry) for entry in directories)


def _fits(content: bytes, directory: bytes) -> bool:
    flags, hashes, _, _, pages, limit = struct.unpack_from(">6I", directory, 12)
    size, kind, _, page_bits = struct.unpack_from("4B", directory, 36)
    page = 1 << page_bits
    if not flags & _AD_HOC or kind != _SHA256 or pages != -(-limit // page):
        return False
    return all(
        hashlib.sha256(content[i * page : min((i + 1) * page, limit)]).digest()[:size]
        == directory[hashes + i * size : hashes + (i + 1) * size]
        for i in range(pages)
    )
