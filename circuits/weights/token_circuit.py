"""Circuits in token space: tokens are values, so a circuit is a map of value against value.

Rows of the embedding are divided by their deviation, as the norm does, and stand for the streams that a head reads.
That is exact for the first self-attention layer of either T5 stack, whose streams are the embeddings; elsewhere it is
the direct path. Where positions are embedded too, as in GPT-2, the maps are of W_E alone: see
`circuits.position_circuit` for W_pos. For cross heads the mean encoder output by token can stand for the keys.

Biases are in the maps, so that cells are scores and logits: (e_q W_Q + b_Q) (e_k W_K + b_K)^T and (e W_V + b_V) W_O
W_U. They add one row to all rows, and to each row a number; centred, the maps so have the very eigenvalues of the
linear part. For with M = L + 1 c^T, where both L and M take 1 to 0, M v = L v but for a multiple of 1.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.edges import Edge, ScoredEdge, as_edge
from circuits.weights.embedded_patches import embedded_patches
from circuits.weights.head_circuit import HeadCircuit
from interp import Batch, Head, Model, capture
from interp.arguments import checked
from interp.errors import InvalidInput
from interp.models.model import as_model
from interp.models.weights.factored import FactoredMatrix
from interp.models.weights.head_weights import embedding, unembedding
from interp.models.weights.norms import final_norm
from interp.models.weights.position_bias import PositionBias
from interp.names import Stack
from interp.results.by_head import provenance
from interp.validate import positions, whole
from probes.attention import token_values
from probes.stimuli.repeated_tokens import token_range, tokens_for

Tokens = tuple[int, int] | Sequence[int] | Int[Tensor, "token"]
"""Which tokens: an inclusive range as a tuple of two, or a list, array or tensor of ids."""


BETWEEN_PATCHES = "A token map is between tokens: circuits.patch_circuit is between patches."
"""What there is in place of token maps where there are no tokens."""


@dataclass(frozen=True, eq=False, repr=False)
class TokenCircuit(FactoredMatrix):
    """A circuit of a head or an edge between tokens, `[token, token]`, never formed unless asked.

    `rows` and `columns` say what the axes are: query and key tokens of QK, whose cells are scores; attended and
    output tokens of OV, whose cells are logits (in the encoder, products with the embeddings). `scaled_values`
    are the tokens' bin centres, NaN for special tokens and where tokens are no values. `position_bias` is what the
    scores of a self-attention head get by distance beside it, None where they get nothing.
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

        Its eigenvalues are those of the linear part, whatever the biases.

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
    """Return the ids that a range or a list of tokens stands for, each once.

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


def tokens_or_narrow(model: Model, tokens: Tokens | None) -> Tensor:
    """Return the token ids, by default those of the values within +-1.01, of which default stimuli consist."""
    return as_tokens(model, token_range(None, tokens_for(model, None)[0]) if tokens is None else tokens)


def items_of(model: Model, tokens: Tokens | None) -> Tensor:
    """Return what circuits are held against: token ids `[token]`, or embedded random patches `[patch, d_model]`.

    Raises:
        InvalidInput: tokens that the model does not have.
        MissingCapability: tokens for a model of values.
    """
    if model.reads_tokens:
        return tokens_or_narrow(model, tokens)
    if tokens is not None:
        model.require("tokens")
    return embedded_patches(model)


def _is_range(tokens: Tokens) -> bool:
    return isinstance(tokens, tuple) and len(tokens) == 2


def normed(model: Model, stream: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_model"]:
    """Divide a residual stream by its deviation, as norms do before their scale: folded weights act on this."""
    # All norms of a model have one epsilon.
    return final_norm(model).divided(stream)


def tokens_as_values(model: Model, ids: Int[Tensor, "token"]) -> Float[Tensor, "token"]:
    """Return the tokens' bin centres; NaN for special tokens, and for all of a text model."""
    if model.tokens_are_values:
        return token_values(model, ids)
    return torch.full(ids.shape, torch.nan)


def _embedded(model: Model, stack: Stack, items: Tensor, folded: bool, dtype: torch.dtype) -> Tensor:
    """Return embeddings as a head with or without folded norms reads them, `[token, d_model]`."""
    rows = (embedding(model, stack)[items.to(model.device)] if model.reads_tokens else items).to(dtype)
    return normed(model, rows) if folded else rows


