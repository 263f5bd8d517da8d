"""Series that know their time axis, and the batch that keeps which token is which time step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
from chronos import MeanScaleUniformBins
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from interp import Batch, InvalidInput, Model
from interp.inputs.user_series import as_series, read_series
from interp.results.result import Floats, Result, frozen
from interp.sweeps.grid import plain
from interp.validate import whole


@dataclass(frozen=True, eq=False, repr=False)
class TimeSeries(Result):
    """One series on an even time axis.

    Attributes:
        values: `[step]`; given as any one series (`interp.inputs.user_series.Series`).
        spacing: time from one step to the next, in `unit`.
        unit: of time: `s` makes frequencies Hz, `year` cycles a year.
        name: what figures call it.
        frequencies: of the components it was made of, in cycles a `unit`; none for real series.
        parameters: what it was made with.

    Raises:
        InvalidInput: no values, or more than one axis; infinite or only missing values; a spacing
            or frequencies that are not positive.
    """

    KIND = "time-series"

    values: Floats
    spacing: float = 1.0
    unit: str = "step"
    name: str = "series"
    frequencies: tuple[float, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        values = read_series(self.values).values
        if len(values) != 1:
            raise InvalidInput(f"one series [step] is needed; found {len(values)}. Take one of them.")
        object.__setattr__(self, "values", frozen(values[0]))
        object.__setattr__(self, "spacing", positive("spacing", self.spacing))
        tones = np.atleast_1d(np.asarray(self.frequencies, dtype=object)).tolist()
        object.__setattr__(self, "frequencies", tuple(positive("frequencies", f) for f in tones))
        kept = {str(name): plain(str(name), value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", json.loads(json.dumps(kept)))

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype)

    def __repr__(self) -> str:
        return f"TimeSeries({self.name!r}, {len(self)} steps of {self.spacing:g} {self.unit})"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per step: `time` (in `unit`), `value`."""
        return pd.DataFrame({"time": self.times, "value": self.values})

    @property
    def times(self) -> Floats:
        """The time of each step, `[step]`, the first being 0."""
        return frozen(np.arange(len(self)) * self.spacing)

    @property
    def duration(self) -> float:
        """Steps times spacing: the first time after the last step."""
        return len(self) * self.spacing

    @property
    def nyquist(self) -> float:
        """The highest frequency that this spacing shows, in cycles a `unit`."""
        return 0.5 / self.spacing

    def first(self, steps: int) -> Self:
        """The first steps of it."""
        return replace(self, values=self.values[: whole("steps", steps, 1)])

    def last(self, steps: int) -> Self:
        """The last steps of it, as for a model with a shorter context."""
        return replace(self, values=self.values[-whole("steps", steps, 1) :])

    def shuffled(self, seed: int = 0) -> Self:
        """The same values in random order: what has no period left."""
        values = np.random.default_rng(whole("seed", seed, 0)).permutation(self.values)
        return replace(self, values=values, name=f"{self.name}, shuffled", frequencies=())


def positive(name: str, value: Any) -> float:
    """A finite number over zero.

    Raises:
        InvalidInput: something else.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool | str) or not 0 < number < float("inf"):
        raise InvalidInput(f"{name}={value!r} must be a positive number.")
    return number


def multisine(
    frequencies: Sequence[float] | float,
    amplitudes: Sequence[float] | float = 1.0,
    phases: Sequence[float] | float = 0.0,
    *,
    duration: float = 3.0,
    steps: int = 301,
) -> TimeSeries:
    """A sum of sines: f(t) = sum_i a_i sin(2 pi k_i t + phi_i).

    Args:
        frequencies: k in Hz, one or several; the published notebook has 5, 10, 20, 40.
        amplitudes: a, one for all components or one a component; there 1, 0.75, 0.5, 0.5.
        phases: phi in radians, one for all or one a component.
        duration: in seconds; the end itself is left out.
        steps: how many points.

    Returns:
        The series.

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
            f"{nyquist:g} Hz: they would show as others. Take more steps or lower frequencies."
        )
    t = np.arange(steps) * (duration / steps)
    values = (heights[:, None] * np.sin(2 * np.pi * tones[:, None] * t + shifts[:, None])).sum(0)
    return TimeSeries(
        values,
        duration / steps,
        "s",
        f"multisine {', '.join(f'{f:g}' for f in tones)} Hz",
        tuple(tones.tolist()),
        {
            "frequencies": tones.tolist(),
            "amplitudes": heights.tolist(),
            "phases": shifts.tolist(),
            "duration": duration,
            "steps": steps,
        },
    )


