"""The multisine report: what `python -m probes multisine` prints and writes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from textwrap import fill
from typing import Annotated, Any

import pandas as pd

from interp import Model
from interp.errors import InvalidInput
from interp.output.command import decimals
from interp.output.report import WIDTH, Report, Section, as_text, file_name
from interp.output.style import heads_of, short, unique
from probes import plots
from probes.induction.induction_mosaic import induction_mosaic
from probes.induction.mosaic import Mosaic
from probes.induction.patch_mosaic import PatchMosaic
from probes.periodic.context_attention import attention_spectrum
from probes.periodic.head_combs import HeadCombs
from probes.periodic.spectrum import AttentionSpectrum
from probes.plots.head_lines import mosaic_of
from probes.plots.time_axis import cycles
from probes.questions.agreement import PUBLISHED
from probes.reports.own_series import own_series
from probes.stimuli.periodic_series import multisine as make_multisine
from probes.stimuli.time_series import TimeSeries, as_time_series


def multisine(
    models: Iterable[Model],
    *,
    frequencies: Annotated[Sequence[float], decimals] = PUBLISHED[0],
    amplitudes: Annotated[Sequence[float], decimals] = (),
    phases: Annotated[Sequence[float], decimals] = (0,),
    duration: float = 3.0,
    steps: int = 301,
    series: Annotated[Any, own_series] = None,
    num_decoder: int = 0,
    shuffles: int = 99,
    seed: int = 0,
) -> Report:
    """Measure attention over a multisine or a real series, its spectrum, and combs in the spectrum.

    Args:
        models: the models to set side by side.
        frequencies: Frequencies of the components in Hz, as 9,15,24.
        amplitudes: One amplitude for all components or one per component; the published ones, or 1, by default.
        phases: Phases in radians; likewise.
        duration: Length of the series in seconds.
        steps: Number of points.
        series: A series instead: a CSV file, whose dates are read too, or a bundled one: air_passengers, el_nino,
            mauna_loa_co2, sunspots. Of one that is longer than the context, the last steps are read.
        num_decoder: How many of the last values the decoder gets.
        shuffles: Runs with the context shuffled, for the chance level of combs.
        seed: Seed of the shuffles, and of the random tokens by which induction heads are told.

    Raises:
        InvalidInput: options of a multisine beside a real series, or a multisine that cannot be made.
    """
    published = tuple(frequencies) == tuple(PUBLISHED[0])
    own = None if series is None else as_time_series(series)
    if own is not None and not (
        published and not amplitudes and tuple(phases) == (0,) and (duration, steps) == (3.0, 301)
    ):
        raise InvalidInput(f"--series {own.name} is a series already: leave out the options that make a multisine.")
    heights = amplitudes or (PUBLISHED[1] if published else (1.0,))
    stimulus = own if own is not None else make_multisine(
        frequencies, heights if len(heights) > 1 else heights[0], phases if len(phases) > 1 else phases[0],
        duration=duration, steps=steps,
    )  # fmt: skip
    spectra: list[AttentionSpectrum] = []
    mosaics: list[Mosaic] = []
    for model in models:
        model.require("series")
        if num_decoder:
            model.require("tokens")
        longest = model.pipeline.model_context_length + num_decoder
        seen = stimulus if own is None else stimulus.last(min(len(stimulus), longest))
        measured = induction_mosaic(model, seed=seed)
        mosaics.append(measured["decoder"] if isinstance(measured, PatchMosaic) else measured)
        spectra.append(attention_spectrum(model, seen, num_decoder=num_decoder, shuffles=shuffles, seed=seed))
    report = spectra_report(spectra, [spectrum.comb(seed=seed) for spectrum in spectra], mosaics)
    return report if own is None else _about(report, own, spectra)


def _about(report: Report, series: TimeSeries, spectra: Sequence[AttentionSpectrum]) -> Report:
    """Say in a report which steps of a series were read."""
    read = ", ".join(dict.fromkeys(str(len(spectrum.series)) for spectrum in spectra))
    of = repr(series).removeprefix("TimeSeries(").removesuffix(")")
    seen = "" if read == str(len(series)) else f" The models read the last {read} steps, as many as fit their context."
    note = f"The series is {of}.{seen}"
    first, *others = report.sections
    first = replace(first, words=f"{first.words} {note}", brief=fill(note, WIDTH))
    return replace(report, sections=[first, *others])


def _resolution(spectra: Sequence[AttentionSpectrum]) -> str:
    """Say of models that read patches what their attention can show; nothing where there are none."""
    shown = {spectrum.name: f"at most {spectrum.nyquist:.3g}" for spectrum in spectra if spectrum.patch > 1}
    if not shown:
        return ""
    unit = cycles(spectra[0].series.unit)
    return f"Attention to patches shows frequencies of {', '.join(dict.fromkeys(shown.values()))} {unit}. "


def spectra_report(
    spectra: Sequence[AttentionSpectrum], combs: Sequence[HeadCombs], mosaics: Sequence[Mosaic] = ()
) -> Report:
    """Lay out spectra that were measured before.

    Args:
        spectra: one per model, all of one series.
        combs: the combs of each spectrum.
        mosaics: of the same models, whose induction heads are drawn on top of all others.

    Raises:
        InvalidInput: no spectra.
    """
    if not spectra:
        raise InvalidInput("no spectra to report: give at least one.")
    table = comb_table(spectra, combs)
    # By amplitude the menu would offer heads with all attention on one step, whose spectra are flat.
    offered = [[head.address for head in comb.heads()[:8]] or None for comb in combs]
    several = len(spectra) > 1
    sections = [
        Section(
            "spectra",
            "Spectra",
            f"Attention of {heads_of(s.site for s in spectra)} over {spectra[0].series.name} from decoder position "
            f"{spectra[0].position}, EOS left out, and the magnitudes of its FFT. All heads are on one scale. "
            f"Induction heads, by their scores on repeated random tokens or patches, lie on top. {_resolution(spectra)}"
            + ("The menu picks the model." if several else ""),
            figure=plots.attention_spectrum(spectra, mosaics=mosaics),
        ),
        Section(
            "head_spectra",
            "Spectra of single heads",
            "The heads of the surest combs, one at a time: the menu picks. The constant "
            "part is kept in the spectra and left out of the search for combs.",
            figure=plots.attention_spectrum(spectra, heads=offered),
        ),
    ]
    names = [file_name(name) for name in unique([s.name for s in spectra])]
    for name, spectrum, comb in zip(names, spectra, combs, strict=True):
        own = mosaic_of(spectrum, mosaics)
        sections += [
            Section(
                f"second-{name}",
                f"Second spectrum: {name}",
                "The FFT of the one-sided magnitudes: a comb of peaks at even distances shows as a peak at one over "
                "that distance. All heads on one scale, induction heads on top.",
                figure=plots.second_spectrum(spectrum, mosaic=own),
            ),
            Section(
                f"combs-{name}",
                f"Combs: {name}",
                "Strength of the best comb: 1 if the spectrum is periodic and nothing else, 0 by chance. The spacing "
                "stands in the cell where the comb is beyond chance over heads (q of at most 5 %), against the "
                "attention permuted over positions, permuted in blocks, and against the model on the shuffled context.",
                figure=plots.combs(comb),
            ),
            Section(
                f"attention-{name}",
                f"Attention: {name}",
                "All heads of each layer over the series.",
                figure=plots.attention_over_series(spectrum, mosaic=own),
            ),
        ]
    unit = spectra[0].series.unit
    brief = as_text(
        table.groupby("model", sort=False).head(8).drop(columns=["p_permuted", "p_blocks", "p_shuffled"]),
        f"combs in the spectra of {spectra[0].series.name}: spacing in {cycles(unit)}, period in {unit}",
    )
    note = "The surest combs first, then the strongest."
    sections.append(Section("combs", "Combs by head", note, table=table, brief=brief))
    results = {f"spectrum-{name}.json": spectrum for name, spectrum in zip(names, spectra, strict=True)}
    return Report("multisine", "Attention spectra", sections, results)


def comb_table(spectra: Sequence[AttentionSpectrum], combs: Sequence[HeadCombs]) -> Any:
    """List all heads of some models, the surest combs first: spacing, period, strength, p and q."""
    tables = [
        comb.to_frame().sort_values(["q", "strength"], ascending=[True, False]).assign(model=short(spectrum.name))
        for spectrum, comb in zip(spectra, combs, strict=True)
    ]
    table: Any = pd.concat(tables, ignore_index=True)
    return table[["model", "head", "spacing", "period", "strength", "p_permuted", "p_blocks", "p_shuffled", "p", "q"]]
