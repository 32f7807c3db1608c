import re
import shlex
import sys
import textwrap
from importlib import metadata

import pytest
from helpers import PETS, ROOT, encode, paint, read_log, run_main, run_python, write_folder
from packaging.requirements import Requirement

from common.int8 import LOWEST_COSINE, SAMPLE_COUNT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
README = (ROOT / "README.md").read_text()
OWN = (ROOT / "docs" / "your-own.md").read_text()
# Snippets that are for programs of the reader's own.
(IMPORTS,) = re.findall(r"```python\n(import .*?)```", README, re.DOTALL)
# Appended to a command, so that it takes seconds.
SMALL = {
    "train_mnist.py": "--offline --epochs 1 --batch-size 1000",
    "plot_filter_and_output.py": "--offline",
    "get_convnet_codes.py": "--offline --max-num-images 6 --image-shape 3,32,48 --dtype float32",
    "plot_convnet_embedding.py": "",
}


def script_commands(page):
    """Return the indented lines of a page that run a script, but in snippets of Python."""
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    return re.findall(r"^    (python \w+\.py\b.*)$", text, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_somewhere(page):
    text = page.read_text()
    # The names that GitHub gives headings.
    headings = re.findall(r"^#+ (.*)$", text.lower(), re.M)
    anchors = {"#" + re.sub(r"[^\w -]", "", line).replace(" ", "-") for line in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target in anchors
        elif not target.startswith("http"):
            assert (page.parent / target).is_file(), target


def test_every_picture_is_shown_and_none_is_too_large():
    shown = set(re.findall(r"\]\(pic/([^)]+)\)", README))
    sizes = {path.name: path.stat().st_size for path in (ROOT / "pic").glob("*.[pg][ni][gf]")}
    assert shown == set(sizes) and sum(sizes.values()) < 12e6
    assert max(size for name, size in sizes.items() if name.endswith(".gif")) < 2.5e6


def test_every_snippet_stands_literally_in_a_script_that_its_section_names():
    for section in re.split(r"^## ", README, flags=re.M)[1:]:
        scripts = set(re.findall(r"^    python (\w+\.py)", section, re.M))
        snippets = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        assert snippets or not scripts or "PREFIX" in section
        for snippet in snippets:
            count, found = snippet.count("\n"), {IMPORTS}
            for lines in [(ROOT / name).read_text().splitlines(True) for name in scripts]:
                parts = ("".join(lines[at : at + count]) for at in range(len(lines)))
                found.update(map(textwrap.dedent, parts))
            assert snippet in found, snippet


def test_pinned_requirements_name_all_that_the_installed_packages_need():
    # With --no-deps pip does not look.
    lines = (ROOT / "tests" / "requirements.txt").read_text().splitlines()
    pinned = {re.split(r"[= ]", line)[0].lower() for line in lines if not line.startswith("#")}
    assert {"mxnet", "mxboard", "numpy", "opencv-python-headless", "tensorboard"} <= pinned
    for name in pinned & {each.metadata["Name"].lower() for each in metadata.distributions()}:
        for need in map(Requirement, metadata.requires(name) or ()):
            if not need.marker or need.marker.evaluate({"extra": ""}):
                needed = need.name.lower().replace("_", "-")
                assert needed in pinned, f"{name} needs {needed}"
                # What pip would refuse: MXNet's NumPy 1, where there is none any more.
                fits = need.specifier.contains(metadata.version(needed), prereleases=True)
                lifted = (name, needed) == ("mxnet", "numpy") and sys.version_info >= (3, 13)
                assert fits or lifted, f"{name} needs {need}"


def test_page_says_how_int8_is_judged():
    text = " ".join(OWN.split())
    assert f"if its codes of {SAMPLE_COUNT} pictures are like those of float32" in text
    assert f"below {LOWEST_COSINE} float32 is used" in text


@pytest.mark.parametrize("page", [README, OWN], ids=["README", "your-own"])
def test_every_command_works_in_the_order_of_the_page(page, tiny, tmp_path, monkeypatch):
    tiny.save(tmp_path)
    write_folder(tmp_path / "pets", map(encode, paint(13)), PETS)
    stand_for = {"PREFIX": "tiny", "PICTURE": "pets/cat/02.png", "FOLDER": "pets"}
    monkeypatch.chdir(tmp_path)
    told = set()
    for line in script_commands(page):
        _, script, *args = [stand_for.get(word, word) for word in shlex.split(line)]
        run_main(script, *args, *shlex.split(SMALL[script]))
        told.add(script)
    assert page != README or told == {path.name for path in ROOT.glob("*.py")}


def test_lines_for_a_program_of_ones_own_let_it_log(tmp_path):
    log = 'with SummaryWriter("logs_of_ones_own") as sw:\n    sw.add_scalar("loss", 1.0, 3)\n'
    run_python(IMPORTS + log, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)
    (event,) = read_log(tmp_path / "logs_of_ones_own").Scalars("loss")
    assert (event.step, event.value) == (3, 1.0)
