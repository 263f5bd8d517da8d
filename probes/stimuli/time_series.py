"""Time series that know their time axis, and batches that know which token is which time step."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import pandas as pd
import torch
from chronos import MeanScaleUniformBins
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from interp import Batch, Model
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.inputs.dates import chosen_index, fitting_unit, own_index
from interp.inputs.series_index import check_index, entry_text
from interp.inputs.user_series import as_series, read_series
from interp.names import Stack
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen
from interp.sweeps.grid import plain
from interp.validate import whole

_DEFAULT: Any = None


@dataclass(frozen=True, eq=False, repr=False)
class TimeSeries(Result):
    """One series on an even time axis, with its dates where it has them.

    Attributes:
        values: `[step]`, from any one series (`interp.inputs.user_series.Series`).
        spacing: time from one step to the next, in `unit`. By default 1 step or, where dates are known, the length of
            a step: 1/12 year for months, 1/7 week for days, 1/24 day for hours.
        unit: unit of time: `s` makes frequencies Hz, `year` cycles a year. With dates it may be `s`, `minute`, `hour`,
            `day`, `week`, `month` or `year`, in which a step has its length; in another unit a step is 1 by default.
        name: its name in figures; by default that of a pandas series.
        frequencies: frequencies of its components, in cycles a `unit`; none for real series.
        parameters: what it was made with.
        index: the date of each step, or its period, duration or number; by default the index of a pandas series. None
            where there is none.

    Raises:
        InvalidInput: no values, or more than one axis; infinite or only missing values; a spacing or frequencies that
            are not positive; an index of another length, not in order or not evenly spaced, beside values with another
            index of their own, or with steps of another length than `spacing`.
    """

    KIND = "time-series"
    VERSION = 2

    values: Floats
    spacing: float = _DEFAULT
    unit: str = _DEFAULT
    name: str = _DEFAULT
    frequencies: tuple[float, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    index: pd.Index | None = None

    def __post_init__(self) -> None:
        series = read_series(self.values)
        if len(series.values) != 1:
            raise InvalidInput(f"one series [step] is needed; found {len(series.values)}. Take one of them.")
        object.__setattr__(self, "values", frozen(series.values[0]))
        index = chosen_index(series.indexes[0], self.index)
        if index is not None and len(index) != len(self.values):
            raise InvalidInput(f"index holds {len(index)} entries for {len(self.values)} values: give one each.")
        if index is not None:
            check_index(index)
        object.__setattr__(self, "index", index)
        spacing, unit = self.spacing, self.unit
        if index is not None:
            spacing, unit = fitting_unit(index, None if spacing is _DEFAULT else positive("spacing", spacing), unit)
        object.__setattr__(self, "spacing", positive("spacing", 1.0 if spacing is _DEFAULT else spacing))
        object.__setattr__(self, "unit", "step" if unit is _DEFAULT else unit)
        name = series.names[0] or "series" if self.name is _DEFAULT else self.name
        object.__setattr__(self, "name", name)
        tones = np.atleast_1d(np.asarray(self.frequencies, dtype=object)).tolist()
        object.__setattr__(self, "frequencies", tuple(positive("frequencies", f) for f in tones))
        parameters = {str(name): plain(str(name), value) for name, value in self.parameters.items()}
        object.__setattr__(self, "parameters", json.loads(json.dumps(parameters)))

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype)

    def __repr__(self) -> str:
        dates = "" if self.index is None else f", {entry_text(self.index[0])} to {entry_text(self.index[-1])}"
        length = f"1/{parts:g}" if (parts := round(1 / self.spacing, 4)) > 1 else f"{self.spacing:g}"
        return f"TimeSeries({self.name!r}, {len(self)} steps of {length} {self.unit}{dates})"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per step: `time` (the date where it is known, otherwise in `unit` from 0), `value`."""
        return Frame({"time": self.times if self.index is None else self.index, "value": self.values})

    def to_series(self) -> pd.Series:
        """Return a pandas series with its name and its index: dates where they are known, otherwise times in `unit`."""
        index = self.index
        if index is None and self.unit != "step":
            index = pd.Index(self.times, name=self.unit)
        return pd.Series(self.values, index=index, name=self.name)

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
        """Return its first steps."""
        return self._part(slice(None, whole("steps", steps, 1)))

    def last(self, steps: int) -> Self:
        """Return its last steps, as for a model with a shorter context."""
        return self._part(slice(-whole("steps", steps, 1), None))

    def _part(self, steps: slice) -> Self:
        return replace(self, values=self.values[steps], index=None if self.index is None else self.index[steps])

    def shuffled(self, seed: int = 0) -> Self:
        """Return the same values in random order, so that no period is left."""
        values = np.random.default_rng(whole("seed", seed, 0)).permutation(self.values)
        return replace(self, values=values, name=f"{self.name}, shuffled", frequencies=())

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        """Read files of version 1 too, which hold no dates, or the first and the last one as parameters."""
        return super()._of_contents(values if "index" in values else values | {"index": _months_of_before(values)})


def _months_of_before(values: dict[str, Any]) -> pd.Index | None:
    """Return the months or years of a bundled series in a file of version 1; None where they do not fit its steps."""
    parameters, months = values["parameters"], round(12 * values["spacing"])
    if values["unit"] != "year" or not {"first", "last"} <= set(parameters) or months < 1:
        return None
    index = pd.date_range(str(parameters["first"]), periods=len(values["values"]), freq=f"{months}MS")
    return index if bool((index[-1:] == pd.Timestamp(str(parameters["last"]))).all()) else None


