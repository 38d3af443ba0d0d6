"""Coverage-guided fuzzing of what reads files from outside: whatever the bytes, slices or one clear sentence.

    python -m tests.fuzzing --seconds=600 --folder=build/fuzzing            # needs nothing else
    python -m tests.fuzzing --seconds=600 --folder=build/fuzzing --atheris  # by libFuzzer: pip install atheris

Both begin with the hostile inputs and those kept in the folder by runs before, change bytes, and keep what reaches
lines of bt_jax.data, Pillow, pydicom or nibabel that nothing reached before. An input that breaks the rule, takes too
long, or crashes the process is left in the folder as `broken-...` or `current`, and the exit status is 1.
"""

import argparse
import contextlib
import hashlib
import pathlib
import signal
import sys
import time
import types
import warnings
from collections.abc import Iterator

import numpy as np

from bt_jax.data.io import file_reader
from bt_jax.data.io.slices import Limits, UnreadableError
from tests import hostile_inputs, medical_files

# So small that an honest reader is quick about anything that keeps to them.
LIMITS = Limits(file_bytes=2**18, pixels=2**18, slices=20, unpacked_bytes=2**18)
LONGEST = 5.0  # seconds for an input; those of the corpus take milliseconds
LARGEST_SEED = 2**15  # bytes
TOO_SLOW = {"deflate_bomb.dcm"}  # line by line; still read in the tests

_WATCHED = ("/bt_jax/data/", "/PIL/", "/pydicom/", "/nibabel/")
_NUMBERS = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


class BrokenRuleError(AssertionError):
    """What reads files did something else than to give slices or a clear sentence."""


