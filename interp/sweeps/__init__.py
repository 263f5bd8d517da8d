"""Many runs of one function over a grid: parallel, shown, stored, resumable."""

from interp.sweeps.run import read, sweep
from interp.sweeps.sweep_result import Sweep

__all__ = ["Sweep", "read", "sweep"]
