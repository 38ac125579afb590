"""The errors that users meet. Each says what happened, why, and what now.

class           raised when                                              exit code of the command line
UsageError      a name, a flag or a combination is not known             2
Misfit          two parts cannot be composed (a TypeError)               2
DataError       a data set cannot be used                                3
ImageError      one picture cannot be read (a DataError)                 3
Diverged        training produced non-finite numbers again and again     4
WeightsError    a file of weights is damaged or belongs elsewhere        1
DiskError       the disk refused a write                                 1
Locked          another process trains in the same run folder            1
RankLost        a process of several died, or was stopped                1
"""

LONGEST, KEPT = 900, 400  # characters of a line, and of the two ends of a longer one


class SfumatoError(Exception):
    """The root: whoever catches this catches everything that the library raises on purpose. What it quotes may be of
    any length, and is shown as far as a person would read."""

    exit_code = 1

    def __str__(self) -> str:
        lines = super().__str__().split("\n")
        return "\n".join(line if len(line) <= LONGEST else f"{line[:KEPT]} … {line[-KEPT:]}" for line in lines)


class UsageError(SfumatoError, ValueError):
    exit_code = 2


class UnknownName(UsageError, LookupError):
    """A name that no registry holds; the message offers the nearest."""


class Misfit(SfumatoError, TypeError):
    exit_code = 2


class DataError(SfumatoError, ValueError):
    exit_code = 3


class ImageError(DataError):
    """`reason` is a word or two for the report ("truncated", "too large"); the message has the rest."""

    def __init__(self, message: str, reason: str = "unreadable"):
        super().__init__(message)
        self.reason = reason


class Diverged(SfumatoError, ArithmeticError):
    exit_code = 4


class WeightsError(SfumatoError, ValueError):
    pass


class DiskError(SfumatoError, OSError):
    pass


class Locked(SfumatoError, RuntimeError):
    pass


class RankLost(SfumatoError, RuntimeError):
    pass
