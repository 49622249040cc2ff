"""What ``make dist`` made: ``python check_dist.py CHECKOUT``, in an environment that has the wheel, and no other misoxr.

The packages that misoxr needs are those of the checkout's ``.venv``. They go behind the environment's own, so that nothing of gigabytes
is installed once more; the editable installation there stays out.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

WORK = """
import xarray as xr, numpy as np, misoxr
from importlib.resources import files
assert {environment!r} in misoxr.__file__, misoxr.__file__
assert files("misoxr").joinpath("py.typed").is_file()
assert all(getattr(misoxr, name) is not None for name in misoxr.__all__)
ds = xr.Dataset({{"red": (("time", "y", "x"), np.ones((2, 3, 3), "float32"))}}, {{"time": np.array(["2020-07-01", "2020-07-02"], "M8[ns]"),
    "y": [25.0, 15.0, 5.0], "x": [5.0, 15.0, 25.0]}}).rio.write_crs("EPSG:3338")
assert float(ds.miso.composite().red.mean()) == 1
print("misoxr", misoxr.__version__, "imports from its wheel")
"""


def main(checkout: Path) -> None:
    """Look into both archives, and use the wheel."""
    (wheel,), (source,) = Path().glob("*.whl"), Path().glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    outside = sorted(
        {name.split("/")[0] for name in names} - {"misoxr", *(name.split("/")[0] for name in names if ".dist-info/" in name)}
    )
    assert "misoxr/py.typed" in names, "the wheel has no py.typed"
    assert not outside, f"the wheel has {outside} beside misoxr"
    modules = {str(path.relative_to(checkout)) for path in (checkout / "misoxr").glob("**/*.py")}
    modules |= {str(path.relative_to(checkout)) for path in (checkout / "misoxr").glob("*/static/*")}
    assert modules <= set(names), f"the wheel lacks {sorted(modules - set(names))}"
    with tarfile.open(source) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in (
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        ".github/workflows/checks.yml",
        ".readthedocs.yaml",
        "tests/conftest.py",
        "docs/conf.py",
        "examples/demo.py",
    ):
        assert needed in held, f"the source archive has no {needed}"
    (packages,) = (checkout / ".venv").glob("lib/python3*/site-packages")
    code = f"import sys; sys.path.append({str(packages)!r}); import rioxarray" + WORK.format(environment=str(Path(sys.prefix)))
    subprocess.run([sys.executable, "-c", code], check=True)
    # The archive holds what its tests read of the project. Plugins and the suite's fixtures are left out: not all that they need is here.
    options = ["-q", "-c", os.devnull, "--rootdir", ".", "--noconftest", "-p", "no:cacheprovider", "tests/test_environment.py"]
    code = f"import sys; sys.path.append({str(packages)!r}); import pytest; sys.exit(pytest.main({options}))"
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with TemporaryDirectory() as place, tarfile.open(source) as archive:
        archive.extractall(place, filter="data")
        (unpacked,) = Path(place).iterdir()
        subprocess.run([sys.executable, "-c", code], cwd=unpacked, env=environment, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
