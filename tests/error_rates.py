"""How often intervals miss and tests err, by simulation: the table of `docs/error_rates.md`.

    python -m tests.error_rates

writes the table anew, in about two minutes; `tests/test_error_rates.py` holds it against fewer draws of another seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.weights.composition import _Factor, _standardised, _table, _turned
from interp.results import statistics as s
from interp.results.by_head import HeadScores
from probes.induction.mosaic import Mosaic
from probes.periodic import combs as comb
from probes.questions import claims
from probes.questions.agreement import Agreement, MultisineScores

SEED = 15
PAGE = Path(__file__).parents[1] / "docs" / "error_rates.md"
BEGIN, END = "<!-- table: python -m tests.error_rates -->\n", "<!-- end of table -->"

Rng = np.random.Generator
Outcomes = NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """What is counted, `run(rng, draws)` as 0 and 1; how often it should be; and between which rates it is held."""

    name: str
    should: str
    run: Callable[[Rng, int], Outcomes]
    draws: int
    least: float = 0.0
    most: float = 1.0

    def outcomes(self, seed: int, draws: int) -> Outcomes:
        return self.run(np.random.default_rng([seed, crc32(self.name.encode())]), draws)


def normal(rng: Rng, shape: Any) -> Any:
    return rng.normal(size=shape)


def t3(rng: Rng, shape: Any) -> Any:
    return rng.standard_t(3, size=shape)


def exponential(rng: Rng, shape: Any) -> Any:
    return rng.exponential(size=shape) - 1


ROWS: dict[str, Callable[[Rng, Any], Any]] = {"normal": normal, "t3": t3, "exponential": exponential}


def holds(ends: Any, value: Any) -> Outcomes:
    return np.asarray((ends[0] <= value) & (value <= ends[1]))


def mean(kind: str, n: int, rng: Rng, draws: int) -> Outcomes:
    return holds(s.interval(ROWS[kind](rng, (draws, n))), 0)


def tables(kind: str, n: int, test: s.Test, rng: Rng, draws: int) -> Outcomes:
    p = s.p_values(ROWS[kind](rng, (draws, 24, n)), test)
    return np.array([(s.q_values(row) <= 0.05).any() for row in p])


def single(kind: str, n: int, test: s.Test, rng: Rng, draws: int) -> Outcomes:
    return s.p_values(ROWS[kind](rng, (draws, n)), test) <= 0.05


def accuracy(p: float | None, n: int, rng: Rng, draws: int) -> Outcomes:
    truth = rng.uniform(size=draws) if p is None else np.full(draws, p)
    return holds(s.proportion_interval(rng.random((draws, n)) < truth[:, None]), truth)


def change(won: float, lost: float, n: int, rng: Rng, draws: int) -> Outcomes:
    u = rng.random((draws, n))
    clean = np.where(u < won, 0, np.where(u < won + lost, 1, u < (1 + won + lost) / 2))
    hits = np.where(u < won, 1, np.where(u < won + lost, 0, clean))
    ends = [s.proportion_change_interval(one, other) for one, other in zip(hits, clean, strict=True)]
    return holds(np.array(ends).T, won - lost)


def ratio(kind: str, n: int, gap: float, rng: Rng, draws: int, *, exists: bool = False) -> Outcomes:
    found: list[bool] = []
    while len(found) < draws:
        bottom = gap + ROWS[kind](rng, n)
        ends = s.ratio_interval(0.4 * bottom + 0.3 * ROWS[kind](rng, n), bottom)
        if exists or not np.isnan(ends[0]):
            found.append(not np.isnan(ends[0]) if exists else bool(holds(ends, 0.4)))
    return np.array(found)


def inside(n: int, rng: Rng, draws: int) -> Outcomes:
    values = rng.normal(size=(n + 1, draws))
    return holds(s.band(values[1:]), values[0])


def rank(n: int, rng: Rng, draws: int) -> Outcomes:
    return np.array([s.rank_p(row[0], row[1:]) <= 0.05 for row in rng.exponential(size=(draws, n + 1))])


def correlation(which: str, rng: Rng, draws: int) -> Outcomes:
    found: list[bool] = []
    for _ in range(draws):
        one, other = (rng.normal(size=(6, 1)) + 0.5 * rng.normal(size=(6, 8)) for _ in range(2))
        found.append(s.rank_correlation(one, other, draws=79, seed=int(rng.integers(2**31)))[which] <= 0.05)
    return np.array(found)


def attention(kind: str, rng: Rng, draws: int) -> Any:
    """Attention without any period, `[draw, step]`."""
    if kind == "independent":
        return rng.dirichlet(np.full(300, 0.5), draws)
    if kind == "bumps of 5 steps":
        spikes = (rng.random((draws, 300)) < 0.03) * rng.exponential(size=(draws, 300))
        return sum(np.roll(spikes, k, axis=1) for k in range(5)) + 0.001 * rng.random((draws, 300))
    x, noise = np.zeros((draws, 300)), rng.normal(size=(draws, 300))
    x[:, 0] = noise[:, 0]
    for t in range(1, 300):
        x[:, t] = 0.9 * x[:, t - 1] + 0.19**0.5 * noise[:, t]
    return np.exp(2 * x)


def periodic(kind: str, null: Callable[..., Any], rng: Rng, draws: int) -> Outcomes:
    values, among = attention(kind, rng, draws), comb.candidates(300)
    real = comb.best_comb(comb.lag_energy(values), among).score
    return comb.p_values(real, null(values, among, 39, int(rng.integers(2**31)))) <= 0.05


def head_factor(rng: Rng, heads: int, d_head: int, d_model: int) -> _Factor:
    rows = torch.from_numpy(rng.normal(size=(1, heads, d_head, d_model)))
    triangle = torch.from_numpy(rng.normal(size=(1, heads, d_head, d_head)))  # low effective rank, as trained heads
    rows = triangle @ rows
    rows = rows / torch.linalg.matrix_norm(rows, keepdim=True)
    return _Factor(rows, d_model * (rows @ rows.mT).square().sum((-2, -1)) - 1)


def pairs_of(A: _Factor, B: _Factor) -> Any:
    return _standardised(_table(A, B, "any", 2**26), A, B, A.rows.shape[-1])


def over_three(d_head: int, d_model: int, rng: Rng, draws: int) -> Outcomes:
    A, B = (head_factor(rng, int(draws**0.5), d_head, d_model) for _ in range(2))
    return pairs_of(A, B).ravel() > 3


def wired(rng: Rng, draws: int, *, three: bool = False) -> Outcomes:
    """Of 16 by 16 random heads any with z > 3, or any over the largest of 19 random wirings."""
    found: list[bool] = []
    for _ in range(draws):
        A, B = (head_factor(rng, 16, 4, 32) for _ in range(2))
        turn = torch.Generator().manual_seed(int(rng.integers(2**31)))
        others = [3.0] if three else [pairs_of(_turned(A, turn), B).max() for _ in range(19)]
        found.append(bool(pairs_of(A, B).max() > max(others)))
    return np.array(found)


SHAPES = ((4, 8, 20e6), (6, 8, 46e6), (12, 12, 200e6), (24, 16, 710e6))
"""Layers, heads and parameters as of the published mini, small, base and large."""


def mosaic(rng: Rng, shape: tuple[int, int, float], share: float = 0.13) -> Mosaic:
    """Heads of either kind with half the share each; layers, and models, are more or less given to them."""
    layers, heads, parameters = shape
    tendency = rng.normal(0, 0.3) + rng.normal(0, 1, (2, layers, 1))
    chance = 1 / (1 + np.exp(-(np.log(share / 2 / (1 - share / 2)) + tendency)))
    scores = np.where(rng.random((2, layers, heads)) < chance, 0.5, 0.0) * rng.uniform(0.9, 1, (2, layers, heads))
    source = {"model": "m", "n_parameters": parameters, "stimulus": {}}
    sides = zip(("current_token", "token_to_right"), scores, strict=True)
    return Mosaic(
        *(HeadScores(kind, "decoder.cross", values, provenance=source) for kind, values in sides),
        n_tokens=22,
        provenance=source,
    )


def verdicts(of: Callable[[list[Mosaic], Rng], Any], shapes: Any, rng: Rng, draws: int) -> Outcomes:
    """Whether a claim that is neither true nor false is decided."""
    found: list[bool] = []
    while len(found) < draws:
        evidence = of([mosaic(rng, shape) for shape in shapes], rng)
        found += [one.verdict != "undecided" for one in evidence]
    return np.array(found[:draws])


def amplitude(models: list[Mosaic], rng: Rng) -> Any:
    shape = models[0].current_token.values.shape
    values = rng.normal(size=(shape[0], 1)) + rng.normal(size=shape)
    names = ("same_phase", "next_phase", "amplitude", "comb")
    scores = {name: HeadScores(name, "decoder.cross", values) for name in names}
    return claims._amplitude(Agreement(models[0], MultisineScores(**scores)), rng)


CLAIMS: dict[str, tuple[Callable[[list[Mosaic], Rng], Any], Any]] = {
    "the share grows or falls with size (4 models)": (lambda m, _: claims._size(m, 0.3)[1:], SHAPES),
    "more heads than a constant share (4 models)": (lambda m, _: claims._size(m, 0.3)[:1], SHAPES),
    "most heads are right (4 models)": (lambda m, _: claims._right(m, 0.3), SHAPES),
    "most heads are right (1 model)": (lambda m, _: claims._right(m, 0.3), SHAPES[3:]),
    "current heads earlier (4 models)": (lambda m, rng: claims._layers(m, 0.3, rng), SHAPES),
    "current heads earlier (1 model)": (lambda m, rng: claims._layers(m, 0.3, rng), SHAPES[3:]),
    "induction heads have higher amplitudes": (amplitude, SHAPES[2:3]),
}


def cases() -> list[Case]:
    """All rows of the table."""
    found: list[Case] = []

    def add(name: str, should: str, run: Any, draws: int, least: float = 0.0, most: float = 1.0) -> None:
        found.append(Case(name, should, run, draws, least, most))

    for kind, least in (("normal", 0.94), ("t3", 0.94), ("exponential", 0.86)):
        for n in (3, 5, 10, 30, 100):
            run = partial(mean, kind, n)
            add(f"Student's interval holds the mean: {n} {kind} rows", "0.95", run, 20000, least, 0.98)
    for test in ("t", "sign flips"):
        for kind in ROWS:
            for n in (10, 30):
                most = 0.06 if kind != "exponential" else 0.12
                add(
                    f"p <= 0.05 without an effect: {test}, {n} {kind} rows",
                    "0.05",
                    partial(single, kind, n, test),
                    5000,
                    0,
                    most,
                )
                most = 0.09 if kind != "exponential" else 0.5
                add(
                    f"some q <= 0.05 in 24 heads without effects: {test}, {n} {kind} rows",
                    "0.05", partial(tables, kind, n, test), 1000, 0, most,
                )  # fmt: skip
    for n in (10, 100):
        for p, least in ((None, 0.94), (0.5, 0.93), (0.97, 0.93)):
            what = f"accuracy {p}" if p is not None else "accuracies at large"
            add(
                f"Wilson's interval holds the accuracy: {n} rows, {what}", "0.95", partial(accuracy, p, n), 20000, least
            )
    for n in (10, 30):
        for won, lost in ((0, 0.02), (0.1, 0.1), (0.05, 0.6)):
            run = partial(change, won, lost, n)
            add(f"Bonett & Price hold the change: {n} rows, {won:g} won, {lost:g} lost", "0.95", run, 4000, 0.94)
    for kind, least in (("normal", 0.93), ("exponential", 0.86)):
        for n in (5, 30):
            run = partial(ratio, kind, n, 2.0)
            add(f"Fieller's interval, where there is one, holds the ratio: {n} {kind} rows", "0.95", run, 4000, least)
    run = partial(ratio, "normal", 10, 0.0, exists=True)
    add("F has an interval though the model does nothing: 10 normal rows", "0.05", run, 4000, 0, 0.06)
    for n, rate in ((5, 4 / 6), (20, 19 / 21), (39, 0.95), (99, 0.98)):
        what = "range" if n < 39 else "95 % band"
        should = f"{rate:.3f}" if n < 99 else "0.95 or more"
        add(
            f"the {what} of {n} random sets holds another",
            should,
            partial(inside, n),
            20000,
            rate - 0.015 if n < 99 else 0.94,
        )
    for n in (19, 20, 99):
        add(
            f"rank p <= 0.05 of one more set among {n}",
            f"{int(0.05 * (n + 1) + 2.0**-30) / (n + 1):.3f}",
            partial(rank, n),
            4000,
            0,
            0.06,
        )
    for which in ("overall_p", "within_layers_p"):
        add(
            f"score and effect unrelated but alike within layers: {which} <= 0.05",
            "0.05",
            partial(correlation, which),
            800,
            0,
            0.075,
        )
    for kind, loose in (("independent", 0.08), ("smooth (autocorrelation 0.9)", 0.25), ("bumps of 5 steps", 0.75)):
        for name, null, most in (("permuted", comb.permutation_null, loose), ("in blocks", comb.block_null, 0.1)):
            run = partial(periodic, kind, null)
            add(f"comb p <= 0.05 against attention {name}: {kind}, no period", "0.05", run, 1000, 0, most)
    for d_head, d_model in ((4, 16), (8, 64), (16, 256)):
        run = partial(over_three, d_head, d_model)
        add(f"composition z > 3 of a random pair: {d_head} of {d_model} dimensions", "0.001 (normal)", run, 40000)
    add("some z > 3 among 256 random pairs", "none", partial(wired, three=True), 400)
    add("some z over the largest of 19 random wirings", "0.05", wired, 400, 0, 0.085)
    for name, (of, shapes) in CLAIMS.items():
        add(
            f"claim decided though neither true nor false: {name}",
            "0.05 or less",
            partial(verdicts, of, shapes),
            400,
            0,
            0.09,
        )
    return found


def table() -> str:
    """The table in Markdown."""
    lines = ["| what | should be | is | draws |", "|---|---|---|---|"]
    for case in cases():
        outcomes = case.outcomes(SEED, case.draws)
        lines.append(f"| {case.name} | {case.should} | {outcomes.mean():.3f} | {len(outcomes)} |")
    return "\n".join(lines) + "\n"


def documented() -> dict[str, tuple[float, int]]:
    """Rate and draws by what is counted, as the page says."""
    text = PAGE.read_text()
    rows = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return {name: (float(rate), int(draws)) for name, _, rate, draws in cells}


if __name__ == "__main__":
    page = PAGE.read_text()
    start, stop = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(page[:start] + table() + page[stop:])
