"""Fetches real COCO: Karpathy's annotations and the photos, from their official addresses.

The photos come as the two official archives, or, for some splits only, one by one. Everything is resumable: a second
run fetches what is missing and nothing else, and nothing takes more disk than was said before it started.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from urllib.parse import quote

from tqdm import tqdm

from ingest.download.http import PATIENT, Remote, Retry, announced_size, fetch
from ingest.download.zips import BLOCK, Archive, on_disk, room_needed, unpack
from ingest.karpathy import OFFICIAL_FOLDERS, Annotations, read_annotations
from search.command import note
from search.errors import DownloadError, OutOfSpace, Unreachable
from search.records import Image

ANNOTATIONS_URL = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
IMAGES_URL = "http://images.cocodataset.org"  # http is the official address; the MD5s make up for it
ANNOTATION_FILE = "dataset_coco.json"

AVERAGE_PHOTO = 164_000  # bytes, in both archives
PHOTO_ROOM = 200_000  # bytes of disk for one, with margin
PHOTOS_SLACK = 20_000_000  # bytes: a few photos may well be larger than the average
PATIENCE = 20  # photos in a row that may fail to come before the rest is not asked for
JPEG, ZIP = b"\xff\xd8\xff", b"PK"
_PHOTO = re.compile(rf"({'|'.join(OFFICIAL_FOLDERS)})/[\w.-]+\.jpg", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where everything comes from: the archives by the folder that they hold, and the base address of single photos."""

    annotations: Archive
    archives: Mapping[str, Archive]
    photos: str


