"""Periodic series that are made: sums of sines, and motifs.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, and its notebook.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

from interp.errors import InvalidInput
from interp.results.by_head import Floats
from interp.validate import whole
from probes.stimuli.time_series import TimeSeries, positive


def multisine(
    frequencies: Sequence[float] | float,
    amplitudes: Sequence[float] | float = 1.0,
    phases: Sequence[float] | float = 0.0,
    *,
    duration: float = 3.0,
    steps: int = 301,
) -> TimeSeries:
    """Add sines: f(t) = sum_i a_i sin(2 pi k_i t + phi_i).

    Args:
        frequencies: k in Hz, one or several; the published notebook has 5, 10, 20, 40.
        amplitudes: a, one for all components or one a component; in the notebook 1, 0.75, 0.5, 0.5.
        phases: phi in radians, one for all or one a component.
        duration: length in seconds; the end itself is left out.
        steps: number of points.

    Raises:
        InvalidInput: amplitudes or phases that do not fit the frequencies, a duration or steps that
            are not positive, or frequencies at or over the Nyquist limit of the sampling.

    Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, and its notebook.
    """
    duration, steps = positive("duration", duration), whole("steps", steps, 1)
    tones = _numbers("frequencies", frequencies)
    heights = _each("amplitudes", amplitudes, len(tones))
    shifts = _each("phases", phases, len(tones))
    nyquist = steps / duration / 2
    if (tones <= 0).any():
        raise InvalidInput(f"frequencies={tones.tolist()} must be over 0 Hz.")
    if (beyond := tones[tones >= nyquist]).size:
        raise InvalidInput(
            f"frequencies={beyond.tolist()} are not under the Nyquist limit of {steps} steps in {duration:g} s, "
            f"{nyquist:g} Hz: they would look like others. Take more steps or lower frequencies."
        )
    t = np.arange(steps) * (duration / steps)
    values = (heights[:, None] * np.sin(2 * np.pi * tones[:, None] * t + shifts[:, None])).sum(0)
    components = {"frequencies": tones.tolist(), "amplitudes": heights.tolist(), "phases": shifts.tolist()}
    name, parameters = ", ".join(f"{f:g}" for f in tones), {**components, "duration": duration, "steps": steps}
    return TimeSeries(values, duration / steps, "s", f"multisine {name} Hz", tuple(tones.tolist()), parameters)


@dataclass(frozen=True)
class MultisineDraws:
    """How multisines of random phases are drawn: `duration` in seconds, `num_decoder` of the `steps` for the decoder.

    Raises:
        InvalidInput: fewer than two draws or steps, no value at the decoder to look from, or an impossible duration or
            seed.
    """

    draws: int
    num_decoder: int
    duration: float
    steps: int
    seed: int

    def __post_init__(self) -> None:
        for name, least in {"num_decoder": 1, "steps": 2, "draws": 2, "seed": 0}.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        object.__setattr__(self, "duration", positive("duration", self.duration))

    @property
    def context(self) -> int:
        """The number of steps in the context."""
        return self.steps - self.num_decoder

    def period(self, frequency: float) -> float:
        """Return the period of a frequency in Hz, in steps."""
        return self.steps / self.duration / frequency

    def series(
        self, rng: np.random.Generator, frequencies: Sequence[int], amplitudes: Sequence[float] | float | None = None
    ) -> Floats:
        """Draw series `[draw, step]` of uniform phases and, unless `amplitudes` are passed, of amplitudes 0.5 to 1."""
        count = len(frequencies)
        series: list[Floats] = []
        for _ in range(self.draws):
            heights = rng.uniform(0.5, 1, count).tolist() if amplitudes is None else amplitudes
            phases = rng.uniform(0, 2 * np.pi, count).tolist()
            series.append(multisine(frequencies, heights, phases, duration=self.duration, steps=self.steps).values)
        return np.stack(series)


def whole_frequencies(name: str, frequencies: Any) -> tuple[int, ...]:
    """Return one or several whole frequencies in Hz.

    Raises:
        InvalidInput: others than whole numbers from 1 on.
    """
    return tuple(whole(name, frequency, 1) for frequency in np.atleast_1d(frequencies).tolist())


def _numbers(name: str, values: Any) -> Floats:
    try:
        numbers = np.atleast_1d(np.asanyarray(values))
        if numbers.dtype.kind not in "fiu" and numbers.size:
            raise TypeError
        array = np.ma.filled(numbers.astype(np.float64), np.nan)
    except (TypeError, ValueError):
        raise InvalidInput(f"{name}={values!r} must be one number or several.") from None
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise InvalidInput(f"{name}={values!r} must be one finite number or several.")
    return array


def _each(name: str, values: Any, count: int) -> Floats:
    array = _numbers(name, values)
    if len(array) not in (1, count):
        raise InvalidInput(f"{name} are {len(array)} and frequencies {count}: give one for all, or one each.")
    return np.broadcast_to(array, (count,)).astype(np.float64)


def motif(
    pattern: Sequence[float] | int = 12, repetitions: int = 8, *, noise: float = 0.0, seed: int = 0
) -> TimeSeries:
    """Repeat a pattern of values: the series that repeated random tokens stand for.

    Args:
        pattern: the values, or how many to draw from a standard normal distribution.
        noise: standard deviation of the noise added to each step, in units of the values.

    Returns:
        The series, with its repetition as the only frequency, in cycles a step.

    Raises:
        InvalidInput: an empty or single-valued pattern, no repetition, or negative noise.
    """
    rng = np.random.default_rng(whole("seed", seed, 0))
    drawn = isinstance(pattern, Number) or getattr(pattern, "ndim", 1) == 0
    values = rng.standard_normal(whole("pattern", pattern, 2)) if drawn else _pattern(pattern)
    spread, count = _numbers("noise", noise), whole("repetitions", repetitions, 1)
    if len(spread) > 1 or spread[0] < 0:
        raise InvalidInput(f"noise={noise!r} must be one number, 0 or more.")
    series = np.tile(values, count)
    series = series + spread[0] * rng.standard_normal(len(series))
    parameters = {"pattern": values.tolist(), "repetitions": count, "noise": float(spread[0]), "seed": int(seed)}
    return TimeSeries(series, name=f"motif of {len(values)}", frequencies=(1 / len(values),), parameters=parameters)


def _pattern(values: Any) -> Floats:
    try:
        pattern = TimeSeries(values).values
    except InvalidInput as error:
        raise InvalidInput(f"pattern: {error}") from None
    if len(pattern) < 2 or np.isnan(pattern).any():
        raise InvalidInput(f"pattern={values!r:.60} must hold two values or more, none of them missing.")
    return pattern
