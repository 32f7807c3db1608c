"""Scripts in the style of MXNet's own examples print the same figures on every Python."""

import sys

import pytest
from helpers import ROOT, run

SCRIPTS = sorted((ROOT / "tests" / "old_scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_old_script_runs_as_it_is_and_prints_the_figures_of_python_3_9(script, tmp_path):
    result = run(sys.executable, "-m", "mxcompat", script, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == script.with_suffix(".txt").read_text()
