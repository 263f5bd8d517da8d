"""Addresses: parse and print are inverses, and what is not an address says what is near."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp import AttentionLayer, Head, Site
from interp.names import ATTENTION_SITES, KINDS, LAYER_SITES

indices = st.integers(0, 99)
heads = st.tuples(st.sampled_from(KINDS), indices, indices).map(lambda parts: Head(*parts[0], *parts[1:]))


@given(heads)
def test_head_round_trip(head: Head) -> None:
    assert Head.parse(str(head)) == head
    assert head.title == f"L{head.layer}.H{head.head}"


@given(st.sampled_from(KINDS), st.integers(0, 99), st.sampled_from(ATTENTION_SITES))
def test_attention_site_round_trip(kind: tuple[str, str], layer: int, name: str) -> None:
    text = f"{kind[0]}.{kind[1]}.{layer}.{name}"
    assert str(Site.parse(text)) == text


@given(st.integers(0, 99), st.sampled_from(LAYER_SITES))
def test_layer_site_round_trip(layer: int, name: str) -> None:
    assert str(Site.parse(f"decoder.{layer}.{name}")) == f"decoder.{layer}.{name}"


def test_attention_layer_round_trip() -> None:
    assert str(AttentionLayer.parse("decoder.cross.3")) == "decoder.cross.3"


@given(st.text(max_size=30))
def test_any_other_text_is_a_typed_error(text: str) -> None:
    for parse, error in ((Head.parse, interp.errors.UnknownHead), (Site.parse, interp.errors.UnknownSite)):
        try:
            parsed = parse(text)
        except error:
            continue
        assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    ["decoder.cross.3", "decoder.cross.3.-1", "encoder.cross.0.0", "decoder.cross.03.1", "decoder.cross.a.1", ""],
)
def test_malformed_heads(text: str) -> None:
    with pytest.raises(interp.errors.UnknownHead, match=r"decoder\.cross\.3\.5"):
        Head.parse(text)


def test_an_error_names_the_nearest(model: interp.Model) -> None:
    with pytest.raises(interp.errors.UnknownHead, match=r"decoder layers 0-1.*Did you mean 'decoder\.cross\.1\.2'"):
        model.head("decoder.cross.9.5")
    with pytest.raises(interp.errors.UnknownSite, match=r"Did you mean 'decoder\.cross\.1\.pattern'"):
        model.sites("decoder.cross.1.patern")
    with pytest.raises(interp.errors.UnknownSite, match=r"layers 0-1"):
        model.sites("decoder.cross.5.pattern")
    with pytest.raises(interp.errors.UnknownSite, match=r"matches no site"):
        model.sites("decoder.cros.*.pattern")
    with pytest.raises(interp.errors.UnknownSite, match=r"Did you mean 'decoder\.cross'"):
        model.heads("decoder.cros")


def test_errors_are_builtins_too() -> None:
    with pytest.raises(KeyError) as caught:
        Head.parse("nonsense")
    assert not str(caught.value).startswith('"')
    assert issubclass(interp.errors.InvalidInput, ValueError)
    assert issubclass(interp.errors.UnknownModel, FileNotFoundError)


def test_an_error_names_the_nearest_in_a_decoder_alone(causal: interp.Model) -> None:
    with pytest.raises(interp.errors.UnknownHead, match=r"decoder layers 0-2.*Did you mean 'decoder\.self\.2\.1'"):
        causal.head("decoder.self.9.1")
    with pytest.raises(interp.errors.UnknownSite, match=r"Did you mean 'decoder\.self\.1\.pattern'"):
        causal.sites("decoder.self.1.patern")
    with pytest.raises(
        interp.errors.UnknownSite, match=r"decoder-only GPT-2.*Did you mean 'decoder\.self\.1\.pattern'"
    ):
        causal.sites("decoder.cross.1.pattern")
    with pytest.raises(interp.errors.UnknownSite, match=r"decoder layers 0-2.*Did you mean 'decoder\.self\.2'"):
        causal.layer("decoder.self.3")


def test_sites_by_pattern_are_in_forward_order(model: interp.Model) -> None:
    found = model.sites("decoder.cross.*.pattern", "encoder.self.0.z", "decoder.1.resid_pre")
    assert [str(s) for s in found] == [
        "encoder.self.0.z",
        "decoder.cross.0.pattern",
        "decoder.1.resid_pre",
        "decoder.cross.1.pattern",
    ]
    assert len(model.sites("encoder.*.resid_post")) == 3
    assert [str(s) for s in model.sites("*.ln_final")] == ["encoder.ln_final", "decoder.ln_final"]


def test_heads_by_kind(model: interp.Model) -> None:
    assert len(model.heads("encoder.self")) == 9
    assert len(model.heads()) == 9 + 6 + 6


def test_sites_of_a_decoder_alone(causal: interp.Model) -> None:
    names = [str(site) for site in causal.sites()]
    layer = [f"decoder.self.0.{name}" for name in ATTENTION_SITES]
    assert names[:12] == [
        "decoder.0.resid_pre",
        *layer,
        "decoder.0.resid_mid",
        "decoder.0.mlp_out",
        "decoder.0.resid_post",
    ]
    assert names[-2:] == ["decoder.ln_final", "decoder.logits"]
    assert len(names) == 3 * 12 + 2
    assert len(causal.heads()) == len(causal.heads("decoder.self")) == 9
    assert [str(at) for at in causal.layers()] == [f"decoder.self.{layer}" for layer in range(3)]
    assert causal.kind("decoder.self") == causal.family.context == ("decoder", "self")
    assert [str(s) for s in causal.sites("*.ln_final")] == ["decoder.ln_final"]


def test_every_site_has_a_module(either: interp.Model) -> None:
    """The family's tables name modules that there are, and no two points are one."""
    seen: dict[object, interp.Site] = {}
    for site in either.sites():
        point = either.family.point(site)
        assert either.module.get_submodule(point.path) is not None
        if site.name != "head_out":
            assert seen.setdefault(point, site) is site


def test_one_address_is_proposed(model: interp.Model) -> None:
    with pytest.raises(interp.errors.UnknownHead) as caught:
        model.head("decoder.cros.1.2")
    assert str(caught.value).count("Did you mean") == 1
    assert "'decoder.cross.1.2'" in str(caught.value)
