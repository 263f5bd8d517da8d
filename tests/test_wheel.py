"""A wheel built from the tree holds all it needs: from it alone the bundled models open."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_opens_the_bundled_models(tmp_path: Path) -> None:
    # A copy of the sources: an old build folder in the tree must not fill a gap.
    skip = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=skip)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(tree)],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("chronos_interp-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.startswith("tests/")]
        archive.extractall(tmp_path / "site")
    code = (
        "import interp, probes; assert interp.__file__.startswith({!r}), interp.__file__; "
        "model = interp.load('pico-t5'); print(probes.induction_mosaic(model, batch_size=5).counts().n_heads); "
        "probes.published('chronos-t5-small'); probes.plots.training('pico-t5'); "
        "interp.load('pico-t5-induction'); probes.plots.explorer.Explorer('').to_html(); probes.datasets.sunspots(); "
        "import torch; series = torch.sin(torch.arange(40.) / 3) + 2\n"
        "def forecast():\n"
        "    torch.manual_seed(0)\n"
        "    return model.pipeline.predict(series, prediction_length=4)\n"
        "clean, heads = forecast(), model.layers('decoder.cross')\n"
        "with interp.ablate(model, heads): ablated = forecast()\n"
        "assert torch.equal(clean, forecast()) and not torch.equal(clean, ablated)\n"
        # Ablated by hand: with W_O at zero, cross-attention writes nothing.
        "for at in heads:\n"
        "    path = model.family.point(interp.Site(at.stack, at.kind, at.layer, 'z')).path\n"
        "    torch.nn.init.zeros_(model.module.get_submodule(path).weight)\n"
        "assert torch.equal(ablated, forecast())"
    ).format(str(tmp_path / "site"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) > 0
