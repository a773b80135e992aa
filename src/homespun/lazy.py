"""Packages whose names are loaded when they are first used, so that a program imports only what it needs of them.

An `__init__.py` calls `lazy(__name__, {...})`, and names the same for type checkers under `if TYPE_CHECKING`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

_HOMES, _FIRST = "_lazy_homes", "_lazy_first"


class LazyPackage(ModuleType):
    """A package that finds its public names in its modules. Of a name that is both a module and what that module
    holds, as `zoo.mobilenet_v2`, the package has the latter, whoever imports the module first."""

    def __getattr__(self, name: str) -> Any:
        homes: Mapping[str, str] = self.__dict__.get(_HOMES, {})
        if name not in homes:
            # With `name` and `obj` Python says which name was probably meant.
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        if first := self.__dict__[_FIRST]:
            import_module(f"{self.__name__}.{first}")
        home = import_module(f"{self.__name__}.{homes[name] or name}")
        value = getattr(home, name) if homes[name] else home
        super().__setattr__(name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds each module in its package, once it is imported.
        if not (isinstance(value, ModuleType) and self.__dict__[_HOMES].get(name)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__dict__[_HOMES]} - {_HOMES, _FIRST})


def lazy(package: str, homes: Mapping[str, str], first: str = "") -> None:
    """Let a package find names in modules: `homes` has for each the module in the package that it stands in, or "" if
    it is itself a module of the package. Before any of them the module `first` of the package is imported."""
    module = sys.modules[package]
    setattr(module, _FIRST, first)
    setattr(module, _HOMES, homes)
    module.__class__ = LazyPackage
