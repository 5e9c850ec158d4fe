"""The commands and the tiny config of tests/experiment."""

import importlib.util
import pathlib

_place = pathlib.Path(__file__).parent.parent / "experiment" / "conftest.py"
_spec = importlib.util.spec_from_file_location("experiment_conftest", _place)
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)

place, tiny, lm, refused = _shared.place, _shared.tiny, _shared.lm, _shared.refused
