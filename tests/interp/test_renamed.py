"""Old public names lead to what they stand for, with a warning that names the new place."""

import importlib

import pytest

from interp.renamed import renamed

FACES = ("interp", "probes", "probes.plots", "circuits", "circuits.plots")


def test_an_old_name_warns_and_is_the_new_thing() -> None:
    find = renamed("interp", {"Old": "interp.names:Head"})
    with pytest.warns(DeprecationWarning, match=r"interp\.Old is now interp\.names\.Head; the old name goes in 0\.8"):
        thing = find("Old")
    assert thing is importlib.import_module("interp.names").Head


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        renamed("interp", {})("nothing")


@pytest.mark.parametrize("face", FACES)
def test_every_old_name_of_a_face_is_there(face: str) -> None:
    package = importlib.import_module(face)
    for name in getattr(package, "RENAMED", {}):
        assert name not in package.__all__
        with pytest.warns(DeprecationWarning, match=name):
            assert getattr(package, name) is not None
