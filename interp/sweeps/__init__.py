"""Many runs of one function over a grid: parallel, shown, stored, resumable."""

from interp.sweeps.result import Sweep
from interp.sweeps.run import read, sweep

__all__ = ["Sweep", "read", "sweep"]
