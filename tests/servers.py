"""The examples' loopback servers, under a name of their own for tests."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("misoxr_example_servers", Path(__file__).parents[1] / "examples" / "servers.py")
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)

range_server = _module.range_server
stac_api = _module.stac_api
