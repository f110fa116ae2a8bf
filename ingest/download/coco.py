"""Download real COCO: Karpathy's annotations and the photos, from their official addresses.

The photos come as the two official archives or, if only some splits are requested, one by one. Every download resumes:
a second run fetches only what is missing. No download takes more disk space than it announces before it starts.
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

from tqdm.auto import tqdm

from ingest.annotations import Annotations, karpathy
from ingest.annotations.source import opened
from ingest.download.http import DEFAULT_RETRY, Remote, Retry, announced_size, fetch
from ingest.download.zips import BLOCK, Archive, on_disk, space_needed, unpack
from ingest.failures import REASONS_SHOWN, count_of
from search.cli.command import note
from search.errors import DownloadError, OutOfSpace, Unreachable
from search.records import Image

ANNOTATIONS_URL = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
IMAGES_URL = "http://images.cocodataset.org"  # the official address has no https; the MD5s make up for it
ANNOTATION_FILE = "dataset_coco.json"

AVERAGE_PHOTO = 164_000  # bytes, in both archives
PHOTO_SPACE = 200_000  # bytes of disk for one, with margin
PHOTOS_MARGIN = 20_000_000  # bytes: a few photos may be much larger than the average
MAX_FAILURES_IN_A_ROW = 20  # photos, after which the download stops
JPEG, ZIP = b"\xff\xd8\xff", b"PK"
_PHOTO = re.compile(rf"({'|'.join(karpathy.OFFICIAL_FOLDERS)})/[\w.-]+\.jpg", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to download from: the archives, by the folder that they hold, and the base address of single photos."""

    annotations: Archive
    archives: Mapping[str, Archive]
    photos: str


# The sizes are those that the servers announce (Content-Length). They publish no checksums: the MD5s are those that
# other projects, LAVIS among them, list for the same files. JPEG does not shrink in a zip: 1.05 covers the contents and
# half a block for each of the 40,504 and 82,783 photos. Of the annotations only dataset_coco.json is unpacked,
# 144,186,139 bytes or 3.9 times the archive.
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
    """A photo that could not be downloaded."""

    file: str
    url: str
    reason: str

    def as_json(self) -> dict[str, str]:
        return {"file": self.file, "url": self.url, "stage": "download", "reason": self.reason}


def describe_failures(failures: Sequence[Failure]) -> tuple[str, list[str]]:
    """Return how many photos failed, and the first reasons."""
    reasons = [f"{failure.file}: {failure.reason}" for failure in failures[:REASONS_SHOWN]]
    return f"{count_of(len(failures), 'photo')} could not be downloaded", reasons


@dataclass(slots=True)
class Downloaded:
    """The result of a download: the annotation file, the photo folder, the photos requested and those that are new."""

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
    retry: Retry = DEFAULT_RETRY,
    failures: list[Failure] | None = None,
) -> Downloaded:
    """Download the annotations and the photos into `out`: the whole archives, or the photos of `splits` one by one.

    Photos that could not be downloaded are listed in the result, and in `failures` at once. After Ctrl-C, a second call
    resumes.

    Raises:
        DownloadError: a file other than a single photo cannot be downloaded or unpacked, or the disk is too small.
        AnnotationError: the annotation file is broken, or lacks a split.
    """
    fetcher = _Fetcher(out, keep_archives, verify, retry)
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = annotations or fetcher.annotations(sources.annotations)
        with opened(file, out) as source:
            photos = _official_photos(karpathy.read(source), splits)
        missing = [photo for photo in photos if not _exists(out / photo.file)]
        result = Downloaded(file, out, len(photos), failures=[] if failures is None else failures)
        if not missing:
            note(f"photos: all {len(photos):,} exist, nothing to download")
        elif splits:
            fetcher.one_by_one(missing, sources.photos, jobs, result.failures)
        else:
            result.failures += fetcher.whole(missing, sources)
    except OSError as error:  # from the disk: network errors have become a DownloadError
        place = error.filename or out
        raise DownloadError(f"cannot write {place}: {error.strerror}: fix this, then run the command again") from error
    result.fetched = len(missing) - len(result.failures)
    return result


