"""Any container of the same values is the same series; what hides a meaning that would be lost is refused."""

import array
import datetime
import inspect
import warnings
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import circuits
import interp
import probes
from circuits.ablation.forecast_effects import ForecastEffects
from interp import Batch
from interp.errors import InvalidInput
from interp.inputs.user_series import as_series, read_series
from tests.conftest import tiny_pipeline
from tests.tolerance import close

HEAD = {"one": ["decoder.cross.1.0"]}
VALUES = 20 + 5 * np.sin(np.arange(40) * 0.7)

DOORS: dict[str, Callable[[interp.Model, Any], Any]] = {
    "from_series": lambda model, series: Batch.from_series(model, series).input_ids,
    "TimeSeries": lambda model, series: probes.TimeSeries(series).values,
    "series_batch": lambda model, series: probes.series_batch(model, series).input_ids,
    "attention_spectrum": lambda model, series: probes.attention_spectrum(model, series, shuffles=0).attention,
    "context_attention": lambda model, series: probes.context_attention(model, series),
    "value_matching": lambda model, series: probes.value_matching(series),
    "motif": lambda model, series: probes.motif(series, 2).values,
    "forecast_effects": lambda model, series: effects(model, series).outcomes["mase"],
    "ablation_curve": lambda model, series: curve(model, series),
}
"""Every public function that takes a series, and what it makes of one."""


def effects(model: interp.Model, series: Any) -> ForecastEffects:
    return circuits.forecast_effects(
        model, series, HEAD, prediction_length=5, num_samples=2, controls=0, progress=False
    )


def curve(model: interp.Model, series: Any) -> Any:
    first, second = (probes.repeated_random_tokens(batch_size=3, seed=seed) for seed in (0, 1))
    scores = probes.induction_mosaic(model, first)
    options: dict[str, Any] = {"prediction_length": 5, "num_samples": 2, "controls": 0, "progress": False}
    found = circuits.ablation_curve(model, scores, second, counts=(2,), series=series, **options).forecasts
    assert found is not None
    return found.outcomes["mase"]


def test_the_doors_are_all_functions_that_take_a_series() -> None:
    named: set[str] = set()
    for name, thing in [*vars(probes).items(), *vars(circuits).items(), ("from_series", Batch.from_series)]:
        if inspect.isfunction(thing) or inspect.ismethod(thing):
            taken = set(inspect.signature(thing).parameters)
            if taken & {"series", "values", "pattern", "contexts", "truth"}:
                named.add(name)
    assert named | {"TimeSeries"} == set(DOORS)