def positive(name: str, value: Any) -> float:
    """Return a finite number over zero.

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


def shuffled_context(rng: np.random.Generator, values: Floats, context: int) -> Floats:
    """Return series `[series, step]` whose first `context` steps are in random order, so that they have no period."""
    mixed = values.copy()
    mixed[:, :context] = rng.permuted(values[:, :context], axis=1)
    return mixed


@dataclass(frozen=True, eq=False, kw_only=True)
class SeriesBatch(Batch):
    """A batch of one series that knows which token is which time step.

    `encoder_steps` and `decoder_steps` are the series' step at each token position, -1 at special tokens (a decoder
    alone has none); `scale` is what the tokenizer divided the values by.
    """

    series: TimeSeries
    encoder_steps: Int[Tensor, " pos"]
    decoder_steps: Int[Tensor, " dec_pos"]
    scale: float

    def times(self, stack: Stack) -> pd.Index | None:
        """Return the time of each token of a stack: dates where they are known, otherwise times in the series' unit.

        Returns:
            One entry a token, missing at special tokens; None if the series has neither dates nor a unit of time, or if
            the batch has other tokens than it was made with.
        """
        index = own_index(self.series.to_series().index)
        steps = self.encoder_steps if stack == "encoder" else self.decoder_steps
        if index is None or len(steps) != self.ids(stack).shape[1]:
            return None
        return pd.Index(index.to_series(index=range(len(index))).reindex(steps.tolist()), name=index.name)


def as_time_series(series: Any) -> TimeSeries:
    """Give a series a time axis, with its own name and dates, or in steps, if it has none.

    Raises:
        InvalidInput: what is no series, or several.
    """
    if isinstance(series, TimeSeries):
        return series
    return TimeSeries(series)


ScaleBy = Literal["context", "all"]
"""By what a series is scaled: its context alone, as in forecasts, or all of it."""


@checked
def series_batch(model: Model, series: Any, *, num_decoder: int = 0, scale_by: ScaleBy = "context") -> SeriesBatch:
    """Tokenize a series with the pipeline's own tokenizer, keeping which token is which time step.

    Args:
        series: a `TimeSeries`, or any one series (`interp.inputs.user_series.Series`).
        num_decoder: how many of the last values go to the decoder, after the start token. In a decoder alone
            they follow the context in one row.
        scale_by: `context` divides all values by the mean absolute value of the context, as a forecast does. `all`
            divides by that of the whole series, as the published notebook does: the context's tokens then depend on
            the values that go to the decoder. Without these the two are the same.

    Returns:
        The batch of one row; an encoder's tokens end with EOS where the tokenizer puts one.

    Raises:
        InvalidInput: a series that is constant or has missing values, a context longer than the
            model's, nothing left for the context, or another `scale_by`.
        UnsupportedModel: a model without a tokenizer for series.
    """
    timed, num_decoder = as_time_series(series), whole("num_decoder", num_decoder, 0)
    model.require("tokens")
    if scale_by not in get_args(ScaleBy):
        raise InvalidInput(f"scale_by={scale_by!r}: choose 'context' or 'all'.")
    check_series(model, timed.values[None], num_decoder, scale_by)
    batch = Batch.from_series(model, timed, num_decoder=num_decoder)
    n = len(timed) - num_decoder
    context, rest, special = torch.arange(n), torch.arange(n, len(timed)), torch.tensor([-1])
    encoder_steps = torch.cat([context, special])[: batch.input_ids.shape[1]]  # with EOS, or none, or no encoder
    decoder_steps = torch.cat([special if batch.has_encoder else context, rest])
    tokens, scale = _tokens(model, timed.values[None], num_decoder, scale_by)
    return SeriesBatch(
        input_ids=torch.where(encoder_steps < 0, batch.input_ids, tokens[:, encoder_steps]),
        attention_mask=batch.attention_mask,
        decoder_input_ids=torch.where(decoder_steps < 0, batch.decoder_input_ids, tokens[:, decoder_steps]),
        vocabulary=batch.vocabulary,
        series=timed,
        encoder_steps=encoder_steps,
        decoder_steps=decoder_steps,
        scale=float(scale),
    )


def _tokens(model: Model, values: Floats, num_decoder: int, scale_by: ScaleBy) -> tuple[Tensor, Tensor]:
    """Tokenize all values of series `[series, step]`, and return by what each series was divided."""
    tokenizer = cast(MeanScaleUniformBins, model.pipeline.tokenizer)
    steps = values.shape[1] - (num_decoder if scale_by == "context" else 0)
    scale = tokenizer._input_transform(context=as_series(values[:, :steps]))[2]
    return tokenizer._input_transform(context=as_series(values), scale=scale)[0], scale


def check_series(model: Model, values: Floats, num_decoder: int, scale_by: ScaleBy = "context") -> None:
    """Check that series `[series, step]` have a spectrum over a model's context.

    Raises:
        MissingCapability: the model reads no series, or `num_decoder` is not 0 and its decoder reads no values.
        InvalidInput: constant or missing values, a context longer than the model's, or nothing left for the context.
    """
    model.require("series")
    if num_decoder:
        model.require("tokens")
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
    if not model.reads_tokens:
        if steps < 2 * model.patching.size:
            raise InvalidInput(
                f"a series of {steps} steps is less than two patches of {model.patching.size} steps, which is what "
                f"{model.name} attends to. Take a longer one."
            )
        if bool((values == values[:, :1]).all(1).any()):
            raise InvalidInput("a constant series has no spectrum: all its values are the same.")
        return
    ids = _tokens(model, values, num_decoder, scale_by)[0][:, :steps]
    if (ids == ids[:, :1]).all(1).any():
        raise InvalidInput(
            "a constant series has no spectrum: all its values fall into one token. If its level is much larger than "
            "its variation, subtract the level."
        )
