"""Copying by behaviour: does what a head writes of a token raise that token, among others?

1. Rows of random tokens without repeats run through the model: in both stacks, or in the one there is.
2. For each token the head's value, its bias included, through W_O and the unembedding, gives what attending to it
   alone adds to the logits. The mean over the vocabulary is taken off, and what is negative is set to zero.
3. r is what the token itself is raised by, over what all tokens of the row are.

Beside it stands `head_summary`'s copying, the eigenvalue score of the weights along the direct path from the
embedding; here the values are those of the running model, after all layers below.

Source: Olsson et al. 2022, "In-context Learning and Induction Heads", appendix on head scores.
"""

import numpy as np
import torch
from torch import Tensor

from interp import Batch, Model, capture
from interp.arguments import checked
from interp.models.model import as_model
from interp.models.weights.head_weights import projection, unembedding
from interp.names import AttentionLayer, Stack
from interp.results.by_head import HeadScores, over_rows, provenance
from interp.validate import whole
from probes import random_tokens
from probes.stimuli.repeated_tokens import stacked, token_range, tokens_for, unusual_tokens

STACK: Stack = "decoder"
"""What encoder heads write has no path to the logits of its own."""


@checked
@torch.no_grad()
def copying_scores(
    model: Model,
    *,
    sequence_length: int = 25,
    batch_size: int = 20,
    vocab_range: tuple[int, int] | None = None,
    seed: int = 0,
) -> dict[str, HeadScores]:
    """Measure how much what each decoder head writes of a token raises that very token.

    Args:
        sequence_length: random tokens in a row, all different: n.
        batch_size: rows.
        vocab_range: the ids to draw from, both included; those of scaled values within +-1.01 by default.
        seed: of the tokens.

    Returns:
        HeadScores by `decoder.cross.copying_published` and so on, for self heads and cross heads where there are any:
        `copying_published` is 2 r - 1, for which chance is 2 / n - 1, and `copying_over_chance` is
        (r - 1 / n) / (1 - 1 / n), for which it is 0; 1 is the most. r is over all tokens of a row, its
        standard error over rows.

    Raises:
        InvalidInput: fewer than two tokens, or a range that does not hold as many different ones.

    Source: Olsson et al. 2022.
    """
    as_model(model).require("tokens", "Copying is scored in logits of tokens: see circuits.patch_circuit for patches.")
    n = whole("sequence_length", sequence_length, 2)
    rng = np.random.default_rng(whole("seed", seed, 0))
    vocabulary, encoder = tokens_for(model, None)
    among = token_range(vocab_range, vocabulary)
    tokens = random_tokens(rng, whole("batch_size", batch_size, 1), n, among, min_gap=1, model=model)
    stacks = stacked(tokens, tokens, vocabulary) if encoder else {"decoder_input_ids": torch.from_numpy(tokens)}
    batch = Batch(**stacks, vocabulary=vocabulary)
    model.check(batch)
    ids = torch.from_numpy(tokens).to(model.device)
    parameters = {"sequence_length": n, "batch_size": batch_size, "vocab_range": [*among], "seed": seed}
    source = provenance(model, name="copying_scores", **parameters, **unusual_tokens(vocabulary, encoder))
    scores: dict[str, HeadScores] = {}
    for site in [f"{stack}.{kind}" for stack, kind in model.family.kinds if stack == STACK]:
        ratio = torch.stack([_ratios(model, batch, ids, at) for at in model.layers(site)])
        for name, rows in (
            ("copying_published", 2 * ratio - 1),
            ("copying_over_chance", (ratio - 1 / n) / (1 - 1 / n)),
        ):
            scores[f"{site}.{name}"] = over_rows(name, site, rows, source)
    return scores


def _ratios(model: Model, batch: Batch, ids: Tensor, at: AttentionLayer) -> Tensor:
    """Compute r of each head of a layer by row, `[row, head]`."""
    # Cross heads read the tokens before EOS, self heads those after the start token, if there is one.
    first = 0 if at.kind == "cross" else batch.decoder_input_ids.shape[1] - ids.shape[1]
    # A padded vocabulary ends with rows that no token has.
    n_tokens = batch.vocabulary.n_tokens if batch.vocabulary is not None else model.d_vocab
    W_O, out = projection(model, at, "O"), unembedding(model)[:, :n_tokens]
    values = capture(model, batch, [f"{at}.v"])[f"{at}.v"][:, first : first + ids.shape[1]].to(W_O.dtype)
    written = torch.einsum("bphd,hdm->bhpm", values, W_O)
    # The final norm's deviation scales all logits alike, so that it leaves the ratio as it is.
    raised = torch.relu(written @ (out[:, ids].permute(1, 0, 2) - out.mean(1)[None, :, None])[:, None])
    return raised.diagonal(dim1=-2, dim2=-1).sum(-1) / raised.sum((-2, -1))
