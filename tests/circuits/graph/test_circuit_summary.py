"""A circuit's heads in a table, held to what the circuit was built of; and given to whatever takes heads."""

from typing import Any

import pandas as pd
import pytest

import circuits
import interp
import probes
from probes.stimuli.repeated_tokens import RepeatedTokens


@pytest.fixture(scope="module")
def plant() -> interp.zoo.Planted:
    return interp.zoo.planted(copies=2)


@pytest.fixture(scope="module")
def circuit(plant: interp.zoo.Planted) -> circuits.Circuit:
    return circuits.Circuit(plant.circuit, plant.model.digest)


@pytest.fixture(scope="module")
def tokens() -> RepeatedTokens:
    return probes.repeated_random_tokens(seed=3, batch_size=4)


def test_a_row_a_head_with_its_place_in_the_circuit(plant: interp.zoo.Planted, circuit: circuits.Circuit) -> None:
    frame = circuits.circuit_summary(plant.model, circuit)
    heads = ["encoder.self.0.1", "encoder.self.1.0", "decoder.cross.1.0", "decoder.cross.1.2"]
    assert list(frame["head"]) == heads
    assert list(frame["edges_in"]) == [1, 1, 3, 3]
    assert list(frame["edges_out"]) == [1, 1, 1, 1]
    rows: Any = frame.set_index("head")
    assert rows.loc["decoder.cross.1.2", "keys_from"] == "encoder.self.0.1"
    assert rows.loc["decoder.cross.1.2", "queries_from"] == "decoder.0.resid_pre"
    assert rows.loc["decoder.cross.1.2", "values_from"] == "encoder.0.resid_pre"
    assert rows.loc["decoder.cross.1.2", "writes_to"] == "decoder.logits"
    assert rows.loc["encoder.self.1.0", "writes_to"] == "decoder.cross.1.0:k"
    assert rows.loc["encoder.self.1.0", "keys_from"] == ""
    assert (rows.loc[heads[2:], "copying"] > 0.99).all(), "planted to copy"
    more = circuits.Circuit.parse(
        f"{circuit}\nencoder.0.mlp_out -> decoder.cross.1.2:k\ndecoder.cross.1.2 -> decoder.1.mlp_out"
    )
    rows = circuits.circuit_summary(plant.model, more).set_index("head")
    assert rows.loc["decoder.cross.1.2", "keys_from"] == "encoder.self.0.1, encoder.0.mlp_out"
    assert rows.loc["decoder.cross.1.2", "writes_to"] == "decoder.1.mlp_out, decoder.logits"


def test_the_other_columns_are_those_of_all_heads(
    plant: interp.zoo.Planted, circuit: circuits.Circuit, tokens: RepeatedTokens
) -> None:
    mosaic = probes.induction_mosaic(plant.model, tokens)
    kinds = ("decoder.cross", "encoder.self")
    effects = [circuits.head_effects(plant.model, tokens, kind, progress=False) for kind in kinds]
    every = circuits.head_summary(plant.model, mosaic=mosaic, scores=effects)
    frame = circuits.circuit_summary(plant.model, circuit, mosaic=mosaic, effects=effects)
    chosen = every[every["head"].isin(frame["head"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame[chosen.columns], chosen, check_exact=True)
    assert frame["effect"].notna().all()
    one = circuits.circuit_summary(plant.model, circuit, effects=effects[0])
    assert one["effect"].isna().tolist() == [True, True, False, False]
    assert one["effect"][3] == effects[0]["decoder.cross.1.2"]


def test_a_circuit_of_no_heads_has_an_empty_table(plant: interp.zoo.Planted) -> None:
    direct = circuits.Circuit.parse("decoder.0.resid_pre -> decoder.logits")
    frame = circuits.circuit_summary(plant.model, direct)
    assert len(frame) == 0
    assert {"head", "copying", "preferred_distance", "edges_in", "writes_to"} <= set(frame)


def test_bad_input_is_told(
    plant: interp.zoo.Planted, circuit: circuits.Circuit, tokens: RepeatedTokens, model: interp.Model
) -> None:
    with pytest.raises(interp.errors.InvalidInput, match="is no Circuit"):
        circuits.circuit_summary(plant.model, list(circuit))  # type: ignore[arg-type]
    with pytest.raises(interp.errors.InvalidInput, match="of other weights"):
        circuits.circuit_summary(model, circuit)
    with pytest.raises(interp.errors.UnknownHead, match=r"decoder\.cross\.1\.7"):
        circuits.circuit_summary(model, circuits.Circuit.parse("decoder.cross.1.7 -> decoder.logits"))
    other = probes.induction_mosaic(model, probes.repeated_random_tokens(seed=1, batch_size=2, sequence_length=4))
    with pytest.raises(interp.errors.InvalidInput, match="make them with this model"):
        circuits.circuit_summary(plant.model, circuit, mosaic=other)
    with pytest.raises(interp.errors.InvalidInput, match="effects= takes a list of HeadScores"):
        circuits.circuit_summary(plant.model, circuit, effects=[1.0])  # type: ignore[list-item]
    with pytest.raises(interp.errors.InvalidInput):
        circuits.circuit_summary(plant.model.module, circuit)  # type: ignore[arg-type]


def test_its_heads_are_taken_wherever_heads_are(
    plant: interp.zoo.Planted, circuit: circuits.Circuit, tokens: RepeatedTokens
) -> None:
    """Ablating the circuit's heads undoes what the model does; all others together do not."""
    model = plant.model
    pair = probes.another_sequence(probes.repeated_random_tokens(seed=4, batch_size=4, unique=True))
    metric = circuits.logit_difference(pair.target, pair.against)

    def measured(heads: Any) -> float:
        with interp.ablate(model, heads):
            return mean()

    def mean() -> float:
        return float(metric(interp.capture(model, pair.clean, ["decoder.logits"])["decoder.logits"]).mean())

    clean, ablated = mean(), measured(circuit.heads)
    others = [head for head in model.heads() if head not in circuit.heads]
    assert ablated < 0.05 * clean
    assert measured(others) > 0.95 * clean
    assert ablated == measured([str(head) for head in circuit.heads])
    upper = [head for head in circuit.heads if head.stack == "decoder"]
    repair = circuits.self_repair(model, tokens, upper, controls=1, progress=False)
    assert list(repair.heads) == upper
    # Either copy stands in for the other: giving one back brings far more than taking one away does.
    assert (repair.restored[:2].mean(1) > 10 * abs(repair.total[:2].mean(1))).all()
    with pytest.raises(interp.errors.InvalidInput, match="takes decoder heads"):
        circuits.self_repair(model, tokens, circuit.heads, progress=False)
