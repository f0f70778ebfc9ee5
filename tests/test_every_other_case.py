"""`--every-other-case`, with which `.ci/run` ends in time on a slow machine."""

from types import SimpleNamespace

from conftest import every_other_case


def test_no_test_is_left_out_whole():
    names = ["a.py::one", "a.py::two[x]", "a.py::two[y]", "a.py::two[z[0]]", "b.py::two[x]"]
    items = [SimpleNamespace(nodeid=name) for name in names]
    kept = [item.nodeid for item in every_other_case(items)]
    assert kept == ["a.py::one", "a.py::two[x]", "a.py::two[z[0]]", "b.py::two[x]"]
