"""One launch of a kernel."""

import ctypes

import numpy as np


class MslFault(Exception):
    """What a GPU would not forgive: the first such thing in a launch."""


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_uint32),
        ("writable", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_char_p),
        ("entry", ctypes.c_void_p),
        ("image", ctypes.c_void_p),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("buffer_count", ctypes.c_uint32),
        ("grid", ctypes.c_uint32 * 3),
        ("group_size", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32),
        ("variant", ctypes.c_int32),
    ]


def declare(library):
    library.msl_launch.argtypes = [ctypes.POINTER(_Launch), ctypes.c_char_p, ctypes.c_size_t]
    library.msl_launch.restype = ctypes.c_int


def _axes(value):
    value = (value,) if np.isscalar(value) else tuple(value)
    return (ctypes.c_uint32 * 3)(*(int(v) for v in (*value, 1, 1)[:3]))


def run(library, name, kernel, entry, buffers, offsets, grid, threadgroup, variant, threads):
    if not isinstance(buffers, dict):
        buffers = dict(enumerate(buffers))
    wanted = kernel.buffers()
    if set(buffers) != set(wanted):
        raise ValueError(f"{name} takes buffers {sorted(wanted)}, given are {sorted(buffers)}")
    table = (_Buffer * (max(wanted, default=-1) + 1))()
    for index, parameter in wanted.items():
        array = buffers[index]
        if array is None:  # not bound: any access is a fault
            table[index] = _Buffer(None, 0, 0, 0, parameter.name.encode())
            continue
        if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
            raise ValueError(f"{name}: '{parameter.name}' is no contiguous NumPy array")
        if parameter.writable and not array.flags.writeable:
            raise ValueError(f"{name}: '{parameter.name}' is written to, but read-only")
        table[index] = _Buffer(
            array.ctypes.data,
            array.nbytes,
            offsets.get(index, 0),
            parameter.writable,
            parameter.name.encode(),
        )
    address = ctypes.cast(entry, ctypes.c_void_p)
    description = _Launch(
        name.encode(),
        address,
        address,
        table,
        len(table),
        _axes(grid),
        _axes(threadgroup),
        threads,
        variant,
    )
    message = ctypes.create_string_buffer(4096)
    if library.msl_launch(ctypes.byref(description), message, len(message)):
        raise MslFault(message.value.decode())