def _numbers(name: str, values: Any) -> Floats:
    try:
        given = np.atleast_1d(np.asanyarray(values))
        if given.dtype.kind not in "fiu" and given.size:
            raise TypeError
        array = np.ma.filled(given.astype(np.float64), np.nan)
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
    """A pattern of values repeated: the series that repeated random tokens stand for.

    Args:
        pattern: the values, or how many to draw from a standard normal distribution.
        repetitions: how often it is given.
        noise: standard deviation of what is added to each step, in units of the values.
        seed: of the draws.

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


@dataclass(frozen=True, eq=False, kw_only=True)
class SeriesBatch(Batch):
    """A batch of one series that knows which token is which time step.

    `encoder_steps` and `decoder_steps` are the series' step at each token position, -1 at special
    tokens, of which a decoder alone has none; `scale` is what the tokenizer divided the values by.
    """

    series: TimeSeries
    encoder_steps: Int[Tensor, " pos"]
    decoder_steps: Int[Tensor, " dec_pos"]
    scale: float


def as_time_series(series: Any) -> TimeSeries:
    """A series with its time axis: as it is, or with one step as the unit of time and the name that it has.

    Raises:
        InvalidInput: what is no series, or several.
    """
    if isinstance(series, TimeSeries):
        return series
    found = read_series(series)
    return TimeSeries(found.values, name=found.names[0] or "series")


def series_batch(model: Model, series: Any, *, num_decoder: int = 0) -> SeriesBatch:
    """A series through the pipeline's own tokenizer, keeping which token is which time step.

    Args:
        model: whose tokenizer and context length to use.
        series: a `TimeSeries`, or one series as `interp.inputs.user_series.Series` says.
        num_decoder: how many of the last values go to the decoder, after the start token. In a decoder alone
            they follow the context in one row.

    Returns:
        The batch of one row; an encoder's tokens end with EOS where the tokenizer puts one.

    Raises:
        InvalidInput: a series that is constant or has missing values, a context longer than the
            model's, or nothing left for the context.
        UnsupportedModel: a model without a tokenizer for series.
    """
    given, num_decoder = as_time_series(series), whole("num_decoder", num_decoder, 0)
    check_series(model, given.values[None], num_decoder)
    batch = Batch.from_series(model, given, num_decoder=num_decoder)
    n = len(given) - num_decoder
    context, rest, special = torch.arange(n), torch.arange(n, len(given)), torch.tensor([-1])
    encoder_steps = torch.cat([context, special])[: batch.input_ids.shape[1]]  # with EOS, or none, or no encoder
    decoder_steps = torch.cat([special if batch.has_encoder else context, rest])
    tokenizer = cast(MeanScaleUniformBins, model.pipeline.tokenizer)
    scale = tokenizer.context_input_transform(as_series(given.values[:n]))[2]
    return SeriesBatch(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        decoder_input_ids=batch.decoder_input_ids,
        vocabulary=batch.vocabulary,
        series=given,
        encoder_steps=encoder_steps,
        decoder_steps=decoder_steps,
        scale=float(scale),
    )


def check_series(model: Model, values: Floats, num_decoder: int) -> None:
    """Hold series `[series, step]` against what a spectrum over a model's context needs.

    Raises:
        InvalidInput: constant or missing values, a context longer than the model's, or nothing left
            for the context.
    """
    steps = values.shape[1] - whole("num_decoder", num_decoder, 0)
    if steps < 1:
        raise InvalidInput(
            f"num_decoder={num_decoder} of a series of {values.shape[1]} steps leaves the context nothing: choose 0 "
            f"to {values.shape[1] - 1}."
        )
    longest = model.pipeline.model_context_length
    if steps > longest:
        raise InvalidInput(
            f"a context of {steps} steps is longer than {model.name}'s, {longest}: take the last of it, "
            f"series.last({longest + num_decoder})."
        )
    if missing := np.flatnonzero(np.isnan(values).any(0)).tolist():
        raise InvalidInput(
            f"missing values at steps {', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}: a "
            "spectrum needs an even axis without gaps. Fill them, or take a part without."
        )
    tokenizer = cast(MeanScaleUniformBins, model.pipeline.tokenizer)
    ids = tokenizer.context_input_transform(as_series(values[:, :steps]))[0][:, :steps]
    if (ids == ids[:, :1]).all(1).any():
        raise InvalidInput(
            "a constant series has no spectrum: nothing varies in what the model sees, all values fall into one "
            "token. A series whose level is much larger than its variation must have the level taken off."
        )
