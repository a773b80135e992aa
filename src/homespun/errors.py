"""Every error that Homespun raises on purpose.

They say what was found, where, and what was expected, so that one line is enough to act on. Code that catches
`HomespunError` catches all of them; anything else that escapes is a bug.
"""


class HomespunError(Exception):
    """Base of all errors that Homespun raises on purpose."""


class ModelError(HomespunError):
    """A graph is not well formed, or asks for something that its operators can't do. Names the node."""


class ShapeError(ModelError):
    """A tensor has another shape or dtype than an operator, or a caller, may give it."""


class FormatError(HomespunError):
    """A file is not what its name or header says: wrong, truncated, hostile or of an unknown version."""


class OptionError(HomespunError, ValueError):
    """A caller's option has a value outside what is possible; the message lists what is."""


class BudgetError(HomespunError):
    """A memory budget is too small; the message says the least that would do."""


class TrainingError(HomespunError):
    """Training can't go on: a loss or gradient that is not finite, a label out of range, an unknown parameter name."""


class PausedError(HomespunError):
    """A program was asked to run, or to give its memory, while it was in the wrong state for that."""


class MissingPackageError(HomespunError, ImportError):
    """Something asked for needs a package that is not installed; the message says how to install it."""
