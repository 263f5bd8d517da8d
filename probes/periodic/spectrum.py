"""Attention over a series as a value: its spectrum, the spectrum of that, combs and coherence.

Source: "Hunting for Induction Heads in Amazon's Chronos", part 2, and its notebook.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy import signal

from interp.errors import InvalidInput
from interp.names import parse_kind
from interp.renamed import renamed_field
from interp.results.by_head import HeadScores
from interp.results.deferred import deferred, is_pending
from interp.results.frame import Frame
from interp.results.result import Floats, Result, frozen
from interp.results.statistics import q_values
from interp.validate import whole
from probes.periodic import combs as comb
from probes.periodic.head_combs import SITE, HeadCombs
from probes.stimuli.time_series import TimeSeries


@dataclass(frozen=True, eq=False, repr=False)
class AttentionSpectrum(Result):
    """Attention to a series, over time and frequency, of each head that reads the past, from one decoder position.

    Attributes:
        series: the series that the model read, with its time axis.
        attention: `[layer, head, step]` over the context, EOS left out; of a model that reads patches `[layer, head,
            patch]`, [REG] left out.
        eos: attention to EOS, or to [REG], `[layer, head]`; None where the model has none, as without an encoder.
        position: the decoder position that looks, counted from the end of the context: 0 is the start token or, in a
            decoder alone, the context's last value, 1 the first value after the context. 0 for a query of the encoder.
        query_step: the series' step at that position; -1 for the start token.
        prediction: the value after that position, by one greedy step, in units of the series; NaN if the model predicts
            a special token.
        shuffled: score of the best comb in runs with the context shuffled, above permutations of their own attention,
            in standard deviations of these, `[draw, layer, head]`. The model runs for it when it is first read: by
            `comb`, or when the result is saved or copied.
        provenance: the model, its weights' digest, the stimulus, versions.
        site: the kind of attention: `decoder.cross`, `decoder.self` without an encoder, or `encoder.self` where an
            encoder's position looks.
        query: what looks: `decoder`, or in the encoder of a model that reads patches `reg` or `last_patch`.
        patch: how many steps one value of the attention stands for: 1, or those of a patch. The first patch may have
            fewer.
    """

    series: TimeSeries
    attention: Floats
    eos: Floats | None
    position: int
    query_step: int
    prediction: float
    shuffled: Floats = deferred()  # noqa: RUF009 (a descriptor, which no instances share)
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    site: str = SITE
    query: str = "decoder"
    patch: int = 1

    KIND = "attention-spectrum"
    VERSION = 4

    def __post_init__(self) -> None:
        parse_kind(self.site)
        for name in ("attention", "eos"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, frozen(getattr(self, name)))
        shape = self.attention.shape[:2]
        if self.attention.ndim != 3 or (self.eos is not None and self.eos.shape != shape):
            raise InvalidInput(
                f"attention must be [layer, head, step] and eos [layer, head]; found {list(self.attention.shape)} and "
                f"{None if self.eos is None else list(self.eos.shape)}."
            )
        if not 0 < self.attention.shape[-1] <= -(-len(self.series) // self.patch):
            raise InvalidInput(f"attention to {self.attention.shape[-1]} steps of a series of {len(self.series)}.")
        if is_pending(self, "shuffled"):
            return
        if self.shuffled.ndim != 3 or self.shuffled.shape[1:] != shape:
            raise InvalidInput(f"shuffled must be [draw, layer, head]; found {list(self.shuffled.shape)}.")

    def __getstate__(self) -> dict[str, Any]:
        # A copy or a pickle holds numbers, not a model to draw them from.
        return vars(self) | {"shuffled": self.shuffled}

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.provenance.get("model", "model"))

    @property
    def context(self) -> TimeSeries:
        """The part of the series before the decoder's values."""
        return self.series if self.patch > 1 else self.series.first(self.attention.shape[-1])

    @property
    def steps(self) -> range:
        """The series' step that each value of the attention belongs to: of a patch the middle one."""
        length = self.attention.shape[-1] * self.patch
        first = self.patch // 2 - (length - len(self.context))
        return range(first, first + length, self.patch)

    @property
    def spacing(self) -> float:
        """The time from one value of the attention to the next."""
        return self.series.spacing * self.patch

    @property
    def nyquist(self) -> float:
        """The highest frequency that the attention can show: half a cycle a step, or a patch."""
        return 0.5 / self.spacing

    @property
    def next_step(self) -> int:
        """The step that `prediction` predicts."""
        return len(self.context) if self.query_step < 0 else self.query_step + 1

    @property
    def frequencies(self) -> Floats:
        """Frequencies of the spectra's bins, 0 first, in cycles a unit of time: `[bin]`."""
        return frozen(np.fft.rfftfreq(self.attention.shape[-1], self.spacing))

    @property
    def series_frequencies(self) -> Floats:
        """Those of the series' own spectrum, which go further where attention is to patches: `[bin]`."""
        return frozen(np.fft.rfftfreq(len(self.context), self.series.spacing))

    @cached_property
    def spectrum(self) -> Floats:
        """Magnitudes of the one-sided FFT of the attention, the constant part at 0: `[layer, head, bin]`."""
        return frozen(np.abs(np.fft.rfft(self.attention, axis=-1)))

    @cached_property
    def series_spectrum(self) -> Floats:
        """Magnitudes of the FFT of the context's values, at `series_frequencies`: `[bin]`."""
        return frozen(np.abs(np.fft.rfft(self.context.values)))

    @property
    def periods(self) -> Floats:
        """Periods of the second spectra's bins, 0 first, in units of time: `[bin]`."""
        return frozen(np.fft.rfftfreq(self.spectrum.shape[-1], 1 / (self.attention.shape[-1] * self.spacing)))

    @property
    def series_periods(self) -> Floats:
        """Those of the series' own second spectrum: `[bin]`."""
        return frozen(np.fft.rfftfreq(len(self.series_spectrum), 1 / self.context.duration))

    @cached_property
    def second_spectrum(self) -> Floats:
        """Magnitudes of the FFT of the one-sided magnitudes, `[layer, head, bin]`: peaks at a comb's 1 / spacing."""
        return frozen(np.abs(np.fft.rfft(self.spectrum, axis=-1)))

    second = renamed_field("second", "second_spectrum")

    @cached_property
    def second_series(self) -> Floats:
        """The second spectrum of the context's values, at `series_periods`: `[bin]`."""
        return frozen(np.abs(np.fft.rfft(self.series_spectrum)))

    @property
    def amplitude(self) -> HeadScores:
        """The highest magnitude of each head's spectrum, the constant part left out."""
        return HeadScores(
            "amplitude", self.site, self.spectrum[..., 1:].max(-1), unit="magnitude", provenance=self.provenance
        )

    def comb(self, *, permutations: int = 499, seed: int = 0) -> HeadCombs:
        """Find the comb in each head's spectrum: the spacing of its peaks, its strength, and p.

        Args:
            permutations: number of permutations of the attention over its positions, for the first null, and of its
                blocks of 10 to 20 steps, for the second.

        Returns:
            Spacing, strength, p against all nulls, and q over heads, `[layer, head]`. The smallest p is
            1 / (1 + permutations), or 1 / (1 + shuffles) where the context was shuffled: 0.002 and 0.01 by default. So
            if one head of H has a comb, its q is at least H times that. Attention in bumps is not exchangeable over
            positions: it looks periodic to permutations in two of three cases, to blocks in one of twenty
            (`docs/error_rates.md`). Phase shuffling and circular shifts do not change the spectrum and are no null.

        Raises:
            InvalidInput: no permutations, or a context too short for a comb.
        """
        among = comb.candidates(self.attention.shape[-1])
        best = comb.best_comb(comb.lag_energy(self.attention), among)
        draws = whole("permutations", permutations, 1)
        null = comb.permutation_null(self.attention, among, draws, whole("seed", seed, 0))
        permuted = comb.p_values(best.score, null)
        blocks = comb.p_values(best.score, comb.block_null(self.attention, among, draws, seed))
        shuffled = np.full_like(permuted, np.nan)
        if len(self.shuffled):
            shuffled = comb.p_values(comb.over_null(best.score, null), self.shuffled)
        p = np.fmax(np.maximum(permuted, blocks), shuffled)
        return HeadCombs(
            spacing=frozen(1 / (best.period * self.spacing)),
            strength=frozen(best.strength),
            p_permuted=frozen(permuted),
            p_blocks=frozen(blocks),
            p_shuffled=frozen(shuffled),
            p=frozen(p),
            q=frozen(q_values(p)),
            unit=self.series.unit,
            provenance=self.provenance,
            site=self.site,
        )

    def coherence(self, *, segments: int = 5, permutations: int = 199, peaks: int = 4, seed: int = 0) -> pd.DataFrame:
        """Measure the coherence of each head's attention with the series, at each of its frequencies.

        Attention to patches is compared with the means of the patches, at frequencies that it can show.

        Args:
            segments: windows, overlapping by half, over which the cross-spectrum is averaged; one window alone has
                coherence 1 whatever the series.
            permutations: number of permutations of the attention over its positions, for p.
            peaks: how many of the series' highest spectral peaks are its frequencies, if it does not know them.

        Returns:
            One row a head and frequency: `head, frequency, bin` (the frequency that the windows resolve), `coherence`
            (0 to 1), `p`, and `q` over all rows.

        Raises:
            InvalidInput: fewer than two segments, a context too short for them, or a series none of whose frequencies
                the attention can show.

        Source: Welch 1967.
        """
        steps = self.attention.shape[-1]
        length = 2 * steps // (whole("segments", segments, 2) + 1)
        if length < 8:
            raise InvalidInput(f"{steps} steps in {segments} segments leave windows of {length} steps: take fewer.")
        series = self._series_as_seen()
        magnitudes = np.abs(np.fft.rfft(series))
        local, _ = signal.find_peaks(magnitudes[1:])
        highest = local[np.argsort(-magnitudes[1:][local])][: whole("peaks", peaks, 1)] + 1
        known = [frequency for frequency in self.series.frequencies if frequency <= self.nyquist]
        if self.series.frequencies and not known:
            raise InvalidInput(
                f"the frequencies of {self.series.name} are {self.series.frequencies[0]:g} and more, and attention to "
                f"patches of {self.patch} steps shows {self.nyquist:g} at most. Take a slower series."
            )
        wanted = np.array(known or sorted(self.frequencies[highest]))
        if not wanted.size:
            raise InvalidInput(f"{self.series.name} has no peak in its spectrum to take as its frequency.")

        def at(values: Floats) -> tuple[Floats, Floats]:
            bins, coherence = signal.coherence(
                series, values, fs=1 / self.spacing, nperseg=length, noverlap=length // 2
            )
            nearest = np.abs(bins[:, None] - wanted).argmin(0)
            return bins[nearest], np.nan_to_num(coherence[..., nearest])

        bins, real = at(self.attention)
        rng = np.random.default_rng(whole("seed", seed, 0))
        draws = whole("permutations", permutations, 1)
        null = np.stack([at(rng.permuted(self.attention, axis=-1))[1] for _ in range(draws)])
        p = comb.p_values(real, null)
        layers, heads = self.attention.shape[:2]
        names = [f"{self.site}.{i}.{j}" for i, j in np.ndindex(layers, heads)]
        return Frame(
            {
                "head": np.repeat(names, len(wanted)),
                "frequency": np.tile(wanted, len(names)),
                "bin": np.tile(bins, len(names)),
                "coherence": real.ravel(),
                "p": p.ravel(),
                "q": q_values(p.ravel()),
            }
        )

    def _series_as_seen(self) -> Floats:
        """Return the context at the resolution of the attention: its values, or the means of its patches."""
        added = self.attention.shape[-1] * self.patch - len(self.context)
        padded = np.pad(self.context.values, (added, 0), constant_values=np.nan)
        return np.asarray(np.nanmean(padded.reshape(-1, self.patch), axis=1))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per head: `head, amplitude, frequency` (of that amplitude), `eos, layer, index`."""
        peaks = self.spectrum[..., 1:].argmax(-1) + 1
        frame = self.amplitude.to_frame().rename(columns={"score": "amplitude"})
        eos = np.full(peaks.shape, np.nan) if self.eos is None else self.eos
        frame = frame.assign(frequency=self.frequencies[peaks].ravel(), eos=eos.ravel())
        return Frame(frame, columns=["head", "amplitude", "frequency", "eos", "layer", "index"])

    def _shown(self) -> pd.DataFrame:
        return self.to_frame().sort_values("amplitude", ascending=False)

    @classmethod
    def _of_contents(cls, values: dict[str, Any]) -> Self:
        # Files from before models read patches do not say.
        return super()._of_contents({"query": "decoder", "patch": 1, **values})

    @classmethod
    def _of_old(cls, content: dict[str, Any]) -> dict[str, Any]:
        series, attention = dict(content["series"]), frozen(content["attention"])
        series |= {"values": frozen(series["values"]), "frequencies": tuple(series["frequencies"])}
        prediction, eos = content["prediction"], content["eos"]
        return {
            "series": TimeSeries._of_contents(series),
            "attention": attention,
            "eos": None if eos is None else frozen(eos),
            "position": int(content["position"]),
            "query_step": int(content["query_step"]),
            "prediction": float("nan") if prediction is None else float(prediction),
            "shuffled": frozen(content["shuffled"]).reshape(-1, *attention.shape[:2]),
            "provenance": dict(content["provenance"]),
            # Files from before there were decoder-only models do not say.
            "site": str(content.get("site", SITE)),
        }
