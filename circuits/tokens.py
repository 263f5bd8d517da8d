"""Circuits in token space: tokens are values, so a circuit is a map of value against value.

Rows of the embedding are divided by their root mean square, as the norm does, and stand for the streams that a
head reads. That is exact for the first self-attention layer of either stack, whose streams are the embeddings;
elsewhere it is the direct path. For cross heads the mean encoder output by token can stand for the keys.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.edges import Edge, ScoredEdge, as_edge
from circuits.matrices import HeadCircuit
from interp import Batch, Head, InvalidInput, Model, capture
from interp.factored import FactoredMatrix
from interp.inputs import positions, whole
from interp.model import as_model
from interp.names import Stack
from interp.position_bias import PositionBias
from interp.results import provenance
from interp.weights import embedding, unembedding
from probes import NARROW
from probes.patterns import token_values

Tokens = tuple[int, int] | Sequence[int] | Int[Tensor, "token"]
"""Which tokens: an inclusive range as a tuple of two, or a list, array or tensor of ids."""


@dataclass(frozen=True, eq=False, repr=False)
class TokenCircuit(FactoredMatrix):
    """A circuit of a head or an edge between tokens, `[token, token]`, never formed unless asked.

    `rows` and `columns` say what the axes are: query and key tokens of QK, whose cells are scores; attended and
    output tokens of OV, whose cells are logits (in the encoder, products with the embeddings). `scaled_values`
    are the tokens' bin centres, NaN for special tokens. `position_bias` is what the scores of a self-attention
    head get by distance beside it.
    """

    name: str
    of: Head | Edge
    rows: str
    columns: str
    tokens: Int[Tensor, "token"]
    scaled_values: Float[Tensor, "token"]
    provenance: dict[str, Any]
    position_bias: PositionBias | None = None

    def __repr__(self) -> str:
        return f"TokenCircuit({self.name} of {self.of}, {len(self.tokens)} tokens, {self.rows} x {self.columns})"

    @property
    def centred(self) -> FactoredMatrix:
        """The map less each row's mean, which a softmax does not see: its `eigenvalue_score()` is the head's.

        Source: Elhage et al. 2021; the key embeddings and the unembedding are centred, not the other side.
        """
        return self.less_row_means()


@dataclass(frozen=True, eq=False)
class TokenMeans:
    """The mean encoder output by token: `means` `[token, d_model]` over `counts` occurrences each."""

    tokens: Int[Tensor, "token"]
    means: Float[Tensor, "token d_model"]
    counts: Int[Tensor, "token"]
    provenance: dict[str, Any]


def as_tokens(model: Model, tokens: Tokens) -> Tensor:
    """The token ids that are meant, each once.

    Args:
        model: whose vocabulary it is.
        tokens: a tuple of two is an inclusive range; a list, array or tensor holds ids.

    Returns:
        Ids, `[token]`.

    Raises:
        InvalidInput: no tokens, one twice, not whole numbers, or outside the vocabulary.
    """
    ends = tuple(whole("tokens", end, 0) for end in tokens) if _is_range(tokens) else None
    ids = positions("tokens", tokens) if ends is None else ends
    if not ids or min(ids) < 0 or max(ids) >= model.d_vocab or (ends is not None and ends[0] > ends[1]):
        raise InvalidInput(
            f"tokens={tokens!r}: {model.name} has tokens 0-{model.d_vocab - 1}; give a range as (lowest, highest), "
            "both included, or a list of ids."
        )
    return torch.arange(ends[0], ends[1] + 1) if ends is not None else torch.tensor(ids)


def _is_range(tokens: Tokens) -> bool:
    return isinstance(tokens, tuple) and len(tokens) == 2


def normed(model: Model, stream: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_model"]:
    """A residual stream divided by its root mean square, as T5's norm does before its scale."""
    return stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + model.config.layer_norm_epsilon)


def _embedded(model: Model, stack: Stack, ids: Tensor, folded: bool, dtype: torch.dtype) -> Tensor:
    """Embeddings as a head with or without folded norms reads them, `[token, d_model]`."""
    rows = embedding(model, stack)[ids.to(model.device)].to(dtype)
    return normed(model, rows) if folded else rows


