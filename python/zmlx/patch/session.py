"""What `patch` did to a model: classes replaced, candidates left alone, and how to undo it.

A module is patched by giving the instance a subclass of its own class. That keeps its parameters,
children and `isinstance` checks as they are, and undoing it is exact.
"""

from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn

# Set on patched modules and on the root, as plain Python attributes, which `nn.Module` keeps apart
# from parameters and children.
_SITE = "_zmlx_site"
_SESSION = "_zmlx_session"


class Site:
    """One patched module: where it is, its own class, and what was seen of it since."""

    def __init__(self, path, stock, patterns):
        self.path = path
        self.stock = stock
        self.patterns = patterns
        self.calls = 0  # calls that could be fused with an operation of another module
        self.fused = 0  # those that were
        self.plan = None  # what a pattern worked out beforehand
        self.combine_note = ""  # for experts: why their sum is not expected to fuse


@dataclass
class Skipped:
    """A candidate that a pattern left as it was."""

    path: str
    module_class: str
    pattern: str
    reason: str


@dataclass
class Session:
    """State of one patched model."""

    patterns: tuple
    sites: list = field(default_factory=list)
    skipped: list = field(default_factory=list)
    timings: list = field(default_factory=list)
    huge_bytes: int = 0  # of weights, in huge pages

    def swap(self, place, cls, *patterns):
        """Gives a module the class `cls`, a subclass of its own, and returns its site."""
        module = place.module
        site = Site(place.path, type(module), patterns)
        module.__dict__[_SITE] = site
        module.__class__ = cls
        self.sites.append(site)
        return site

    def skip(self, place, pattern, reason):
        name = type(place.module).__name__
        self.skipped.append(Skipped(place.path, name, pattern, reason))


def on_gpu():
    """Whether new arrays go to a GPU, where MLX's own dense kernels are fast."""
    return mx.default_device() != mx.cpu


def site_of(module):
    """The site of a patched module, or None."""
    return module.__dict__.get(_SITE)


def session_of(model):
    """The session of a patched model, or None."""
    return model.__dict__.get(_SESSION)


def open_session(model, patterns):
    session = Session(patterns)
    model.__dict__[_SESSION] = session
    return session


def restore(model):
    """Gives every patched module in `model` its own class back, with nothing left behind."""
    for _, module in model.named_modules():
        site = module.__dict__.pop(_SITE, None)
        if site is not None:
            module.__class__ = site.stock
        module.__dict__.pop(_SESSION, None)


@dataclass(frozen=True)
class Place:
    """A module in its model: its path, the nearest module above it (None for the root), and the
    path from there, which is "layers.3" for an item of a list."""

    path: str
    module: nn.Module
    owner: nn.Module | None
    name: str


def places(model):
    """The place of every module of a model, once each."""
    named = {}
    for path, module in model.named_modules():
        named.setdefault(path, module)
    seen, result = set(), []
    for path, module in named.items():
        if id(module) not in seen:
            seen.add(id(module))
            result.append(Place(path, module, *_owner(path, named)))
    return result


def _owner(path, named):
    parts = path.split(".") if path else []
    for n in range(len(parts) - 1, -1, -1):
        owner = named.get(".".join(parts[:n]))
        if owner is not None:
            return owner, ".".join(parts[n:])
    return None, ""
