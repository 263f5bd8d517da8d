"""Bars appear where something takes long, and the bars of others are left as they are."""

from typing import Any

import pytest
from transformers.utils.logging import set_tqdm_hook, tqdm

import circuits
import interp
import probes
from interp.output import progress


def test_a_bundled_model_loads_without_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    interp.load("pico-t5")
    assert capsys.readouterr().err == ""


def test_a_bar_appears_after_the_delay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0)
    interp.load("pico-t5")
    assert "Loading weights: 100%" in capsys.readouterr().err


def test_bars_of_others_are_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(interp.InterpError):
        interp.load("pico-t6")
    list(tqdm(range(3), desc="another"))
    assert "another: 100%" in capsys.readouterr().err

    def hook(factory: Any, args: Any, options: Any) -> Any:
        return factory(*args, **options)

    before = set_tqdm_hook(hook)
    try:
        interp.load("pico-t5")
        with progress.late_bars(), progress.late_bars():
            pass
        assert set_tqdm_hook(hook) is hook
    finally:
        set_tqdm_hook(before)


def test_bars_of_short_runs_do_not_appear(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = interp.load("pico-t5")
    batch = probes.repeated_random_tokens(batch_size=2)
    monkeypatch.setattr(progress, "DELAY", 3600)
    circuits.composition_scores(model)
    circuits.head_effects(model, batch)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "DELAY", 0)
    circuits.head_effects(model, batch)
    assert "ablate decoder.cross" in capsys.readouterr().err
    circuits.head_effects(model, batch, progress=False)
    assert capsys.readouterr().err == ""