class _TooLongError(BaseException):
    """An input took too long. No Exception, as what reads files answers all of those with a sentence."""


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Ends what runs for too long, even where it never would by itself. For the main thread, as all signals are."""

    def end(number: int, frame: types.FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LONGEST, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(content: bytes) -> bool:
    """Reads an input; whether it has slices.

    Raises:
      BrokenRuleError: any other exception, a slice that is none, a sentence that is none or tells secrets, or no end.
    """
    try:
        with _ending():
            return _has_slices(content)
    except _TooLongError:
        raise BrokenRuleError(f"took over {LONGEST:.1f} s") from None


def _has_slices(content: bytes) -> bool:
    said, count = [], 0
    try:
        for slice_ in file_reader.read_slices(content, limits=LIMITS):
            count += 1
            said += slice_.warnings
            image = slice_.image
            if image.ndim != 2 or not image.size or image.dtype not in (np.uint8, np.uint16):
                raise BrokenRuleError(f"a slice of {image.shape} {image.dtype}")
            if image.size > LIMITS.pixels or count > LIMITS.slices:
                raise BrokenRuleError(f"{count} slices, {image.shape}: beyond the limits")
    except UnreadableError as error:
        said.append(str(error))
    except BrokenRuleError:
        raise
    except Exception as error:
        raise BrokenRuleError(f"{type(error).__name__}: {error}") from error
    for sentence in said:
        if not 5 < len(sentence) < 300 or "\n" in sentence or medical_files.SECRET in sentence:
            raise BrokenRuleError(f"said {sentence!r}")
    return count > 0


class Coverage:
    """The lines of the watched libraries that were run, by `sys.settrace`; a context in which they are counted."""

    def __init__(self) -> None:
        self.lines: set[tuple[types.CodeType, int]] = set()
        self._watched: dict[types.CodeType, bool] = {}

    def __enter__(self) -> "Coverage":
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: types.FrameType, event: str, argument: object) -> object:
        code = frame.f_code
        if code not in self._watched:
            self._watched[code] = any(part in code.co_filename for part in _WATCHED)
        return self._line if self._watched[code] else None

    def _line(self, frame: types.FrameType, event: str, argument: object) -> object:
        self.lines.add((frame.f_code, frame.f_lineno))
        return self._line


def mutated(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """The same with a few bytes changed, put in, taken out, repeated, or taken from another input."""
    changed = bytearray(content)
    for _ in range(int(generator.integers(1, 6))):
        if not changed:
            break
        # Headers decide more than pixels do.
        most = len(changed) if generator.random() < 0.5 else min(len(changed), 600)
        place, length = int(generator.integers(most)), int(2 ** generator.uniform(0, 7))
        match int(generator.integers(8)):
            case 0:
                changed[place] ^= 1 << int(generator.integers(8))
            case 1:
                changed[place] = int(generator.integers(256))
            case 2 | 3:
                number = _NUMBERS[int(generator.integers(len(_NUMBERS)))]
                width, order = int(generator.choice([1, 2, 4])), ("little", "big")[int(generator.integers(2))]
                changed[place : place + width] = (number % 256**width).to_bytes(width, order)  # type: ignore[arg-type]
            case 4:
                del changed[place : place + length]
            case 5:
                changed[place:place] = changed[place : place + length]
            case 6:
                start = int(generator.integers(len(other))) if other else 0
                changed[place : place + length] = other[start : start + length]
            case 7:
                del changed[place:]
    return bytes(changed[: LIMITS.file_bytes])


def seeds(folder: pathlib.Path | None = None) -> list[bytes]:
    """Inputs to begin with, and those that runs before have kept."""
    kept = [path.read_bytes() for path in sorted(folder.glob("kept-*"))] if folder else []
    made = hostile_inputs.corpus().items()
    return [content for name, content in made if len(content) <= LARGEST_SEED and name not in TOO_SLOW] + kept


def fuzz(
    known: list[bytes], *, seconds: float, seed: int = 0, folder: pathlib.Path | None = None
) -> Iterator[tuple[int, int, bytes]]:
    """Tries inputs until the time is over; gives the number tried, lines reached and content of each that is kept.

    Raises:
      BrokenRuleError: at the first input that breaks the rule; with a folder, it lies there.
    """
    generator = np.random.default_rng(seed)
    pool, tried, end = list(known), 0, time.monotonic() + seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coverage = Coverage()
        for content in pool:
            with coverage:
                check(content)
        while time.monotonic() < end:
            # What was kept last has not been changed much yet.
            index = int(len(pool) * generator.random() ** 0.7)
            content = mutated(pool[index], pool[int(generator.integers(len(pool)))], generator)
            if folder:
                (folder / "current").write_bytes(content)
            before = len(coverage.lines)
            try:
                with coverage:
                    check(content)
            except BrokenRuleError:
                if folder:
                    (folder / f"broken-{_name(content)}").write_bytes(content)
                raise
            tried += 1
            if len(coverage.lines) > before:
                pool.append(content)
                if folder:
                    (folder / f"kept-{_name(content)}").write_bytes(content)
                yield tried, len(coverage.lines), content


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _by_atheris(folder: pathlib.Path, seconds: float) -> None:
    import atheris  # type: ignore[import-not-found, unused-ignore]

    begun = folder / "atheris"
    begun.mkdir(exist_ok=True)
    for content in seeds(folder):
        (begun / _name(content)).write_bytes(content)
    atheris.instrument_all()
    flags = [sys.argv[0], f"-max_total_time={int(seconds)}", f"-max_len={LIMITS.file_bytes}", "-timeout=20",
             "-rss_limit_mb=4096", f"-artifact_prefix={folder}/broken-", str(begun)]  # fmt: skip
    atheris.Setup(flags, lambda content: (check(content), None)[1])
    atheris.Fuzz()


def main() -> int:
    """Fuzzes for the given time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build/fuzzing"))
    parser.add_argument("--atheris", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.atheris:
        warnings.simplefilter("ignore")
        _by_atheris(options.folder, options.seconds)
        return 0
    tried = lines = kept = 0
    try:
        known = seeds(options.folder)
        for found in fuzz(known, seconds=options.seconds, seed=options.seed, folder=options.folder):
            tried, lines, kept = found[0], found[1], kept + 1
    except BrokenRuleError as error:
        print(f"after {tried} inputs: {error}; the input is in {options.folder}")
        return 1
    print(f"{tried} inputs, {kept} of them kept, {lines} lines reached, no rule broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
