"""The multisine report: what `python -m probes multisine` prints and writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from interp.errors import InvalidInput
from interp.output.page import check_out, file_name, write_page
from interp.output.style import heads_of, short, unique
from interp.results.files import write_text
from probes import plots
from probes.periodic.head_combs import HeadCombs
from probes.periodic.spectrum import AttentionSpectrum


def comb_table(spectra: Sequence[AttentionSpectrum], combs: Sequence[HeadCombs]) -> pd.DataFrame:
    """All heads of some models, the surest combs first: spacing, period, strength, p and q."""
    tables = [
        found.to_frame().sort_values(["q", "strength"], ascending=[True, False]).assign(model=short(spectrum.name))
        for spectrum, found in zip(spectra, combs, strict=True)
    ]
    table: Any = pd.concat(tables, ignore_index=True)
    return table[["model", "head", "spacing", "period", "strength", "p_permuted", "p_blocks", "p_shuffled", "p", "q"]]


def figures(spectra: Sequence[AttentionSpectrum], combs: Sequence[HeadCombs]) -> dict[str, go.Figure]:
    """The report's figures by name: spectra with a menu, and by model the second spectrum, combs and attention."""
    # By amplitude one would see heads with all attention on one step, whose spectra are flat.
    offered = [[head.address for head in found.heads()[:8]] or None for found in combs]
    made = {"spectra": plots.attention_spectrum(spectra, heads=offered)}
    for name, spectrum, found in zip(unique([s.name for s in spectra]), spectra, combs, strict=True):
        best = found.heads()[0].address if found.heads() else None
        made[f"second-{name}"] = plots.second_spectrum(spectrum, best)
        made[f"combs-{name}"] = plots.combs(found)
        made[f"attention-{name}"] = plots.attention_over_series(spectrum)
    return made


def write_report(out: str | Path, spectra: Sequence[AttentionSpectrum], combs: Sequence[HeadCombs]) -> list[Path]:
    """The page, the spectra as JSON and the combs as CSV; `write_images` draws the pictures.

    Args:
        out: a directory, made if it is not there, or an `.html` file for the page alone.
        spectra: one a model, of one series.
        combs: of each of them.

    Returns:
        The files written.

    Raises:
        InvalidInput: no spectra, or a place that cannot be written.
    """
    if not spectra:
        raise InvalidInput("no spectra to report: give at least one.")
    folder = check_out(out)
    alone = folder.suffix.lower() == ".html"
    table = comb_table(spectra, combs)
    series = spectra[0].series
    text = (
        f"Attention of {heads_of(s.site for s in spectra)} over {series.name} from decoder position "
        f"{spectra[0].position}, EOS left out, and the magnitudes of its FFT. The constant part is kept in the "
        "spectra and left out of the search for combs. The menu picks model and head."
    )
    words = {
        "spectra": text,
        "second": "The FFT of the one-sided magnitudes: a comb of peaks at even distances shows at one over them.",
        "combs": "Strength of the best comb: 1 if the spectrum is periodic and nothing else, 0 as by chance; its "
        "spacing stands in the cell where it is beyond chance over heads (q of at most 5 %), against the attention "
        "permuted over positions, permuted in blocks, and against the model on the shuffled context.",
        "attention": "One head of each layer over the series.",
    }
    parts: list[tuple[str, str, go.Figure | pd.DataFrame]] = [
        (name.replace("-", ": ", 1).capitalize(), words[name.partition("-")[0]], figure)
        for name, figure in figures(spectra, combs).items()
    ]
    parts.append(("Combs by head", "Surest first, then strongest.", table))
    page = write_page(folder if alone else folder / "multisine.html", "Attention spectra", parts)
    if alone:
        return [page]
    written = [page, write_text(folder / "combs.csv", table.to_csv(index=False))]
    for name, spectrum in zip(unique([s.name for s in spectra]), spectra, strict=True):
        written.append(spectrum.save(folder / f"spectrum-{file_name(name)}.json"))
    return written