@pytest.mark.parametrize("door", DOORS)
def test_every_door_reads_columns_of_any_library(model: interp.Model, door: str) -> None:
    polars = pytest.importorskip("polars")
    open_door = DOORS[door]
    expected = open_door(model, VALUES)
    dates = pd.date_range("2020-01-31", periods=40, freq="ME")
    for column in (
        pd.Series(VALUES, index=dates),
        pd.Series(VALUES, dtype="double[pyarrow]"),
        polars.Series("y", VALUES),
        polars.DataFrame({"y": VALUES})["y"],
        pa.table({"y": VALUES})["y"],
        np.ma.array(VALUES, mask=False),
        torch.tensor(VALUES, requires_grad=True),
    ):
        np.testing.assert_array_equal(np.asarray(open_door(model, column)), np.asarray(expected))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("series", "message"),
    [
        (pd.Series(VALUES, index=pd.date_range("2020", periods=40)[::-1]), "newest first"),
        (pd.Series(VALUES, index=pd.date_range("2020", periods=41).delete(9)), "evenly spaced"),
        (pd.Series(VALUES, index=pd.period_range("2020", periods=41, freq="M").delete(9)), "evenly spaced"),
        (pd.Series(VALUES, index=pd.timedelta_range("0h", periods=40, freq="h")[::-1]), "newest first"),
        (pd.Series(VALUES, index=[f"step {i}" for i in range(40)]), "it is text"),
        (pd.Series(VALUES, index=pd.MultiIndex.from_product([["north", "south"], range(20)])), "have one level"),
        (pd.Series(VALUES, index=pd.date_range("2024-01-01", periods=40, freq="bh")), "evenly spaced"),
        ([pd.Series(VALUES), pd.Series(VALUES)[::-1]], "series 1 of the list: .* newest first"),
        (pd.DataFrame({"y": VALUES}), "data frame"),
        (pa.table({"y": VALUES}), "one column: Table was found"),
        ({"ds": VALUES, "y": VALUES}, "one column: dict was found"),
        (VALUES[:, None], r"\[40, 1\] could be a column"),
    ],
)
def test_every_door_refuses_the_same(model: interp.Model, door: str, series: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        DOORS[door](model, series)


@pytest.mark.parametrize("door", ["from_series", "TimeSeries", "forecast_effects", "ablation_curve"])
def test_what_is_masked_is_missing(model: interp.Model, door: str) -> None:
    hidden = np.isin(np.arange(40), [3, 17])
    masked = np.ma.array(np.where(hidden, -9999.0, VALUES), mask=hidden)
    expected = np.asarray(DOORS[door](model, np.where(hidden, np.nan, VALUES)))
    np.testing.assert_array_equal(np.asarray(DOORS[door](model, masked)), expected)
    assert not np.array_equal(np.asarray(DOORS[door](model, masked.data)), expected)


def test_a_mask_is_kept_out_of_the_scale(pico: interp.Model) -> None:
    """One -9999 among 40 values of about 50 made the scale 299.5."""
    hidden = np.arange(40) == 20
    values = 50 + 10 * np.sin(2 * np.pi * np.arange(40) / 12)
    masked = np.ma.array(np.where(hidden, -9999.0, values), mask=hidden)
    scale = pico.pipeline.tokenizer.context_input_transform(as_series(masked))[2]
    close(scale, np.abs(values[~hidden]).mean(), terms=40)
    batch = Batch.from_series(pico, [masked, VALUES])
    assert batch.attention_mask[0, :40].tolist() == (~hidden).astype(int).tolist()


def test_newest_first_would_forecast_the_past(pico: interp.Model) -> None:
    """A rising series turned round falls: 107 next, or 52."""
    steps = np.arange(60.0)
    rising = pd.Series(50 + steps + 5 * np.sin(2 * np.pi * steps / 12), index=pd.date_range("2020", periods=60))
    with pytest.raises(InvalidInput, match=r"newest first, from 2020-02-29 to 2020-01-01. Sort it by series.sort_in"):
        Batch.from_series(pico, rising[::-1])
    turned = Batch.from_series(pico, rising[::-1].sort_index())
    assert torch.equal(turned.input_ids, Batch.from_series(pico, rising).input_ids)


class Row(NamedTuple):
    """A row of a table."""

    ds: int
    y: float


SAME: list[tuple[Any, list[float]]] = [
    ((1, 2.5), [1, 2.5]),
    (deque([1.0, 2.5]), [1, 2.5]),
    (range(3), [0, 1, 2]),
    (array.array("d", [1.0, 2.5]), [1, 2.5]),
    (memoryview(array.array("f", [1.0, 2.5])), [1, 2.5]),
    (np.array([1.0, 2.5], dtype=">f8"), [1, 2.5]),
    (np.array([2.5, 1.0], dtype=np.float32)[::-1], [1, 2.5]),
    (np.array([1.0, 2.5], dtype=np.longdouble), [1, 2.5]),
    (np.array([1, None, 3], dtype=object), [1, np.nan, 3]),
    ([True, False, True], [1, 0, 1]),
    ([1, None, 3], [1, np.nan, 3]),
    ([1.0, pd.NA, 3], [1, np.nan, 3]),
    ([1, np.ma.masked, 3], [1, np.nan, 3]),
    ([Decimal("1.5"), Fraction(1, 2), Decimal("NaN")], [1.5, 0.5, np.nan]),
    ([torch.tensor(1.0), torch.tensor(2.0, requires_grad=True)], [1, 2]),
    (np.ma.array([1, -9999, 3], mask=[0, 1, 0]), [1, np.nan, 3]),
    (np.ma.array([1, "n/a", 3], mask=[0, 1, 0], dtype=object), [1, np.nan, 3]),
    (torch.tensor([1, 2]).to(torch.uint16), [1, 2]),
    (torch.tensor([1.0, 2.5], dtype=torch.bfloat16), [1, 2.5]),
    (pd.Series([1, None, 3], dtype="Int64"), [1, np.nan, 3]),
    (pd.Series([1, None, 3], dtype="Float64"), [1, np.nan, 3]),
    (pd.Series([True, None], dtype="boolean"), [1, np.nan]),
    (pd.Series([1, None, 3], dtype="int64[pyarrow]"), [1, np.nan, 3]),
    (pd.Series([True, None], dtype="bool[pyarrow]"), [1, np.nan]),
    (pd.Series([Decimal("1.5"), None], dtype=pd.ArrowDtype(pa.decimal128(5, 2))), [1.5, np.nan]),
    (pd.Series([1, None, Decimal(3)], dtype=object), [1, np.nan, 3]),
    (pd.Series(pd.arrays.SparseArray([0, 0, 1.5])), [0, 0, 1.5]),
    (pd.array([1, None], dtype="Int64"), [1, np.nan]),
    (pd.Index([1, 5, 2]), [1, 5, 2]),
    (pa.array([1, None, 3]), [1, np.nan, 3]),
    (pa.chunked_array([[1, None], [3]]), [1, np.nan, 3]),
    (pa.array([Decimal("1.5"), None]), [1.5, np.nan]),
    (pa.array([True, None]), [1, np.nan]),
    (probes.TimeSeries([1, np.nan, 3], spacing=0.5), [1, np.nan, 3]),
]


@pytest.mark.parametrize(("series", "values"), SAME)
def test_one_series_in_any_container(series: Any, values: list[float]) -> None:
    found = read_series(series)
    np.testing.assert_array_equal(found.values, [values])
    assert found.tensor.dtype == torch.float32
    assert not found.values.flags.writeable


def test_polars_columns() -> None:
    polars = pytest.importorskip("polars")
    named = read_series(polars.Series("sales", [1, None, 3]))
    assert named.names == ("sales",)
    np.testing.assert_array_equal(named.values, [[1, np.nan, 3]])
    np.testing.assert_array_equal(read_series(polars.Series([Decimal("1.5"), None])).values, [[1.5, np.nan]])
    np.testing.assert_array_equal(read_series(polars.Series([True, None])).values, [[1, np.nan]])
    for bad, message in (
        (polars.DataFrame({"y": [1.0, 2.0]}), "one column: DataFrame"),
        (polars.LazyFrame({"y": [1.0, 2.0]}), "one column: LazyFrame"),
        ([polars.DataFrame({"y": [1.0]})], "series 0 of the list: .* one column"),
        (polars.Series([datetime.date(2020, 1, 1)]), "values of date32"),
        (polars.Series(["a"]), "values of string"),
        (polars.Series([[1, 2], [3, 4]]), "values of large_list"),
        (polars.Series([{"y": 1}]), "one column"),
    ):
        with pytest.raises(InvalidInput, match=message):
            read_series(bad)


def test_arrays_with_labels_of_xarray() -> None:
    xarray = pytest.importorskip("xarray")
    dates = pd.date_range("2020", periods=4)
    series = xarray.DataArray([1.0, 2, 3, 4], dims="time", coords={"time": dates}, name="sales")
    assert read_series(series).names == ("sales",)
    assert read_series(series).frequencies == ("D",)
    for bad in (
        series[::-1],
        series.drop_isel(time=2),
        xarray.DataArray(np.ones((2, 3))),
        series.variable,
        xarray.Dataset({"y": series}),
    ):
        with pytest.raises(InvalidInput):
            read_series(bad)


def test_masks_of_torch() -> None:
    with warnings.catch_warnings(action="ignore"):  # PyTorch calls them a prototype
        masked = torch.masked.as_masked_tensor(torch.tensor([1.0, -9999, 3]), torch.tensor([True, False, True]))
        np.testing.assert_array_equal(read_series(masked).values, [[1, np.nan, 3]])


class Column:
    """A stand-in for a column of a library with an index that is not pandas'."""

    def __init__(self, values: Any) -> None:
        self.index = np.arange(len(values))[::-1]
        self.values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.values


class MaskedQuantity(np.ndarray):
    """A stand-in for arrays with a mask of their own, as astropy's."""

    mask = np.array([False, True, False])


def test_masks_of_other_arrays() -> None:
    np.testing.assert_array_equal(read_series(np.array([1, -9999, 3]).view(MaskedQuantity)).values, [[1, np.nan, 3]])


REFUSED: list[tuple[Any, str]] = [
    (Column([1.0, 2.0]), "with labels of its own"),
    (pd.DataFrame({"y": [1.0]}), "one column: DataFrame"),
    ([pd.DataFrame({"y": [1.0]}), pd.DataFrame({"y": [2.0]})], "series 0 of the list: .* one column"),
    (pa.record_batch({"y": [1.0]}), "one column: RecordBatch"),
    (pa.table({"y": [1.0]}).to_reader(), "one column: RecordBatchReader"),
    (pa.array([{"y": 1.0}]), "one column: StructArray"),
    ({"a": [1.0, 2.0]}, "one column: dict"),
    (np.rec.fromarrays([[1, 2], [3.0, 4.0]], names="ds,y"), "one column: recarray"),
    (np.ma.zeros(3, dtype=[("y", "f4")]), "one column: MaskedArray"),
    ([{"y": 1}, {"y": 2}], "one column: dict"),
    ([Row(1, 2.0), Row(2, 3.0)], "one column: Row"),
    ("1, 2, 3", "text was found"),
    (b"123", "text was found"),
    (["1", "2"], "str was found, '1'"),
    (np.array(["1", "2"]), "values of <U1"),
    (pd.Series(["1", "2"]), "values of str|values of object|str was found"),
    (pd.date_range("2020", periods=3), "values of datetime64"),
    (pd.Series(pd.date_range("2020", periods=3)), "values of datetime64"),
    (np.arange(3).astype("m8[D]"), "values of timedelta64"),
    ([datetime.date(2020, 1, 1)], "date was found"),
    ([1.0, pd.NaT], "NaTType was found"),
    (pa.array([datetime.datetime(2020, 1, 1)]), "values of timestamp"),
    (pd.Series(pd.period_range("2020", periods=3, freq="M")), "values of period"),
    (pd.Series([1, 2], dtype="category"), "values of category"),
    (pa.array(["a"]).dictionary_encode(), "values of dictionary"),
    ([1j, 2.0], "complex was found"),
    (torch.tensor([1j]), "values of torch.complex64"),
    (pd.Series([1j]), "values of complex128"),
    ((x for x in (1.0, 2.0)), "generator was found"),
    ({1.0, 2.0}, "set was found"),
    ({"a": 1.0}.values(), "dict_values was found"),
    (None, "NoneType was found"),
    (object(), "object was found"),
    (3.0, "not empty"),
    (pd.Series([[1, 2], [3, 4]]), "list was found"),
    ([[[1.0]]], "list was found"),
    (np.ones((5, 1)), "could be a column or 5 series of one step"),
    ([[1], [2]], "could be a column"),
    (torch.ones(5, 1), "could be a column"),
    ([[1, 2], 3], "numbers beside rows"),
    ([np.ones(2), 3.0], "numbers beside rows"),
    ([np.ones((1, 2)), np.ones((1, 2))], "one-dimensional"),
    ([[], [1.0]], "ragged"),
    ([np.ones(3), []], "series 1 of the list: an empty series"),
    (pd.Series([], dtype=float), "not empty"),
    ([1e300, 1.0], "beyond float32"),
    ([10**400], "too large"),
    ([Decimal("sNaN")], "signaling NaN"),
    ([None, None], "only NaN"),
    (np.ma.array([1.0, 2.0], mask=True), "only NaN"),
    ([np.ones(2), np.ma.array([1.0, 2.0], mask=True)], r"series \[1\] hold only NaN"),
    (torch.tensor([0.0, 1.0]).to_sparse(), "tensor.to_dense"),
    (torch.ones(3, device="meta"), "meta tensor"),
    (torch.nn.Linear(1, 1), "Linear was found"),
    (pd.DataFrame({"id": [1, 1], "y": [1, 2]}).groupby("id")["y"], "SeriesGroupBy was found"),
]


@pytest.mark.parametrize(("series", "message"), REFUSED)
def test_what_is_refused_says_why(series: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read_series(series)
    assert len(str(caught.value)) <= 320


def test_series_of_different_containers_and_lengths() -> None:
    dated = pd.Series([5.0, 6.0], index=pd.date_range("2020", periods=2, freq="MS"), name="dated")
    found = read_series([np.arange(3.0), dated, [7, None, 8], torch.ones(1), np.ma.array([1, -9999], mask=[0, 1])])
    nan = np.nan
    np.testing.assert_array_equal(found.values, [[0, 1, 2], [nan, 5, 6], [7, nan, 8], [nan, nan, 1], [nan, 1, nan]])
    assert found.names == (None, "dated", None, None, None)
    assert found.indexes[1] is not None
    assert found.indexes[1].equals(dated.index)
    assert found.frequencies == (None, "MS", None, None, None)
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.arange(3.0), np.arange(1.0)]
    np.testing.assert_array_equal(read_series(ragged).values, [[0, 1, 2], [nan, nan, 0]])
    nested = torch.nested.nested_tensor([torch.arange(3.0), torch.zeros(1)])
    np.testing.assert_array_equal(read_series(nested).values, [[0, 1, 2], [nan, nan, 0]])


def test_a_reading_is_a_copy() -> None:
    for series in (np.arange(3.0), torch.arange(3.0, dtype=torch.float64), pd.Series(np.arange(3.0))):
        values = read_series(series).values
        series[0] = 99.0
        assert values[0].tolist() == [0, 1, 2]


numbers = st.floats(-1e6, 1e6, width=32) | st.none()


TINY = interp.wrap(tiny_pipeline(), name="tiny")


@settings(deadline=None)
@given(values=st.lists(numbers, min_size=1, max_size=30).filter(lambda row: any(x is not None for x in row)))
def test_any_container_gives_the_same_batch(values: list[float | None]) -> None:
    polars = pytest.importorskip("polars")
    plain = np.array([np.nan if value is None else value for value in values])
    hidden = np.isnan(plain)
    junk = np.where(hidden, -9999.0, plain)
    index = pd.period_range("1990-03", periods=len(values), freq="M")
    containers: list[Any] = [
        values,
        tuple(values),
        plain,
        plain.astype(np.float32),
        plain[None],
        torch.tensor(plain),
        np.ma.array(junk, mask=hidden),
        [np.ma.array(junk, mask=hidden)],
        pd.Series(plain, index=index),
        pd.Series(values, dtype="Float64", index=index.to_timestamp()),
        pd.Series(values, dtype="double[pyarrow]"),
        pd.Series(values, dtype=object),
        polars.Series(values, dtype=polars.Float64),
        pa.array(values, pa.float64()),
        [[*values]],
    ]
    expected = Batch.from_series(TINY, plain)
    for container in containers:
        batch = Batch.from_series(TINY, container)
        assert torch.equal(batch.input_ids, expected.input_ids), type(container)
        assert torch.equal(batch.attention_mask, expected.attention_mask), type(container)
        np.testing.assert_array_equal(probes.TimeSeries(container).values, plain)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int16, ">i4"])
