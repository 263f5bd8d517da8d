"""One small hierarchy: everything that bad input can cause is an `InterpError`.

Where a builtin fits, an error derives from it too, so that `except ValueError` works as usual.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import version


class InterpError(Exception):
    """What every error of this toolkit derives from."""

    def __str__(self) -> str:
        # KeyError would show the message in quotes.
        return str(self.args[0]) if self.args else ""


class InvalidInput(InterpError, ValueError):
    """Tokens, series, parameters or shapes that cannot be what was meant."""


class UnclearGap(UserWarning):
    """A difference that results are parts of cannot be told from 0, so that the parts mean nothing. Take more rows."""


class UnknownSite(InterpError, KeyError):
    """A site name that is malformed, or that this model does not have."""


class UnknownHead(InterpError, KeyError):
    """A head's address that is malformed, or that this model does not have."""


class UnknownModel(InterpError, FileNotFoundError):
    """A model that is neither bundled, nor a directory, nor to be had from the hub."""


class UnsupportedModel(InterpError, ValueError):
    """A model that was found but cannot be read: another architecture, or what it lacks for what was asked."""


class MissingCapability(UnsupportedModel):
    """A model that lacks what a call needs, such as an encoder or a tokenizer for series."""


class DamagedFile(InterpError, ValueError):
    """A file of weights or results that is not whole, or not of the expected form."""


class MissingFile(InterpError, FileNotFoundError):
    """A file that is not there."""


class WrongVersion(InterpError, ValueError):
    """A results file that another version of the format wrote."""


class WrongStore(InterpError, ValueError):
    """A store of another sweep: another function, weights, versions, or no store at all."""


class CannotWrite(InterpError, OSError):
    """A file or directory that cannot be written: the disk is full, or not ours to write to."""


class LostWorker(InterpError, RuntimeError):
    """A worker process that died before it gave its result."""


class BrokenHook(InterpError, RuntimeError):
    """A hook point that the model's forward pass does not go through."""


class ChangedModel(InterpError, RuntimeError):
    """A model that was changed too early: while edits of it were in force, or before a result was finished."""


class InertEdit(InterpError, RuntimeError):
    """An edit that reached no module by the end of its context."""


class MissingBrowser(InterpError, RuntimeError):
    """No Chrome or Chromium for writing pictures."""


def no_tokens(name: str, instead: str = "") -> MissingCapability:
    """Return the one error of everything that needs tokens, for what reads values; and what there is in its place."""
    return MissingCapability(
        f"{name} has no tokens: it reads the values of series, in patches. For its input use "
        "interp.Batch.from_series(model, series), as a stimulus probes.repeated_random_patches(model, ...), and as a "
        f"metric one of quantiles, such as circuits.metrics.median(). {instead}".rstrip()
    )


def release(library: str) -> str:
    """Name a library with the version that is installed."""
    return f"{library} {version(library)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint "Did you mean ...?" with the closest known name, or nothing."""
    names = list(known)
    close = [] if name in names else get_close_matches(name, names, n=1, cutoff=0.4)
    return f" Did you mean {close[0]!r}?" if close else ""