# The sizes are what the servers announce (Content-Length). They publish no checksums: the MD5s are the ones that other
# projects, LAVIS among them, list for the same files. JPEG does not shrink in a zip: 1.05 is the contents and half a
# block for each of the 40,504 and 82,783 photos. Of the annotations only dataset_coco.json is taken out, 144,186,139
# bytes or 3.9 times the archive.
OFFICIAL = Sources(
    annotations=Archive(ANNOTATIONS_URL, 36_745_453, None, 4.5),
    archives={
        "val2014": Archive(f"{IMAGES_URL}/zips/val2014.zip", 6_645_013_297, "a3d79f5ed8d289b7a7554ce06a5782b3", 1.05),
        "train2014": Archive(
            f"{IMAGES_URL}/zips/train2014.zip", 13_510_573_713, "0da8c0bd3d6becc4dcb32757491aca88", 1.05
        ),
    },
    photos=IMAGES_URL,
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A photo that could not be fetched."""

    file: str
    url: str
    reason: str

    def as_json(self) -> dict[str, str]:
        return {"file": self.file, "url": self.url, "stage": "download", "reason": self.reason}


@dataclass(slots=True)
class Downloaded:
    """What is there now: the annotation file, the photo folder, how many photos were wanted and how many are new."""

    annotations: Path
    images: Path
    photos: int
    fetched: int = 0
    failures: list[Failure] = field(default_factory=list)


def download_coco(
    out: Path,
    *,
    splits: Sequence[str] = (),
    annotations: Path | None = None,
    jobs: int = 16,
    keep_archives: bool = False,
    verify: bool = True,
    sources: Sources = OFFICIAL,
    retry: Retry = PATIENT,
    failures: list[Failure] | None = None,
) -> Downloaded:
    """Brings the annotations and the photos below `out`: the whole archives, or the photos of `splits` one by one.

    Photos that did not come are listed in the result, and in `failures` as soon as that is known. Ctrl-C leaves what is
    there in a state to go on from.

    Raises:
        DownloadError: something other than a single photo could not be fetched or unpacked, or the disk has no room.
        AnnotationError: the annotation file is broken, or lacks a split.
    """
    fetcher = _Fetcher(out, keep_archives, verify, retry)
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = annotations or fetcher.annotations(sources.annotations)
        photos = _official(read_annotations(file), splits)
        missing = [photo for photo in photos if not _is_there(out / photo.file)]
        result = Downloaded(file, out, len(photos), failures=[] if failures is None else failures)
        if not missing:
            note(f"photos: all {len(photos):,} are there, nothing to fetch")
        elif splits:
            fetcher.one_by_one(missing, sources.photos, jobs, result.failures)
        else:
            result.failures += fetcher.whole(missing, sources)
    except OSError as error:  # of the disk: those of the network have become a DownloadError
        place = error.filename or out
        raise DownloadError(f"cannot write {place}: {error.strerror}: mend that and run this again to go on") from error
    result.fetched = len(missing) - len(result.failures)
    return result


@dataclass(frozen=True, slots=True)
class _Fetcher:
    """Fetches below one folder; what it fetches is said first."""

    out: Path
    keep: bool
    verify: bool
    retry: Retry

    def annotations(self, archive: Archive) -> Path:
        """Fetches the annotation file, unless it is there."""
        file = self.out / ANNOTATION_FILE
        if not _is_there(file):
            archives = self._plan("annotations", [archive])
            self._unpacked(archives[0], lambda name: file if PurePosixPath(name).name == ANNOTATION_FILE else None)
        return file

    def whole(self, missing: Sequence[Image], sources: Sources) -> list[Failure]:
        """Fetches and unpacks the archives that hold the missing photos; returns those that they lack."""
        folders = {PurePosixPath(photo.file).parts[0] for photo in missing}
        for archive in self._plan("photos", [sources.archives[folder] for folder in folders]):
            self._unpacked(archive, lambda name: self.out / name if _PHOTO.fullmatch(name) else None)
        return [
            Failure(photo.file, _address(sources.photos, photo), "not in the archive")
            for photo in missing
            if not _is_there(self.out / photo.file)
        ]

    def one_by_one(self, missing: Sequence[Image], base: str, jobs: int, failures: list[Failure]) -> None:
        """Fetch photos in parallel; those that did not come are added to `failures`."""
        room = _Room(len(missing) * PHOTO_ROOM + PHOTOS_SLACK)
        self._say("photos", len(missing), "about " + _amount(len(missing) * AVERAGE_PHOTO), room.left)
        remotes = {photo.file: Remote(_address(base, photo), self.out / photo.file, JPEG) for photo in missing}
        for folder in {remote.file.parent for remote in remotes.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        work = _in_parallel(remotes, jobs, lambda remote: fetch(remote, retry=self.retry, claim=room.take))
        in_a_row = 0
        for file, error in tqdm(work, total=len(remotes), unit=" photos", desc="photos", dynamic_ncols=True):
            in_a_row = in_a_row + 1 if isinstance(error, Unreachable) else 0
            if in_a_row >= max(PATIENCE, 2 * jobs):
                raise DownloadError(f"{in_a_row} photos in a row did not come: {error}: run this again later to go on")
            if error is not None:
                failures.append(Failure(file, remotes[file].url, str(error)))

    def _plan(self, what: str, archives: Sequence[Archive]) -> list[Archive]:
        """Says what will be fetched and refuses where it does not fit; the archives in the order that needs least."""
        # the largest first: at its worst moment the contents of the others are not there yet
        ordered = sorted(map(self._measured, archives), key=lambda archive: archive.size, reverse=True)
        left = [archive.left(self.out) for archive in ordered]
        self._say(what, sum(map(bool, left)), _amount(sum(left)), room_needed(ordered, self.out, self.keep))
        return ordered

    def _measured(self, archive: Archive) -> Archive:
        file = self.out / archive.name
        if file.is_file():  # fetched before
            return replace(archive, size=file.stat().st_size)
        if self.verify:
            return archive
        return replace(archive, size=announced_size(archive.url, self.retry), md5=None)

    def _say(self, what: str, files: int, size: str, room: int) -> None:
        free = shutil.disk_usage(self.out).free
        note(f"{what}: {files:,} to fetch, {size}; it needs at most {_amount(room)} of disk, {_amount(free)} are free")
        if free < room:
            raise DownloadError(f"the disk of {self.out} has no room: {_amount(room)} needed, {_amount(free)} free")

    def _unpacked(self, archive: Archive, place: Callable[[str], Path | None]) -> None:
        """Fetches an archive and unpacks it; it goes when all of it is unpacked."""
        file = self.out / archive.name
        if not file.is_file():
            remote = Remote(archive.url, file, ZIP, archive.size, archive.md5)
            with tqdm(
                total=archive.size,
                initial=archive.size - archive.left(self.out),
                unit="B",
                unit_scale=True,
                desc=archive.name,
                dynamic_ncols=True,
            ) as bar:

                def pause(seconds: float) -> None:
                    bar.set_postfix_str(f"trying again in {seconds:.0f} s")
                    self.retry.sleep(seconds)
                    bar.set_postfix_str("")

                def show(done: int, total: int) -> None:
                    bar.update(done - bar.n)
                    if done == total and archive.md5:
                        bar.set_postfix_str("comparing the MD5")

                try:
                    fetch(remote, retry=replace(self.retry, sleep=pause), progress=show)
                except DownloadError as error:
                    raise DownloadError(f"{archive.url}: {error}") from error
        unpack(file, place, archive.room)
        if not self.keep:
            file.unlink()


class _Room:
    """The disk that was said to be enough, in bytes; threads take from it before they write."""

    def __init__(self, size: int) -> None:
        self.left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        with self._lock:
            self.left -= on_disk(size) + BLOCK  # the file, and beside it what is remembered until it is complete
            if self.left < 0:
                raise OutOfSpace("the photos are larger than was said: run this again to go on with the rest")


def _in_parallel(
    remotes: Mapping[str, Remote], jobs: int, action: Callable[[Remote], None]
) -> Iterator[tuple[str, DownloadError | None]]:
    """Does it for each, in threads; yields what went wrong with which, in the order in which they finish.

    Raises:
        OutOfSpace, OSError: what concerns not one file but all of them.
    """
    todo = deque(remotes.items())
    done: SimpleQueue[tuple[str, Exception | None]] = SimpleQueue()

    def work() -> None:
        while todo:
            try:
                file, remote = todo.popleft()
            except IndexError:  # another thread was faster
                return
            outcome: Exception | None = RuntimeError(f"the thread that fetched {file} died")
            try:
                action(remote)
                outcome = None
            except (DownloadError, OSError) as error:
                outcome = error
            finally:
                done.put((file, outcome))

    try:
        for _ in range(min(jobs, len(remotes))):
            # daemons, because a thread may sit in a read for half a minute and Ctrl-C must not wait for it
            threading.Thread(target=work, daemon=True).start()
        for _ in remotes:
            file, outcome = done.get()
            if outcome is not None and (isinstance(outcome, OutOfSpace) or not isinstance(outcome, DownloadError)):
                raise outcome
            yield file, outcome
    finally:
        todo.clear()


def _official(read: Annotations, splits: Sequence[str]) -> list[Image]:
    if list(splits) == ["train"] and "restval" in read.splits():
        note("note: Karpathy's training set is train plus restval: add --split restval")
    photos, _ = read.select(splits or ["all"])
    for photo in photos:
        if photo.url is None:
            raise DownloadError(f"{read.file}: {photo.file} has no official address: only COCO's photos can be fetched")
    return photos


def _is_there(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _address(base: str, photo: Image) -> str:
    return f"{base}/{quote(photo.file)}"


def _amount(size: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.0f} kB"
