"""What a Mach-O library for Apple silicon imports and exports, read with LIEF."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import lief
from signature import is_sound

lief.logging.disable()  # it remarks on tables that are merely empty

_UNDEFINED, _TYPE = (
    0x01,
    0xEF,
)  # of a symbol: external and defined elsewhere (Apple's <mach-o/nlist.h>)
_ANY_LIBRARY = -2  # of a binding
_LOAD = lief.MachO.LoadCommand.TYPE


@dataclass
class Library:
    """One library.

    Attributes:
        path: the file.
        install_name: its own name; ``None`` for what is not a dynamic library.
        libraries: install names of those it loads.
        rpaths: where ``@rpath`` is looked for.
        minimum: the oldest macOS, such as ``(14, 0)``.
        signed: whether it has a code signature, which fits.
        imports: symbol to the install name that it is bound to; ``None``: whichever loaded library
            has it, at load.
        exports: symbols.
    """

    path: Path
    install_name: str | None
    libraries: list[str]
    rpaths: list[str]
    minimum: tuple[int, ...]
    signed: bool
    imports: dict[str, str | None] = field(default_factory=dict)
    exports: set[str] = field(default_factory=set)


def read(path: Path) -> Library:
    """Reads a library.

    Raises:
        ValueError: if the file is not a Mach-O library for arm64.
    """
    fat = lief.MachO.parse(str(path))
    binary = fat.take(lief.MachO.Header.CPU_TYPE.ARM64) if fat else None
    if binary is None:
        raise ValueError(f"{path} is not a Mach-O file for arm64.")
    own = binary.get(_LOAD.ID_DYLIB)
    loaded = [command.name for command in binary.libraries if command.command != _LOAD.ID_DYLIB]
    version = binary.build_version if binary.has_build_version else None
    found = Library(
        path,
        own.name if own else None,
        loaded,
        [command.path for command in binary.rpaths],
        tuple(version.minos[:2]) if version else (),
        binary.has_code_signature and is_sound(path, bytes(binary.code_signature.content)),
    )
    # Symbols that may be defined several times, such as operator new, are bound by name alone. Then
    # the symbol table has the library that they were linked from, unless this one defines them.
    linked = {
        symbol.name: symbol.description >> 8 & 0xFF
        for symbol in binary.symbols
        if symbol.raw_type & _TYPE == _UNDEFINED
    }
    for binding in binary.bindings:
        name, ordinal = binding.symbol.name, binding.library_ordinal
        if ordinal == _ANY_LIBRARY:
            found.imports[name] = None
            continue
        if ordinal <= 0:
            if name not in linked:
                continue
            ordinal = linked[name]
        if not 1 <= ordinal <= len(loaded):
            raise ValueError(f"{path}: '{name}' is bound to library {ordinal}.")
        found.imports[name] = loaded[ordinal - 1]
    found.exports = {symbol.name for symbol in binary.exported_symbols}
    return found
