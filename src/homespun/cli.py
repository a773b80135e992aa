"""The `homespun` command: puts the groups of `homespun.commands` together and turns our errors into one line each.

Exit codes: 0 done, 1 it could not be done (the line on standard error says why), 2 the command was misused,
130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from homespun.errors import HomespunError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

_NEEDS_EXTRA = (
    "homespun: the command line needs packages that are not installed ({name}): pip install 'homespun[cli]', "
    "or with the photo album: pip install 'homespun[album]'"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; always ends by `SystemExit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        from homespun.commands import build_app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("typer", "rich", "click"):
            raise
        _fail(_NEEDS_EXTRA.format(name=error.name))
    try:
        build_app()(words, prog_name="homespun")
    except HomespunError as error:
        if "--json" in words:
            _fail(json.dumps({"error": str(error), "kind": type(error).__name__}, ensure_ascii=False))
        _fail(f"homespun: {error}")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output (`| head`) has seen enough
        sys.exit(EXIT_FAILURE)
    except OSError as error:
        if error.filename is None:
            raise  # not of a file that somebody named: a bug, whose place should be seen
        if "--json" in words:
            _fail(json.dumps({"error": str(error), "kind": type(error).__name__}, ensure_ascii=False))
        _fail(f"homespun: {error.filename}: {error.strerror}")


def _fail(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.exit(EXIT_FAILURE)
