"""Turns preprocessed MSL into C++: what no macro can say.

Three things need it. Threadgroup arrays, which belong to all threads of a threadgroup, are declared
like local variables; a kernel's arguments say by attributes where they come from; and `host_name`
instantiates templates.
"""

import re
from dataclasses import dataclass, field

_POSITIONS = [  # in the order of MslSource in host/runtime.h
    "thread_position_in_grid",
    "threadgroup_position_in_grid",
    "thread_position_in_threadgroup",
    "thread_index_in_threadgroup",
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "threads_per_threadgroup",
    "threads_per_grid",
    "threadgroups_per_grid",
    "threads_per_simdgroup",
    "simdgroups_per_threadgroup",
    "thread_index_in_quadgroup",
    "quadgroup_index_in_threadgroup",
]
_SOURCES = {name: 100 + i for i, name in enumerate(_POSITIONS)}
_SOURCES["thread_execution_width"] = _SOURCES["threads_per_simdgroup"]

_KERNEL = re.compile(r"\[\[\s*kernel\b[^\]]*\]\]\s*(?:\[\[[^\]]*\]\]\s*)*void\s+(\w+)\s*\(")
_HOST_NAME = re.compile(
    r"template\s*\[\[\s*host_name\s*\(\s*\"([^\"]+)\"\s*\)\s*\]\]\s*\[\[\s*kernel\s*\]\]"
    r"\s*decltype\s*\((.*?)\)\s*[\w:]+\s*<[^;]*;",
    re.S,
)
_ARRAY = re.compile(
    r"(?:^|(?<=[;{}]))(\s*)threadgroup\s+([^;*&(){}=]+?)\s+(\w+)\s*((?:\[[^;]*\])?)\s*;", re.M
)
_ATTRIBUTE = re.compile(r"\[\[(.*?)\]\]", re.S)


@dataclass
class Parameter:
    name: str
    source: int
    is_buffer: bool
    writable: bool


@dataclass
class Kernel:
    name: str
    parameters: list[Parameter] = field(default_factory=list)

    def buffers(self):
        """Parameters by buffer index."""
        return {p.source: p for p in self.parameters if p.is_buffer}


@dataclass
class Translation:
    text: str
    kernels: dict[str, Kernel]
    host_names: dict[str, str]  # to an expression such as `custom_kernel_f<float, 4>`


def _closing(text, start):
    depth = 0
    for i in range(start, len(text)):
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
            if depth == 0:
                return i
    raise ValueError("a parenthesis is not closed")


def _split(text):
    """At the commas outside of any brackets."""
    parts, depth, current = [], 0, ""
    for c in text:
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += c
    return [p for p in (*parts, current) if p.strip()]


def _without_markers(text):
    return re.sub(r"^#[^\n]*$", "", text, flags=re.M)


def _parameter(text, next_buffer):
    attributes = [a.strip() for a in _ATTRIBUTE.findall(text)]
    declaration = _ATTRIBUTE.sub("", text).strip()
    name = re.search(r"(\w+)\s*(?:\[[^\]]*\])?$", declaration).group(1)
    for attribute in attributes:
        if attribute in _SOURCES:
            return Parameter(name, _SOURCES[attribute], False, False)
        if match := re.fullmatch(r"buffer\s*\(\s*(\d+)\s*\)", attribute):
            index = int(match.group(1))
            break
    else:
        if not any(c in declaration for c in "*&["):
            raise ValueError(f"no source is known for the argument: {text.strip()}")
        index = next_buffer
    constant = re.search(r"\bconst\b[^*&]*[*&]|^\s*\w[\w:<>, ]*\bconst\b\s*[*&]", declaration)
    return Parameter(name, index, True, "*" in declaration and not constant)


def _kernels(text):
    kernels = {}
    for match in _KERNEL.finditer(text):
        begin = match.end() - 1
        arguments = _without_markers(text[begin + 1 : _closing(text, begin)])
        kernel = Kernel(match.group(1))
        next_buffer = 0
        for part in _split(arguments):
            parameter = _parameter(part, next_buffer)
            if parameter.is_buffer:
                next_buffer = parameter.source + 1
            kernel.parameters.append(parameter)
        kernels[kernel.name] = kernel
    return kernels


def translate(text):
    """Translates what the preprocessor left of an MSL source."""
    host_names = {name: expression.strip() for name, expression in _HOST_NAME.findall(text)}
    text = _HOST_NAME.sub("", text)
    kernels = _kernels(text)

    def declare(match):
        indent, type_, name, extent = match.groups()
        return f'{indent}auto& {name} = msl::threadgroup_array<{type_}{extent}>("{name}");'

    text = _ARRAY.sub(declare, text)
    text = re.sub(r"\bthreadgroup\b(?!\s*\()", "", text)
    text = re.sub(r"\[\[\s*kernel\b[^\]]*\]\]", "", text)
    return Translation(text, kernels, host_names)


def entry(kernel, expression, number):
    """C++ that calls a kernel for one thread. `expression` names it with its template arguments."""
    sources = ", ".join(str(p.source) for p in kernel.parameters)
    return (
        f'extern "C" void msl_entry_{number}() {{\n'
        f"  static constexpr int sources[] = {{{sources}}};\n"
        f"  msl::call(&{expression}, sources);\n}}\n"
    )