def _read_out(model: Model, stack: Stack, ids: Tensor, folded: bool, dtype: torch.dtype) -> Tensor:
    """What the stream that a head writes to is compared with, `[d_model, token]`."""
    if stack == "encoder":
        return embedding(model, "encoder")[ids.to(model.device)].to(dtype).T
    return unembedding(model, fold_norm=folded)[:, ids.to(model.device)].to(dtype)


def _source(head: Head) -> Stack:
    """The stack whose stream a head's keys and values are."""
    return "encoder" if head.kind == "cross" else head.stack


def token_circuit(circuit: HeadCircuit, tokens: Tokens = NARROW, *, keys: TokenMeans | None = None) -> TokenCircuit:
    """A head's QK or OV circuit from tokens to tokens, through the embedding and the unembedding.

    A decoder head's OV circuit goes to logits, through the decoder's final norm (its scale folded, its root mean
    square left out) and T5's scaling. What an encoder head writes has no path to the logits of its own; it is
    compared with the encoder's embeddings. An unfolded circuit takes embeddings as they are.

    Args:
        circuit: of `qk_circuit` or `ov_circuit`.
        tokens: an inclusive range as a pair, or a list of ids; by default the values within +-1.01.
        keys: for a cross head, what stands for the encoder's output at each token instead of its embedding.

    Returns:
        The map. A QK map is exact for layer 0 of self-attention, and the direct path elsewhere.

    Raises:
        InvalidInput: tokens outside the vocabulary; `keys` for another kind of head, or without these tokens.
        UnsupportedModel: a config that says otherwise than the model whether embeddings are tied.

    Source: Elhage et al. 2021.
    """
    if not isinstance(cast(object, circuit), HeadCircuit):
        raise InvalidInput(
            f"a circuit is needed and {type(circuit).__name__} was given: see qk_circuit and ov_circuit."
        )
    model, head = circuit.model, circuit.head
    ids = as_tokens(model, tokens)
    if keys is not None and (head.kind != "cross" or not circuit.folded):
        raise InvalidInput(f"{head}: keys= stands for the encoder's output, which cross heads with folded norms read.")
    made = token_factors(model, head, circuit.name, circuit, ids, circuit.folded, keys)
    axes = ("query", "key") if circuit.name == "QK" else ("attended", "output")
    by = "embedding" if keys is None else "means"
    source = provenance(model, name="token_circuit", folded=circuit.folded, keys=by)
    values, bias = token_values(model, ids), circuit.position_bias
    return TokenCircuit(made.A, made.B, circuit.name, head, *axes, ids, values, source, bias)


def token_factors(
    model: Model,
    head: Head,
    name: Literal["QK", "OV"],
    circuit: FactoredMatrix,
    ids: Int[Tensor, "token"],
    folded: bool,
    keys: TokenMeans | None = None,
) -> FactoredMatrix:
    """QK or OV circuits of one head, or of several of its kind, between tokens: see `token_circuit`.

    Args:
        model: the model.
        head: any of the heads.
        name: which circuit it is.
        circuit: `[..., d_model, d_model]`.
        ids: of `as_tokens`.
        folded: whether the circuit has the norms' scales folded in.
        keys: what stands for the encoder's output.

    Returns:
        `[..., token, token]`.

    Raises:
        InvalidInput: `keys` of another model, or without these tokens.
        UnsupportedModel: a config that says otherwise than the model whether embeddings are tied.
    """
    dtype = torch.promote_types(circuit.A.dtype, torch.float32)
    left, right = circuit.A.to(dtype), circuit.B.to(dtype)
    read = _embedded(model, _source(head), ids, folded, dtype) if keys is None else _means(model, keys, ids).to(right)
    if name == "QK":
        return FactoredMatrix(_embedded(model, head.stack, ids, folded, dtype) @ left, right @ read.T)
    return FactoredMatrix(read @ left, right @ _read_out(model, head.stack, ids, folded, dtype))


