"""How induction appears while a bundled model trains."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp import zoo
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.output.style import COLORS, label, styled
from probes.induction.mosaic import THRESHOLD

CURRENT, RIGHT = COLORS["current_token"], COLORS["token_to_right"]


@dataclass(frozen=True)
class Watched:
    """What a record of training holds of one architecture, by the name of what was measured.

    An outcome has a label; a score of heads has its kind of attention, a label and a colour.

    Attributes:
        outcome: the title of the first panel.
        outcomes: what is drawn in it.
        scores: what is drawn of each head in the second panel.
        stimulus: what was measured on.
    """

    outcome: str
    outcomes: dict[str, str]
    scores: dict[str, tuple[str, str, str]]
    stimulus: str


WATCHED = {
    "t5": Watched(
        "accuracy of the continuation",
        {"accuracy": "accuracy"},
        {kind: ("decoder.cross", label(kind), COLORS[kind]) for kind in ("current_token", "token_to_right")},
        "repeated random tokens, length 10, 2 repetitions",
    ),
    "gpt2": Watched(
        "accuracy of the continuation",
        {"accuracy": "accuracy"},
        {
            "induction": ("decoder.self", label("induction"), RIGHT),
            "previous_token": ("decoder.self", label("previous_token"), CURRENT),
        },
        "repeated random tokens, length 24, 2 repetitions",
    ),
    "bolt": Watched(
        "pinball loss of the median, in deviations",
        {"pinball": "repeated", "pinball_unrepeated": "nothing repeated"},
        {
            "token_to_right": ("decoder.cross", "patch to right, from the decoder", RIGHT),
            "reg_token_to_right": ("encoder.self", "patch to right, from [REG]", "#2a9d6f"),
            "reg_current_token": ("encoder.self", "current patch, from [REG]", CURRENT),
        },
        "random patches of 3 coefficients, 5 patches, 2 repetitions and 2 more",
    ),
}
"""By the architecture that the recipe names."""


@checked
def training(model_name: str) -> go.Figure:
    """Draw the phase change: how well what repeats is continued, and every head's scores, by step.

    Of a T5, the mosaic's two scores of each cross-attention head; of a GPT-2, the induction and previous-token scores
    of each head; of a Chronos-Bolt, scores of cross heads from the decoder and of encoder heads from [REG], over all
    earlier occurrences, and the loss beside that where nothing repeats.

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
    watched = WATCHED[record["recipe"].get("architecture", "t5")]
    heads = "cross head" if {kind for kind, _, _ in watched.scores.values()} == {"decoder.cross"} else "head"
    figure = make_subplots(
        rows=2, shared_xaxes=True, row_heights=[0.4, 0.6], vertical_spacing=0.09,
        subplot_titles=[watched.outcome, f"attention by {heads}"],
    )  # fmt: skip
    for place, (name, text) in enumerate(watched.outcomes.items()):
        line = {"color": "#333" if place == 0 else "#999", "width": 2.5}
        y = [shot[name] for shot in snapshots]
        figure.add_trace(go.Scatter(x=steps, y=y, mode="lines+markers", name=text, line=line), row=1, col=1)
    for score, (kind, text, color) in watched.scores.items():
        values = np.array([shot[score] for shot in snapshots])
        for layer, head in np.ndindex(*values.shape[1:]):
            figure.add_trace(
                go.Scatter(
                    x=steps, y=values[:, layer, head], mode="lines", name=text, legendgroup=score,
                    showlegend=layer == head == 0, line={"color": color, "width": 1.2}, opacity=0.7,
                    hovertemplate=f"{kind}.{layer}.{head}, {text} %{{y:.3f}}, step %{{x}}<extra></extra>",
                ),
                row=2, col=1,
            )  # fmt: skip
    figure.add_hline(y=THRESHOLD, line_dash="dot", line_color="#888", row=2, col=1)  # type: ignore[arg-type]
    figure.add_vline(x=record["recipe"]["motif_steps"], line_dash="dot", line_color="#888")
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title="training step", row=2, col=1)
    figure.update_yaxes(range=[0, 1.03])
    if len(watched.outcomes) > 1:
        figure.update_yaxes(autorange=True, rangemode="tozero", row=1, col=1)
    return styled(
        figure,
        f"Induction appears while {model_name} trains",
        f"{watched.stimulus}; dotted: the threshold of {THRESHOLD:g}, and where series join the motifs",
        width=860,
        height=620,
        legend={"orientation": "h", "y": -0.12, "x": 0},
    )
