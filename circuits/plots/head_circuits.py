"""Figures of circuits: maps in the residual stream, of value against value and by position, eigenvalues, spectra."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.weights.head_circuit import HeadCircuit
from circuits.weights.position_circuit import PositionCircuit
from circuits.weights.token_circuit import TokenCircuit
from interp import Head
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import SCALE, short, styled
from interp.results.result import Floats

LARGEST = 1200
"""How many tokens a map may have on a side: more are more cells than a browser draws, or a screen shows."""

NEAR = 24
"""How far the position bias is drawn to either side."""

PALETTE = ("#1f6f8b", "#d1603d", "#5b8c5a", "#8a7fa8", "#b3912c", "#7a7a7a", "#b3312c", "#3f4e8c")


WORDS = {
    "query": "query's value",
    "key": "key's value",
    "attended": "attended value",
    "output": "output value",
    "writer's key": "value the writer attends to",
}

CLIPPED = 0.995
"""The share of cells that a token map's colours reach: a few rows of large embeddings would take them all."""


Circuits = HeadCircuit | TokenCircuit | Sequence[HeadCircuit | TokenCircuit]
"""One circuit or several, in the residual stream or between tokens."""


def _signed(values: Floats, share: float = 1.0) -> dict[str, Any]:
    """Return a colour axis on which white is zero, and the ends hold that share of the cells."""
    largest = float(np.nanquantile(np.abs(values), share)) or 1.0
    return {"colorscale": "RdBu", "cmin": -largest, "cmax": largest}


@checked
def head_circuit(circuit: HeadCircuit) -> go.Figure:
    """Draw a QK or OV circuit as a map in the residual stream, `d_model` by `d_model`.

    Args:
        circuit: result of `qk_circuit` or `ov_circuit`.

    Returns:
        The figure: rows are the query's stream (QK) or the stream read (OV).
    """
    values = circuit.full().double().cpu().numpy()
    rows, columns = ("query's stream", "key's stream") if circuit.name == "QK" else ("stream read", "stream written")
    figure = go.Figure(
        go.Heatmap(z=values, coloraxis="coloraxis", hovertemplate="%{y} → %{x}: %{z:.3g}<extra></extra>")
    )
    figure.update_xaxes(title=columns, showgrid=False, zeroline=False, constrain="domain")
    figure.update_yaxes(title=rows, autorange="reversed", showgrid=False, zeroline=False, scaleanchor="x")
    rank = f"stable rank {float(circuit.stable_rank()):.1f} of {circuit.A.shape[-1]}"
    norm = "norm folded" if circuit.folded else "norm not folded"
    return styled(
        figure,
        f"{circuit.name} circuit of {circuit.head}",
        f"{short(circuit.model.name)}, {norm}, {rank}",
        coloraxis=_signed(values),
        width=640,
        height=640,
    )


@checked
def token_circuit(circuit: TokenCircuit) -> go.Figure:
    """Draw a circuit between tokens, by their values, and the position bias beside it if there is one.

    Args:
        circuit: result of `token_circuit` or `token_composition`.

    Returns:
        The figure: each row less its mean, which a softmax does not see. Special tokens among them, and tokens that
        are no values, turn the axes to token ids.

    Raises:
        InvalidInput: more tokens than can be drawn.
    """
    if len(circuit.tokens) > LARGEST:
        raise InvalidInput(
            f"a map of {len(circuit.tokens)} tokens has too many cells to draw: give at most {LARGEST}, such as every "
            "fourth, tokens=list(range(first, last, 4))."
        )
    cells = circuit.centred.full().double().cpu().numpy()
    plain = bool(circuit.scaled_values.isnan().any())
    # Cells of a sample lie where their values are, so the values must ascend.
    order = circuit.tokens.argsort().numpy()
    cells, tokens = cells[np.ix_(order, order)], circuit.tokens.numpy()[order]
    axis = [f"token {token}" for token in tokens] if plain else circuit.scaled_values.numpy()[order]
    unit = "token" if plain else "value"
    against = "token" if bool(circuit.scaled_values.isnan().all()) else "value"
    bias = circuit.position_bias
    figure = make_subplots(
        cols=1 if bias is None else 2,
        column_widths=None if bias is None else [0.64, 0.36],
        horizontal_spacing=0.2,
        subplot_titles=None if bias is None else ["score by values, row mean taken off", "position bias"],
    )
    hover = f"{circuit.rows} %{{y:.3f}}, {circuit.columns} %{{x:.3f}}: %{{z:.3g}}<extra></extra>"
    if plain:
        hover = hover.replace(":.3f", "")
    bar = {"title": _cells(circuit), "len": 0.9} | ({} if bias is None else {"x": 0.56})
    figure.add_trace(go.Heatmap(z=cells, x=axis, y=axis, coloraxis="coloraxis", hovertemplate=hover), row=1, col=1)
    across, down = (WORDS[name].replace("value", unit) for name in (circuit.columns, circuit.rows))
    figure.update_xaxes(title=across, showgrid=False, zeroline=False, row=1, col=1)
    figure.update_yaxes(title=down, autorange="reversed", showgrid=False, zeroline=False, row=1, col=1)
    if bias is not None:
        near = np.abs(bias.distances) <= NEAR
        figure.add_trace(
            go.Bar(
                x=bias.distances[near],
                y=bias.values[0, near],
                marker_color="#5b5b5b",
                showlegend=False,
                hovertemplate="distance %{x}: %{y:.2f}<extra></extra>",
            ),
            row=1,
            col=2,
        )
        figure.update_xaxes(title="key's position minus query's", row=1, col=2)
        figure.update_yaxes(title="added to the score", row=1, col=2)
    score = float(circuit.centred.eigenvalue_score())
    about = circuit.provenance["stimulus"]
    folded = "norm folded" if about["folded"] else "norm not folded"
    keys = ", keys: mean encoder output" if about.get("keys") == "means" else ""
    return styled(
        figure,
        f"{circuit.name} of {circuit.of}, {against} against {against}",
        f"{short(circuit.provenance['model'])}, {folded}{keys}; eigenvalue score {score:+.2f}",
        coloraxis=_signed(cells, CLIPPED) | {"colorbar": bar},
        width=680 if bias is None else 1040,
        height=620,
    )