def token_composition(model: Model, edge: Edge | ScoredEdge | str, tokens: Tokens = NARROW) -> TokenCircuit:
    """Two heads composed, from tokens to tokens: what the wire between them carries.

    K: E W_QK2 W_OV1^T E^T, from the reader's query tokens to the tokens that the writer attends to; a
    previous-token head that feeds an induction head's keys matches, with positive eigenvalues. Q: E W_OV1 W_QK2 E^T.
    V: E W_OV1 W_OV2 W_U, from the tokens that the writer attends to, to logits.

    Args:
        model: the model.
        edge: such as `encoder.self.0.2 -> decoder.cross.1.3:k`, or one that was scored; norms are folded.
        tokens: an inclusive range as a pair, or a list of ids.

    Returns:
        The map, along the direct path; the norm's root mean square between the two heads is left out.

    Raises:
        UnknownHead: the model has no such head.
        InvalidInput: an edge that cannot exist, or tokens outside the vocabulary.

    Source: Elhage et al. 2021.
    """
    as_model(model)
    wire = as_edge(edge)
    writer, reader = (model.head(head) for head in wire.heads)
    first, second = model.weights(writer), model.weights(reader)
    ids, dtype = as_tokens(model, tokens), first.W_V.dtype
    written = _embedded(model, _source(writer), ids, True, dtype) @ first.W_V
    if wire.kind == "K":
        queries = _embedded(model, reader.stack, ids, True, dtype) @ second.W_Q
        factors = (queries, (second.W_K.mT @ first.W_O.mT) @ written.T)
        axes = ("query", "writer's key")
    elif wire.kind == "Q":
        keys = _embedded(model, _source(reader), ids, True, dtype)
        factors = (written, first.W_O @ second.W_Q @ (keys @ second.W_K).T)
        axes = ("writer's key", "key")
    else:
        out = _read_out(model, reader.stack, ids, True, dtype)
        factors = (written, (first.W_O @ second.W_V) @ (second.W_O @ out))
        axes = ("writer's key", "output")
    source = provenance(model, name="token_composition", folded=True)
    return TokenCircuit(*factors, f"{wire.kind}-composition", wire, *axes, ids, token_values(model, ids), source)


def _means(model: Model, keys: TokenMeans, ids: Tensor) -> Tensor:
    if keys.provenance["digest"] != model.digest:
        raise InvalidInput(f"the mean encoder output is of other weights than {model.name}: take it with this model.")
    places = {int(token): place for place, token in enumerate(keys.tokens)}
    missing = [token for token in ids.tolist() if token not in places]
    if missing:
        raise InvalidInput(
            f"no mean encoder output for {len(missing)} of {len(ids)} tokens ({missing[0]} for one): take means over "
            "batches that hold them, or ask for tokens=means.tokens."
        )
    return keys.means[[places[token] for token in ids.tolist()]]


@torch.no_grad()
def encoder_output_by_token(model: Model, batches: Batch | Sequence[Batch]) -> TokenMeans:
    """The mean encoder output at each token that occurs, before the final norm's scale.

    Args:
        model: the model.
        batches: one or several, such as many seeds of `probes.random_tokens`.

    Returns:
        For each token that occurs, ascending: the mean over its occurrences of the encoder's last residual
        stream divided by its root mean square, in float64, and the number of occurrences. Padding is left out.

    Raises:
        InvalidInput: no batches, or tokens outside the vocabulary.
    """
    as_model(model)
    found = [batches] if isinstance(batches, Batch) else list(batches)
    if not found:
        raise InvalidInput("no batches to take means over: give at least one.")
    totals = torch.zeros(model.d_vocab, model.d_model, dtype=torch.float64)
    counts = torch.zeros(model.d_vocab, dtype=torch.long)
    last = f"encoder.{model.n_layers['encoder'] - 1}.resid_post"
    for batch in found:
        stream = normed(model, capture(model, batch, [last])[last].double().cpu())
        kept = batch.attention_mask.bool().cpu()
        ids = batch.input_ids.cpu()[kept]
        totals.index_add_(0, ids, stream[kept])
        counts += torch.bincount(ids, minlength=model.d_vocab)
    tokens = counts.nonzero()[:, 0]
    source = provenance(model, name="encoder_output_by_token", batches=len(found))
    return TokenMeans(tokens, totals[tokens] / counts[tokens, None], counts[tokens], source)