def test_token_ids_of_any_integer_type(either: interp.Model, dtype: Any) -> None:
    ids, mask = np.array([[5, 6, 200], [9, 8, 201]]), np.array([[1, 1, 1], [0, 1, 1]])
    names = ("input_ids", "attention_mask") if either.has_encoder else ("decoder_input_ids", "decoder_attention_mask")
    expected = Batch(**dict(zip(names, (ids, mask), strict=True)))
    typed = ids.astype(dtype), mask.astype(dtype)
    forms = [typed, tuple(x[:, ::-1].copy()[:, ::-1] for x in typed), tuple(x.tolist() for x in typed)]
    if dtype != ">i4":
        forms.append(tuple(torch.from_numpy(x) for x in typed))
    for form in forms:
        batch = Batch(**dict(zip(names, form, strict=True)))
        for name in (*names, "decoder_input_ids"):
            assert getattr(batch, name).dtype == torch.int64
            assert torch.equal(getattr(batch, name), getattr(expected, name))
    logits = torch.randn(2, 3, 300)
    target, against = typed[0][:, 2], typed[0][:, 0]
    metric = circuits.logit_difference(target, against)
    assert torch.equal(metric(logits), circuits.logit_difference([200, 201], [5, 9])(logits))
    assert torch.equal(probes.token_values(either, typed[0]), probes.token_values(either, torch.tensor(ids)))
    circuit = circuits.ov_circuit(either, ".".join((*either.family.context, "1", "0")))
    assert circuits.token_circuit(circuit, tokens=typed[0][0]).tokens.tolist() == [5, 6, 200]
    attribution = circuits.direct_attribution(either, batch, target=target)
    np.testing.assert_array_equal(
        attribution.values, circuits.direct_attribution(either, batch, target=[200, 201]).values
    )


