"""Write a circuit by hand and test it: previous-token heads feed the keys of induction heads.

Run it as `python examples/circuit_by_hand.py`, or with another T5's name or directory behind it.

`pico-t5-induction` has heads in its encoder that look one token back, and cross heads that look at what follows the
earlier occurrence. The circuit is all edges between these heads, the MLPs, the embeddings and the logits. Against it
stand random circuits of its size, and the same circuit without the edges from the first heads into the keys of the
second: if the circuit works as is thought, they carry much of it.
"""

import sys

import circuits
import interp
import probes


def main(name: str = "pico-t5-induction", figure: str = "circuit_by_hand.html") -> None:
    """Build the circuit from the scores of the heads, test it on other tokens, and draw it."""
    model = interp.load(name)
    mosaic = probes.induction_mosaic(model)
    induction = {head.address for head in mosaic.heads()}
    scores = probes.head_scores(model)["encoder.self.previous_token"]
    previous = {head.address for head in scores.heads(0.3)}
    circuit = circuits.Circuit.among(model, [*previous, *induction, *model.sites("*.*.mlp_out")])
    keys = circuits.Circuit(
        edge for edge in circuit if edge.kind == "K" and edge.writer in previous and edge.reader in induction
    )
    for problem in (circuit - keys).problems(model):
        print(problem)

    pair = probes.another_sequence(probes.repeated_random_tokens(seed=2, batch_size=10, unique=True))
    metric = circuits.logit_difference(pair.target, pair.against)
    report = circuits.evaluate(model, circuit, *pair, metric, controls=5, parts=0, progress=False)
    without = circuits.evaluate(model, circuit - keys, *pair, metric, controls=0, parts=0, progress=False)
    print(report.summary()[["what", "value", "low", "high"]].round(2).to_string(index=False))
    print(f"{len(circuit)} edges: faithfulness {report.faithfulness:.2f}")
    print(f"without {len(keys)} edges into keys: {without.faithfulness:.2f}")
    circuits.plots.circuit(circuit, report, model=model, mosaic=mosaic).write_html(figure)
    print("written:", figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