def _read_out(model: Model, stack: Stack, items: Tensor, folded: bool, dtype: torch.dtype) -> Tensor:
    """Return the directions with which the stream that a head writes to is compared, `[d_model, token]`."""
    if stack == "encoder" or not model.reads_tokens:
        return _embedded(model, "encoder", items, False, dtype).T
    return unembedding(model, fold_norm=folded)[:, items.to(model.device)].to(dtype)


def _source(head: Head) -> Stack:
    """Return the stack whose stream a head's keys and values are."""
    return "encoder" if head.kind == "cross" else head.stack


@checked
def token_circuit(
    circuit: HeadCircuit, tokens: Tokens | None = None, *, keys: TokenMeans | None = None
) -> TokenCircuit:
    """Compute a head's QK or OV circuit from tokens to tokens, through the embedding and the unembedding.

    A decoder head's OV circuit goes to logits, through the decoder's final norm (its scale folded, its deviation left
    out) and T5's scaling. What an encoder head writes has no path to the logits of its own; it is
    compared with the encoder's embeddings. An unfolded circuit takes embeddings as they are, and its cells lack the
    1/sqrt(d_head) of GPT-2's scores. Biases are in the cells; embedded positions are not.

    Args:
        circuit: of `qk_circuit` or `ov_circuit`.
        tokens: an inclusive range as a pair, or a list of ids; by default the values within +-1.01.
        keys: for a cross head, what stands for the encoder's output at each token instead of its embedding.

    Returns:
        The map. A QK map is exact for layer 0 of self-attention where no positions are embedded, and the direct path
        elsewhere.

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
    model.require("tokens", BETWEEN_PATCHES)
    ids = tokens_or_narrow(model, tokens)
    if keys is not None and (head.kind != "cross" or not circuit.folded):
        raise InvalidInput(f"{head}: keys= stands for the encoder's output, which cross heads with folded norms read.")
    factors = token_factors(model, head, circuit.name, circuit, ids, circuit.folded, keys, circuit.biases)
    axes = ("query", "key") if circuit.name == "QK" else ("attended", "output")
    by = "embedding" if keys is None else "means"
    source = provenance(model, name="token_circuit", folded=circuit.folded, keys=by)
    values, bias = tokens_as_values(model, ids), circuit.position_bias
    return TokenCircuit(factors.A, factors.B, circuit.name, head, *axes, ids, values, source, bias)


def token_factors(
    model: Model,
    head: Head,
    name: Literal["QK", "OV"],
    circuit: FactoredMatrix,
    items: Tensor,
    folded: bool,
    keys: TokenMeans | None = None,
    biases: tuple[Tensor | None, Tensor | None] = (None, None),
) -> FactoredMatrix:
    """Compute QK or OV circuits of one head, or of several of its kind, between tokens or patches: see `token_circuit`.

    Args:
        head: any of the heads.
        name: which circuit it is.
        circuit: `[..., d_model, d_model]`.
        items: of `items_of`; what heads write of patches is compared with patches in either stack.
        folded: whether the circuit has the norms' scales folded in.
        keys: what stands for the encoder's output.
        biases: as a circuit has them; without, it is the linear part, whose centred eigenvalues are the same.

    Returns:
        `[..., token, token]`.

    Raises:
        InvalidInput: `keys` of another model, or without these tokens.
        UnsupportedModel: a config that says otherwise than the model whether embeddings are tied.
    """
    dtype = torch.promote_types(circuit.A.dtype, torch.float32)
    left, right = circuit.A.to(dtype), circuit.B.to(dtype)
    source = _source(head)
    read = _embedded(model, source, items, folded, dtype) if keys is None else _means(model, keys, items).to(right)
    if name == "QK":
        queries = biased(_embedded(model, head.stack, items, folded, dtype) @ left, biases[0])
        return FactoredMatrix(queries, biased((right @ read.T).mT, biases[1]).mT)
    return FactoredMatrix(biased(read @ left, biases[0]), right @ _read_out(model, head.stack, items, folded, dtype))


def biased(rows: Float[Tensor, "*head row d_head"], bias: Tensor | None) -> Float[Tensor, "*head row d_head"]:
    """Add a bias `[..., d_head]` to rows; where it is zero they stay as they are."""
    # Adding zeros would not be nothing: it makes 0 of -0.
    return rows if bias is None or not bool(bias.any()) else rows + bias[..., None, :].to(rows)


@checked
def token_composition(model: Model, edge: Edge | ScoredEdge | str, tokens: Tokens | None = None) -> TokenCircuit:
    """Compose two heads, from tokens to tokens: what the wire between them carries.

    K: E W_QK2 W_OV1^T E^T, from the reader's query tokens to the tokens that the writer attends to; a
    previous-token head that feeds an induction head's keys matches, with positive eigenvalues. Q: E W_OV1 W_QK2 E^T.
    V: E W_OV1 W_OV2 W_U, from the tokens that the writer attends to, to logits. The biases of what reads embeddings
    are in it (b_V of the writer; b_Q or b_K of the reader on its other side), as in what the writer adds to a score.

    Args:
        edge: such as `encoder.self.0.2 -> decoder.cross.1.3:k`, or one that was scored; norms are folded.
        tokens: an inclusive range as a pair, or a list of ids; by default the values within +-1.01.

    Returns:
        The map, along the direct path; the norm's deviation between the two heads is left out.

    Raises:
        UnknownHead: the model has no such head.
        InvalidInput: an edge that cannot exist, or tokens outside the vocabulary.

    Source: Elhage et al. 2021.
    """
    as_model(model).require("tokens", BETWEEN_PATCHES)
    wire, ids = as_edge(edge), tokens_or_narrow(model, tokens)
    factors, axes = composed(model, wire, ids)
    source = provenance(model, name="token_composition", folded=True)
    name = f"{wire.kind}-composition"
    return TokenCircuit(factors.A, factors.B, name, wire, *axes, ids, tokens_as_values(model, ids), source)


def composed(model: Model, wire: Edge, items: Tensor) -> tuple[FactoredMatrix, tuple[str, str]]:
    """Compose two heads between tokens or patches, `[token, token]`: see `token_composition`.

    Args:
        wire: between heads, norms folded.
        items: of `items_of`.

    Returns:
        The map, and what its rows and columns are.

    Raises:
        UnknownHead: the model has no such head.
    """
    writer, reader = (model.head(head) for head in wire.heads)
    first, second = model.weights(writer), model.weights(reader)
    dtype = first.W_V.dtype
    written = biased(_embedded(model, _source(writer), items, True, dtype) @ first.W_V, first.b_V)
    if wire.kind == "K":
        queries = biased(_embedded(model, reader.stack, items, True, dtype) @ second.W_Q, second.b_Q)
        return FactoredMatrix(queries, (second.W_K.mT @ first.W_O.mT) @ written.T), ("query", "writer's key")
    if wire.kind == "Q":
        keys = biased(_embedded(model, _source(reader), items, True, dtype) @ second.W_K, second.b_K)
        return FactoredMatrix(written, first.W_O @ second.W_Q @ keys.T), ("writer's key", "key")
    out = _read_out(model, reader.stack, items, True, dtype)
    return FactoredMatrix(written, (first.W_O @ second.W_V) @ (second.W_O @ out)), ("writer's key", "output")


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


@checked
@torch.no_grad()
def encoder_output_by_token(model: Model, batches: Batch | Sequence[Batch]) -> TokenMeans:
    """Average the encoder output at each token that occurs, before the final norm's scale.

    Args:
        batches: one or several, such as many seeds of `probes.random_tokens`.

    Returns:
        For each token that occurs, ascending: the mean over its occurrences of the encoder's last residual
        stream divided by its root mean square, in float64, and the number of occurrences. Padding is left out.

    Raises:
        UnknownSite: a model without an encoder.
        InvalidInput: no batches, or tokens outside the vocabulary.
    """
    as_model(model).kind("encoder.self")
    model.require("tokens", BETWEEN_PATCHES)
    listed = [batches] if isinstance(batches, Batch) else list(batches)
    if not listed:
        raise InvalidInput("no batches to take means over: give at least one.")
    totals = torch.zeros(model.d_vocab, model.d_model, dtype=torch.float64)
    counts = torch.zeros(model.d_vocab, dtype=torch.long)
    last = f"encoder.{model.n_layers['encoder'] - 1}.resid_post"
    for batch in listed:
        stream = normed(model, capture(model, batch, [last])[last].double().cpu())
        shown = batch.attention_mask.bool().cpu()
        ids = batch.input_ids.cpu()[shown]
        totals.index_add_(0, ids, stream[shown])
        counts += torch.bincount(ids, minlength=model.d_vocab)
    tokens = counts.nonzero()[:, 0]
    source = provenance(model, name="encoder_output_by_token", batches=len(listed))
    return TokenMeans(tokens, totals[tokens] / counts[tokens, None], counts[tokens], source)