def test_rows_by_unsigned_index(batch: Batch) -> None:
    for dtype in (torch.uint8, torch.uint16):
        assert torch.equal(batch.rows(torch.tensor([2, 0]).to(dtype)).input_ids, batch.input_ids[[2, 0]])


def test_the_lowest_values_of_unsigned_ids(model: interp.Model) -> None:
    """Taking 3 off an unsigned 2 gave the highest value, or an error."""
    ids = torch.arange(4)
    for dtype in (torch.uint8, torch.uint16, torch.uint64):
        torch.testing.assert_close(
            probes.token_values(model, ids.to(dtype)), probes.token_values(model, ids), rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.ma.array([[5, 6]], mask=[[0, 1]]), "masked entries"),
        ([np.ma.array([5, 6], mask=[0, 1])], "masked entries"),
        (np.array([[2**63]], dtype=np.uint64), r"over 2\*\*63"),
        (torch.tensor([[-1]]), "not negative"),
        (np.array([["5"]]), "rectangle"),
        (pd.DataFrame({"a": [0.5]}), "must be integers"),
    ],
)
def test_token_ids_that_cannot_be(ids: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Batch(input_ids=ids)


def test_a_long_frame_is_read_as_the_documentation_says() -> None:
    dates = pd.date_range("2020", periods=3, freq="MS")
    frame = pd.DataFrame({"id": list("aabbab"), "ds": [*dates[:2], *dates[:2], *dates[2:], *dates[2:]], "y": range(6)})
    found = read_series([y for _, y in frame.set_index("ds").groupby("id")["y"]])
    assert found.values.tolist() == [[0, 1, 4], [2, 3, 5]]
    assert [str(index[0].date()) for index in found.indexes if index is not None] == ["2020-01-01"] * 2


def test_nothing_follows_a_missing_end_in_a_decoder_alone(model: interp.Model, causal: interp.Model) -> None:
    """transformers counts positions from 1 on after it, so that one batch would not be what is forecast."""
    series = [1.0, 2.0, 4.0, np.nan, 3.0]
    with pytest.raises(interp.errors.InvalidInput, match="ends in missing values"):
        interp.Batch.from_series(causal, series, num_decoder=1)
    assert len(interp.Batch.from_series(model, series, num_decoder=1)) == 1
    assert len(interp.Batch.from_series(causal, series[:4])) == 1
