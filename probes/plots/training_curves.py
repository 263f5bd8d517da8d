"""How induction appears while a bundled model trains."""

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp import zoo
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import COLORS, label, styled
from probes.induction.mosaic import THRESHOLD

WATCHED = {
    "current_token": COLORS["current_token"],
    "token_to_right": COLORS["token_to_right"],
    "induction": COLORS["token_to_right"],
    "previous_token": COLORS["current_token"],
}
"""Scores that a record can hold: the first two of a T5's cross heads, the others of a GPT-2's heads."""


@checked
def training(model_name: str) -> go.Figure:
    """Draw the phase change: accuracy on repeated random tokens and every head's scores by step.

    Of a T5, the mosaic's two scores of each cross-attention head; of a GPT-2, the induction and
    previous-token scores of each head.

    Args:
        model_name: of a bundled model, such as `pico-t5` or `pico-gpt2`.

    Returns:
        The figure, over a logarithmic axis of training steps.

    Raises:
        UnknownModel: no bundled model has this name.
        InvalidInput: the model comes without a record of its training.
    """
    file = zoo.path(model_name) / "training.json"
    if not file.exists():
        raise InvalidInput(f"{model_name} comes without a record of its training.")
    record: dict[str, Any] = json.loads(file.read_text())
    snapshots = [shot for shot in record["snapshots"] if shot["step"] > 0]
    steps = [shot["step"] for shot in snapshots]
    causal = "induction" in snapshots[0]
    heads, length = ("decoder.self", 24) if causal else ("decoder.cross", 10)
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.4, 0.6], vertical_spacing=0.09,
        subplot_titles=["accuracy of the continuation", "attention by head" if causal else "attention by cross head"],
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=steps, y=[shot["accuracy"] for shot in snapshots], mode="lines+markers", name="accuracy",
            line={"color": "#333", "width": 2.5},
        ),
        row=1, col=1,
    )  # fmt: skip
    for kind in (kind for kind in WATCHED if kind in snapshots[0]):
        values = np.array([shot[kind] for shot in snapshots])
        for layer, head in np.ndindex(*values.shape[1:]):
            figure.add_trace(
                go.Scatter(
                    x=steps, y=values[:, layer, head], mode="lines", name=label(kind), legendgroup=kind,
                    showlegend=layer == head == 0, line={"color": WATCHED[kind], "width": 1.2}, opacity=0.7,
                    hovertemplate=f"{heads}.{layer}.{head}, {label(kind)} %{{y:.3f}}, step %{{x}}<extra></extra>",
                ),
                row=2, col=1,
            )  # fmt: skip
    figure.add_hline(y=THRESHOLD, line_dash="dot", line_color="#888", row=2, col=1)  # type: ignore[arg-type]
    widened = record["recipe"]["motif_steps"]
    figure.add_vline(x=widened, line_dash="dot", line_color="#888")
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title="training step", row=2, col=1)
    figure.update_yaxes(range=[0, 1.03])
    return styled(
        figure,
        f"Induction appears while {model_name} trains",
        f"repeated random tokens, length {length}, 2 repetitions; dotted: the threshold of {THRESHOLD:g}, and where "
        "series join the motifs",
        width=860,
        height=620,
        legend={"orientation": "h", "y": -0.12, "x": 0},
    )
