"""`homespun album serve`: the album in a browser, with its folders indexed and watched meanwhile."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from homespun.album.errors import LibraryBusyError, LibraryError
from homespun.commands.indexing import Folders
from homespun.commands.output import DataOption, JsonOption, note, open_album, print_json, say
from homespun.commands.progress import progress_shown, summary
from homespun.errors import HomespunError, OptionError

if TYPE_CHECKING:
    from homespun.album import Album
    from homespun.album.indexer import Progress
    from homespun.album.web.indexing import Indexing
    from homespun.commands.progress import OnProgress

# How long answers that are under way may take to finish once the server was asked to end.
SECONDS_TO_END = 3
SECONDS_BETWEEN_TRIES = 1.0


def add_to(group: typer.Typer) -> None:
    """Add this command to `homespun album`."""
    group.command(rich_help_panel="Begin here")(serve)


def serve(
    data: DataOption,
    folders: Folders = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default lets only this machine in.", metavar="ADDRESS")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes one that is free.")] = 8642,
    language: Annotated[
        str | None, typer.Option(help="Language of the pages.", show_default="the browser's", metavar="en|zh")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name that browsers may call it by (repeatable).", metavar="NAME")
    ] = None,
    watch: Annotated[bool, typer.Option(help="Take in new photos while serving.")] = True,
    demo: Annotated[bool, typer.Option("--demo", help="Show the photos inside the scikit-image package.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the album in a browser, and index its folders meanwhile. Ctrl-C ends it."""
    if language not in (None, "en", "zh"):
        raise typer.BadParameter(f"the language is en or zh, not {language!r}")
    if demo:
        folders = [*(folders or []), _demo_folder()]
    with _listening(host, port) as listener, open_album(data, read_only=False) as album:
        # So that `kill` and a service manager end it as cleanly as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        address = _address(host, listener.getsockname()[1])
        album.announce(_address(_reached_at(host), listener.getsockname()[1]))
        if as_json:
            print_json({"address": address})
        else:
            say(f"The album is on {address} (Ctrl-C ends it)")
        sys.stdout.flush()
        _serve(album, folders, listener, host, allow_host or [], language, watch)


def _serve(
    album: Album,
    folders: list[Path] | None,
    listener: socket.socket,
    host: str,
    names: Sequence[str],
    language: str | None,
    watch: bool,
) -> None:
    import uvicorn

    from homespun.album.web import create_app
    from homespun.album.web.indexing import Indexing
    from homespun.album.web.security import hosts_for

    indexing = Indexing(album)
    app = create_app(album, language=language, allowed_hosts=hosts_for(host, names), indexing=indexing)  # type: ignore[arg-type]
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_END)
    with _Upkeep(album, indexing, folders, watch), suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    note("The album is closed.")


class _Upkeep:
    """Indexes while the server runs: the given folders at first, then whatever the watcher notices."""

    def __init__(self, album: Album, indexing: Indexing, folders: list[Path] | None, watch: bool) -> None:
        self._album = album
        self._indexing = indexing
        self._folders = folders
        self._watch = watch
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="homespun-upkeep"),
            threading.Thread(target=album.refining.keep_refined, args=(self._stop,), name="homespun-refining"),
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        from homespun.album.watch import Watcher

        self._album.prepare()
        if not self._folders and not self._album.roots():
            note("It has no photos yet; name their folder: homespun album serve FOLDER")
        else:
            self._index(self._folders, shown=True)
        if self._watch:
            with Watcher(self._album.roots(), self._index_changes, exclude=[self._album.data_dir]):
                self._stop.wait()

    def _index_changes(self) -> None:
        self._index(None, shown=False)

    def _index(self, folders: list[Path] | None, *, shown: bool) -> None:
        """One run; the web's own runs are waited for. What goes wrong is told, and the server serves on."""
        while not self._stop.is_set():
            try:
                with progress_shown() as show:
                    report = self._album.index(folders, self._telling(show if shown else None), self._stop)
            except LibraryBusyError:
                self._stop.wait(SECONDS_BETWEEN_TRIES)
                continue
            except HomespunError as error:
                self._indexing.finished(str(error))
                note(f"homespun: {error}")
            else:
                self._indexing.finished()
                if shown:
                    note(summary(report))
            return

    def _telling(self, show: OnProgress | None) -> OnProgress:
        """Progress for the pages and, if it is shown there, the terminal."""

        def on_progress(progress: Progress) -> None:
            self._indexing.on_progress(progress)
            if show is not None:
                show(progress)

        return on_progress


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, opened before anything else: a port that is taken is found out at once."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OptionError(f"can't listen on {host} port {port}: {error.strerror}; try another --port") from error


def _address(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _reached_at(host: str) -> str:
    """The address at which programs of this machine reach a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _demo_folder() -> Path:
    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise LibraryError(
            "the demo's photos are in scikit-image, which is not installed: pip install 'homespun[demo]'"
        )
    return Path(found.origin).parent / "data"