@dataclass(frozen=True, slots=True)
class _Fetcher:
    """Downloads into one folder, after announcing what and how much."""

    out: Path
    keep: bool
    verify: bool
    retry: Retry

    def annotations(self, archive: Archive) -> Path:
        """Download the annotation file unless it exists; return its path."""
        file = self.out / ANNOTATION_FILE
        if not _exists(file):
            archives = self._plan("annotations", [archive])
            self._unpack(archives[0], lambda name: file if PurePosixPath(name).name == ANNOTATION_FILE else None)
        return file

    def whole(self, missing: Sequence[Image], sources: Sources) -> list[Failure]:
        """Download and unpack the archives that hold the missing photos; return the photos that they lack."""
        folders = {PurePosixPath(photo.file).parts[0] for photo in missing}
        for archive in self._plan("photos", [sources.archives[folder] for folder in folders]):
            self._unpack(archive, lambda name: self.out / name if _PHOTO.fullmatch(name) else None)
        return [
            Failure(photo.file, _address(sources.photos, photo), "not in the archive")
            for photo in missing
            if not _exists(self.out / photo.file)
        ]

    def one_by_one(self, missing: Sequence[Image], base: str, jobs: int, failures: list[Failure]) -> None:
        """Download photos in parallel; those that fail are added to `failures`."""
        space = _Space(len(missing) * PHOTO_SPACE + PHOTOS_MARGIN)
        self._announce("photos", len(missing), "about " + _amount(len(missing) * AVERAGE_PHOTO), space.left)
        remotes = {photo.file: Remote(_address(base, photo), self.out / photo.file, JPEG) for photo in missing}
        for folder in {remote.file.parent for remote in remotes.values()}:
            folder.mkdir(parents=True, exist_ok=True)
        work = _in_parallel(remotes, jobs, lambda remote: fetch(remote, retry=self.retry, claim=space.take))
        in_a_row = 0
        for file, error in tqdm(work, total=len(remotes), unit=" photos", desc="photos", dynamic_ncols=True):
            in_a_row = in_a_row + 1 if isinstance(error, Unreachable) else 0
            if in_a_row >= max(MAX_FAILURES_IN_A_ROW, 2 * jobs):
                raise DownloadError(
                    f"{in_a_row} photos in a row could not be downloaded: {error}: run the command again later"
                )
            if error is not None:
                failures.append(Failure(file, remotes[file].url, str(error)))

    def _plan(self, what: str, archives: Sequence[Archive]) -> list[Archive]:
        """Announce what will be downloaded, and return the archives in the order that needs the least disk space.

        Raises:
            DownloadError: the disk is too small.
        """
        # The largest first: while it needs the most space, the others are not unpacked yet.
        ordered = sorted(map(self._measured, archives), key=lambda archive: archive.size, reverse=True)
        left = [archive.left(self.out) for archive in ordered]
        self._announce(what, sum(map(bool, left)), _amount(sum(left)), space_needed(ordered, self.out, self.keep))
        return ordered

    def _measured(self, archive: Archive) -> Archive:
        file = self.out / archive.name
        if file.is_file():  # downloaded before
            return replace(archive, size=file.stat().st_size)
        if self.verify:
            return archive
        return replace(archive, size=announced_size(archive.url, self.retry), md5=None)

    def _announce(self, what: str, files: int, size: str, needed: int) -> None:
        free = shutil.disk_usage(self.out).free
        note(f"{what}: {files:,} to download, {size}; needs at most {_amount(needed)} on disk, {_amount(free)} free")
        if free < needed:
            raise DownloadError(
                f"not enough space on the disk of {self.out}: {_amount(needed)} needed, {_amount(free)} free"
            )

    def _unpack(self, archive: Archive, place: Callable[[str], Path | None]) -> None:
        """Download an archive, unpack it, and delete it unless archives are kept."""
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
                    bar.set_postfix_str(f"retrying in {seconds:.0f} s")
                    self.retry.sleep(seconds)
                    bar.set_postfix_str("")

                def show(done: int, total: int) -> None:
                    bar.update(done - bar.n)
                    if done == total and archive.md5:
                        bar.set_postfix_str("verifying the MD5")

                try:
                    fetch(remote, retry=replace(self.retry, sleep=pause), progress=show)
                except DownloadError as error:
                    raise DownloadError(f"{archive.url}: {error}") from error
        unpack(file, place, archive.space)
        if not self.keep:
            file.unlink()


class _Space:
    """The announced disk space, in bytes; threads take from it before they write."""

    def __init__(self, size: int) -> None:
        self.left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        with self._lock:
            self.left -= on_disk(size) + BLOCK  # the file, and its .part.json until it is complete
            if self.left < 0:
                raise OutOfSpace("the photos are larger than announced: run the command again for the rest")


def _in_parallel(
    remotes: Mapping[str, Remote], jobs: int, action: Callable[[Remote], None]
) -> Iterator[tuple[str, DownloadError | None]]:
    """Apply `action` to each file in threads; yield each name and its error, if any, in the order they finish.

    Raises:
        OutOfSpace, OSError: an error that concerns all files.
    """
    todo = deque(remotes.items())
    done: SimpleQueue[tuple[str, Exception | None]] = SimpleQueue()

    def work() -> None:
        while todo:
            try:
                file, remote = todo.popleft()
            except IndexError:  # another thread took the last one
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
            # Daemons, because a read may block for half a minute, and Ctrl-C must not wait for it.
            threading.Thread(target=work, daemon=True).start()
        for _ in remotes:
            file, outcome = done.get()
            if outcome is not None and (isinstance(outcome, OutOfSpace) or not isinstance(outcome, DownloadError)):
                raise outcome
            yield file, outcome
    finally:
        todo.clear()


def _official_photos(read: Annotations, splits: Sequence[str]) -> Sequence[Image]:
    if list(splits) == ["train"] and "restval" in read.splits():
        note("note: Karpathy's training set is train plus restval: add --split restval")
    photos = read.select(splits or ["all"]).images
    for photo in photos:
        if photo.url is None:
            raise DownloadError(
                f"{read.file}: {photo.file} has no official address: only COCO's photos can be downloaded"
            )
    return photos


def _exists(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _address(base: str, photo: Image) -> str:
    return f"{base}/{quote(photo.file)}"


def _amount(size: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1e3:.0f} kB"
