"""The decode pool: whatever a decoder does, its file is listed with a reason and every other photo is read."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from homespun.album import workers
from homespun.album.errors import AlbumError
from homespun.album.imaging import Limits, PhotoData, SeenBefore, Unreadable, read_photo
from homespun.album.imaging.worker import SLACK
from homespun.album.workers import DecodePool
from homespun.errors import OptionError
from tests.album import hostile_decoders
from tests.album.made_photos import encoded, noise, png, write_photo

SHARED = Path(__file__).parents[3] / "shared" / "data" / "messy"
SMALL = Limits(seconds=2.0, memory=128 << 20, file_bytes=16 << 20)


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool(2, limits=SMALL) as opened:
        yield opened


def is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"


def wait_until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_photos_are_read_as_in_this_process(pool: DecodePool, tmp_path: Path) -> None:
    paths = [write_photo(tmp_path / f"{seed}.jpg", seed) for seed in range(30)]
    readings = dict(pool.map(paths))
    assert set(readings) == set(paths)
    for path, reading in readings.items():
        assert isinstance(reading, PhotoData)
        here = read_photo(path)
        assert (reading.content_hash, reading.thumbnail) == (here.content_hash, here.thumbnail)
        assert (reading.pixels == here.pixels).all()


def test_names_go_through_in_any_encoding(pool: DecodePool, tmp_path: Path) -> None:
    raw = [os.fsencode(tmp_path) + b"/" + name for name in (b"caf\xe9.jpg", b"\xff\xfe\n.jpg", "家人.jpg".encode())]
    for path in raw:
        with open(path, "wb") as stream:  # noqa: PTH123
            stream.write(encoded(noise(64, 64)))
    assert all(isinstance(reading, PhotoData) for _, reading in pool.map(raw))
    assert all(isinstance(reading, PhotoData) for _, reading in pool.map(map(os.fsdecode, raw)))


def test_contents_that_were_seen_come_back_as_such(pool: DecodePool, tmp_path: Path) -> None:
    known, other = write_photo(tmp_path / "a.jpg", 1), write_photo(tmp_path / "b.jpg", 2)
    content = read_photo(known).content_hash
    readings = dict(pool.map([known, other], lambda path: [content]))
    assert readings[known] == SeenBefore(content)
    assert isinstance(readings[other], PhotoData)
    assert pool.read(known, [content]) == SeenBefore(content)


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("exit", "crashed", "ended with 3"),
        ("segfault", "crashed", "SIGSEGV"),
        ("oom-killed", "crashed", "memory"),
        ("hang", "timeout", "2 seconds"),
        ("spin", "timeout", "2 seconds"),
        ("hoard", "too_large", "memory"),
        ("bug", "crashed", "KeyError"),
        ("babble", "crashed", ""),
    ],
)
def test_a_decoder_that_goes_wrong_costs_its_own_file_only(
    pool: DecodePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str, detail: str
) -> None:
    monkeypatch.setattr(workers.read, "read_unless_seen", hostile_decoders.misbehave)
    good = [write_photo(tmp_path / f"{seed}.jpg", seed) for seed in range(24)]
    bad = [write_photo(tmp_path / f"{name}-{seed}.jpg", seed) for seed in range(2)]
    order = good[:7] + bad[:1] + good[7:9] + bad[1:] + good[9:]
    readings = dict(pool.map(order))
    assert set(readings) == set(order)
    assert all(isinstance(readings[path], PhotoData) for path in good)
    for path in bad:
        reading = readings[path]
        assert isinstance(reading, Unreadable)
        assert reading.reason == reason and detail in reading.detail


def test_many_crashes_in_a_row(pool: DecodePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.read, "read_unless_seen", hostile_decoders.misbehave)
    paths = [write_photo(tmp_path / f"exit-{seed}.jpg", seed, size=(16, 16)) for seed in range(8)]
    paths += [write_photo(tmp_path / "good.jpg")]
    counts = Counter(type(reading) for _, reading in pool.map(paths))
    assert counts == {Unreadable: 8, PhotoData: 1}


def test_memory_is_limited_in_the_processes_only(pool: DecodePool) -> None:
    limit = pool.submit(hostile_decoders.address_space_limit).result()
    extra = SMALL.memory + SMALL.file_bytes + SLACK
    assert extra < limit < extra + (2 << 30)
    assert hostile_decoders.address_space_limit() != limit


def test_bombs_end_within_the_limits(pool: DecodePool, tmp_path: Path) -> None:
    import zlib

    row = zlib.compress(bytes(1))
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(5_000, 60_000, pixels=row))
    webp = bytearray(encoded(noise(64, 64), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    (tmp_path / "bomb.webp").write_bytes(webp)
    good = write_photo(tmp_path / "good.jpg")
    readings = dict(pool.map([bomb, tmp_path / "bomb.webp", good]))
    assert readings[bomb].reason == "too_large"
    assert readings[tmp_path / "bomb.webp"].reason in ("too_large", "damaged")
    assert isinstance(readings[good], PhotoData)


def test_decode_processes_load_no_more_than_decoding_needs(pool: DecodePool, tmp_path: Path) -> None:
    pool.read(write_photo(tmp_path / "a.jpg"))
    loaded = set(pool.submit(hostile_decoders.loaded_modules).result())
    heavy = {
        "sqlite3",
        "fastapi",
        "typer",
        "rich",
        "pillow_heif",
        "asyncio",
        "pytest",
        "watchfiles",
        "homespun.runtime",
    }
    assert not loaded & heavy
    assert {name for name in loaded if name.startswith("homespun.album.")} <= {
        "homespun.album.errors",
        "homespun.album.imaging",
        *(f"homespun.album.imaging.{part}" for part in (
            "colour", "decode", "kinds", "metadata", "photo", "read", "reasons", "sizes", "source", "worker")),
    }  # fmt: skip


def test_previews_come_before_photos_that_wait(pool: DecodePool, tmp_path: Path) -> None:
    large = write_photo(tmp_path / "large.jpg", size=(2400, 1800))
    waiting = pool.map(write_photo(tmp_path / f"{seed}.jpg", seed) for seed in range(200))
    next(waiting)
    preview = pool.render(large, 1000)
    assert Image.open(io.BytesIO(preview)).size == (1000, 750)
    with pytest.raises(Unreadable) as caught:
        pool.render(tmp_path / "none.jpg", 1000)
    assert caught.value.reason == "missing"
    with pytest.raises(OptionError):
        pool.render(large, 10**9)


def test_reading_runs_ahead_but_not_away(pool: DecodePool, tmp_path: Path) -> None:
    asked = 0

    def paths() -> Iterator[Path]:
        nonlocal asked
        for seed in range(200):
            asked += 1
            yield write_photo(tmp_path / f"{seed}.jpg", seed, size=(16, 16))

    readings = pool.map(paths())
    next(readings)
    time.sleep(0.5)
    assert 2 <= asked <= workers.AHEAD * 2 + 1
    assert sum(1 for _ in readings) == 199


def test_several_threads_share_a_pool(pool: DecodePool, tmp_path: Path) -> None:
    sets = [[write_photo(tmp_path / f"{k}-{seed}.jpg", 100 * k + seed) for seed in range(15)] for k in range(4)]
    found: dict[int, set[Path]] = {}
    threads = [
        threading.Thread(target=lambda k=k: found.update({k: {path for path, _ in pool.map(sets[k])}}))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: set(paths) for k, paths in enumerate(sets)}


def test_processes_start_when_needed_and_go_when_idle(tmp_path: Path) -> None:
    with DecodePool(2, limits=SMALL, idle_seconds=0.3) as pool:
        assert pool._workers == []
        first = pool.submit(hostile_decoders.process_id).result()
        assert first != os.getpid() and is_running(first)
        wait_until(lambda: not is_running(first))
        assert isinstance(pool.read(write_photo(tmp_path / "a.jpg")), PhotoData)


def test_closing_ends_everything(tmp_path: Path) -> None:
    pool = DecodePool(1, limits=SMALL)
    busy = pool.submit(hostile_decoders.write_marker_and_hang, str(tmp_path / "marker"))
    waiting = pool.submit(hostile_decoders.process_id)
    wait_until(lambda: (tmp_path / "marker").exists() and (tmp_path / "marker").read_text())
    process = int((tmp_path / "marker").read_text())
    pool.close()
    pool.close()
    assert not is_running(process)
    for future in (busy, waiting):
        with pytest.raises(AlbumError, match="closed"):
            future.result()
    with pytest.raises(AlbumError, match="closed"):
        pool.submit(hostile_decoders.process_id)


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from homespun.album.workers import *; from tests.album import hostile_decoders\n"
        "pool = DecodePool(1, limits=Limits(seconds=1.0))\n"
        f"pool.submit(hostile_decoders.write_marker_and_hang, {str(marker)!r}).exception()\n"
        "import time; time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: marker.exists() and marker.read_text())
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    # It hangs in a task, so it does not see that the pipe closed: its own alarm ends it.
    wait_until(lambda: not is_running(int(marker.read_text())))


def test_no_main_module_is_needed(tmp_path: Path) -> None:
    # multiprocessing's "spawn" would run this script again in each process.
    path = write_photo(tmp_path / "a.jpg")
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from homespun.album.workers import DecodePool\n"
        f"print(len(list(DecodePool(1).map([{str(path)!r}]))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_a_python_that_cannot_start_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodePool(1) as pool, pytest.raises(AlbumError, match="can't be started"):
        pool.read(tmp_path / "a.jpg")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with DecodePool(1) as pool, pytest.raises(AlbumError, match="can't be started"):
        pool.read(tmp_path / "a.jpg")


def test_a_pool_of_none(pool: DecodePool) -> None:
    with pytest.raises(OptionError, match="at least one"):
        DecodePool(0)
    assert list(pool.map([])) == []


def test_what_is_raised_in_a_process_is_raised_here(pool: DecodePool) -> None:
    with pytest.raises(Unreadable) as caught:
        pool.submit(hostile_decoders.refuse).result()
    assert (caught.value.reason, caught.value.detail) == ("damaged", "as asked")


# The development photos


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development photos are not here")
def test_every_messy_file_ends_as_a_photo_or_with_a_reason() -> None:
    paths = sorted(path for path in SHARED.rglob("*") if path.is_file())
    started = time.monotonic()
    with DecodePool(2) as pool:
        readings = dict(pool.map(paths))
    assert time.monotonic() - started < 120
    assert set(readings) == set(paths)
    reasons = Counter(reading.reason for reading in readings.values() if isinstance(reading, Unreadable))
    assert reasons["crashed"] == 0
    folders = Counter(path.parent.name for path, reading in readings.items() if isinstance(reading, PhotoData))
    assert folders["orientation"] == 18 and folders["heif"] >= 55 and folders["cameras"] >= 22
    assert folders["formats"] >= 200


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the development photos are not here")
@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_the_orientation_set_gives_equal_pictures(shape: str) -> None:
    photos = [read_photo(SHARED / "orientation" / f"{shape}_{turn}.jpg") for turn in range(9)]
    assert len({(photo.width, photo.height) for photo in photos}) == 1
    assert (photos[0].width > photos[0].height) == (shape == "Landscape")
    for photo in photos[1:]:
        apart = abs(photo.pixels.astype(int) - photos[0].pixels.astype(int)).mean()
        assert apart < 12  # each carries its own number as a caption
