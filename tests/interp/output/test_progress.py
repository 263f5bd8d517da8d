"""Bars of loading appear where loading takes long, and the bars of others are left as they are."""

from typing import Any

import pytest
from transformers.utils.logging import set_tqdm_hook, tqdm

import interp
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