@checked
def position_circuit(circuit: PositionCircuit) -> go.Figure:
    """Draw the attention by position alone: queries down, keys across, keys ahead left blank.

    Args:
        circuit: result of `position_circuit`.

    Returns:
        The figure; a previous-token head has a line one beside the diagonal, and the mean along it is told.

    Raises:
        InvalidInput: more positions than can be drawn.
    """
    if len(circuit.positions) > LARGEST:
        raise InvalidInput(
            f"a map of {len(circuit.positions)} positions has too many cells to draw: give at most {LARGEST}, such as "
            "position_circuit(circuit, range(64))."
        )
    order = circuit.positions.argsort()
    places = circuit.positions[order].numpy()
    cells = circuit.pattern()[order][:, order].double().cpu().numpy()
    figure = go.Figure(
        go.Heatmap(
            z=np.where(places[:, None] < places, np.nan, cells),
            x=places,
            y=places,
            coloraxis="coloraxis",
            hovertemplate="query %{y} → key %{x}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="key's position", showgrid=False, zeroline=False, constrain="domain")
    figure.update_yaxes(title="query's position", autorange="reversed", showgrid=False, zeroline=False, scaleanchor="x")
    norm = "norm folded" if circuit.provenance["stimulus"]["folded"] else "norm not folded"
    return styled(
        figure,
        f"QK of {circuit.of}, position against position",
        f"{short(circuit.provenance['model'])}, {norm}; attention to the position before: {circuit.previous_token:.2f}",
        coloraxis={"colorscale": SCALE, "cmin": 0, "colorbar": {"title": "attention", "len": 0.9}},
        width=680,
        height=620,
    )


def _cells(circuit: TokenCircuit) -> str:
    if circuit.name in ("QK", "Q-composition", "K-composition"):
        return "score"
    head = circuit.of if isinstance(circuit.of, Head) else circuit.of.heads[1]
    return "logit" if head.stack == "decoder" else "product"


def _each(circuits: Circuits) -> list[HeadCircuit | TokenCircuit]:
    listed = [circuits] if isinstance(circuits, HeadCircuit | TokenCircuit) else list(circuits)
    if not listed:
        raise InvalidInput("no circuits to draw: give at least one.")
    return listed


def _label(circuit: HeadCircuit | TokenCircuit) -> str:
    return f"{circuit.name} {circuit.head if isinstance(circuit, HeadCircuit) else circuit.of}"


@checked
def eigenvalues(circuits: Circuits) -> go.Figure:
    """Draw the eigenvalues of circuits on the complex plane, each circuit's in units of its largest.

    Args:
        circuits: one or several; circuits in token space are centred first.

    Returns:
        The figure; a circuit whose points lie to the right copies (OV) or matches (QK), and the legend gives its
        score.

    Raises:
        InvalidInput: no circuits.
    """
    figure = go.Figure()
    for index, one in enumerate(_each(circuits)):
        square = one.centred if isinstance(one, TokenCircuit) else one
        values = square.eigenvalues().cpu().numpy()
        scale = float(np.abs(values).max()) or 1.0
        figure.add_trace(
            go.Scatter(
                x=np.real(values) / scale,
                y=np.imag(values) / scale,
                mode="markers",
                name=f"{_label(one)} ({float(square.eigenvalue_score()):+.2f})",
                marker={"size": 8, "opacity": 0.75, "color": PALETTE[index % len(PALETTE)]},
                customdata=np.abs(values),
                hovertemplate="%{x:.3f} + %{y:.3f}i of the largest; |λ| %{customdata:.3g}<extra></extra>",
            )
        )
    figure.update_xaxes(title="real part / largest |λ|", range=[-1.12, 1.12], constrain="domain")
    figure.update_yaxes(title="imaginary part / largest |λ|", range=[-1.12, 1.12], scaleanchor="x", constrain="domain")
    figure.add_shape(type="circle", x0=-1, x1=1, y0=-1, y1=1, line={"color": "#bbb", "dash": "dot"})
    return styled(
        figure,
        "Eigenvalues",
        "in brackets Re(sum) / sum of absolute values: 1 where all are positive",
        width=860,
        height=600,
        showlegend=True,
    )


@checked
def singular_values(circuits: Circuits) -> go.Figure:
    """Draw the singular values of circuits, largest first, in units of the largest.

    Returns:
        The figure; the legend gives the stable rank.

    Raises:
        InvalidInput: no circuits.
    """
    figure = go.Figure()
    for index, one in enumerate(_each(circuits)):
        values = one.singular_values().cpu().numpy()
        figure.add_trace(
            go.Scatter(
                x=np.arange(1, len(values) + 1),
                y=values / (values.max() or 1.0),
                mode="lines+markers",
                name=f"{_label(one)} ({float(one.stable_rank()):.1f})",
                line_color=PALETTE[index % len(PALETTE)],
                customdata=values,
                hovertemplate="%{x}: %{customdata:.3g}<extra></extra>",
            )
        )
    figure.update_xaxes(title="singular value, from the largest", dtick=2)
    figure.update_yaxes(title="of the largest", range=[0, 1.04])
    return styled(figure, "Singular values", "in brackets the stable rank", width=860, height=460, showlegend=True)
