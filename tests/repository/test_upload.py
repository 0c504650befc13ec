"""What reaches a cluster or an image is code and configurations: Ray's own packaging is asked what it would send of a tree with secrets."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package
from ray._private.runtime_env.working_dir import ray_constants

from tests.support.machines.cli import ROOT

PACKAGES = ("clinjepa", "pipelines", "configs")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "cluster").glob("*.md")])
LISTS = (".rayignore", "clinjepa/.rayignore", "pipelines/.rayignore")
PLANTED = [
    "secret.env",
    ".env",
    ".aws/credentials",
    "id_rsa",
    "patients.csv",
    "mine.yaml",
    "notes.py",
    "notes/plan.py",
    "clinjepa/secret.env",
    "clinjepa/id_rsa",
    "clinjepa/keys.yaml",
    "clinjepa/patients.parquet",
    "clinjepa/._errors.py",
    "clinjepa/.ipynb_checkpoints/errors.py",
    "clinjepa/clinical/patients",
    "clinjepa/clinical/stays.csv",
    "clinjepa/model/model.safetensors",
    "clinjepa/report/templates/page.json",
    "clinjepa/scratch/deep/x.py",
    "pipelines/token",
    "pipelines/graph/secret.json",
    "pipelines/stages/keys.yaml",
    "configs/secret.txt",
    "configs/.demo.yaml.swp",
    "configs/sub/secret.yaml",
]


def tracked(*folders: str) -> list[str]:
    found = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in found.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files with secrets among them."""
    root = tmp_path_factory.mktemp("tree")
    for name in [*tracked(*PACKAGES), *tracked("tests/e2e", "docs", "cluster"), "README.md", "pyproject.toml", ".gitignore", ".rayignore"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    for name in PLANTED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert not (root / name).exists(), f"{name} would replace a file of the project"
        (root / name).write_text("planted secret\n")
    return root


def sent(folder: Path, out: Path, in_its_folder: bool = False) -> list[str]:
    """Names of the files that Ray packs of a folder, as for `--working-dir` or `py_modules`."""
    excludes = ray_constants.get_runtime_env_default_excludes()
    create_package(str(folder), out, include_gitignore=True, include_parent_dir=in_its_folder, excludes=excludes)
    with zipfile.ZipFile(out) as archive:
        return sorted(archive.namelist())


def code_and_configs(*folders: str) -> list[str]:
    return sorted(name for name in tracked(*folders) if Path(name).name != ".rayignore")


def test_a_job_gets_exactly_the_code_and_the_configurations(tree: Path, tmp_path: Path) -> None:
    names = sent(tree, tmp_path / "package.zip")
    assert sorted(set(names) & set(PLANTED)) == []
    missing = sorted(set(code_and_configs(*PACKAGES)) - set(names))
    assert names == code_and_configs(*PACKAGES), (
        f"not sent: {missing}; a new folder or kind of file needs its lines in {' or '.join(LISTS)}"
    )


@pytest.mark.parametrize("package", ["clinjepa", "pipelines"])
def test_a_command_that_joins_a_cluster_sends_exactly_the_code_of_each_package(tree: Path, package: str, tmp_path: Path) -> None:
    assert sent(tree / package, tmp_path / "module.zip", in_its_folder=True) == code_and_configs(package)


def test_an_installed_package_has_its_list_with_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert ".rayignore" in settings["tool"]["setuptools"]["package-data"]["*"]


def test_every_documented_submission_sends_the_folder_that_has_the_list() -> None:
    found = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if re.search(r"ray job submit\s+--", line)]
    assert len(found) >= 2
    for line in found:
        assert re.search(r"--working-dir \.(?![\w/])", line), line
        for config in re.findall(r"(?<=\s)(\S+\.yaml)", line):
            assert config in code_and_configs("configs"), f"{config} is not sent with the job"


def test_an_image_is_built_of_code_and_its_lists_of_packages_only() -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert patterns[0] == "**"
    copied = {
        source
        for line in (ROOT / "cluster" / "Containerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    let_through = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    for source in copied:
        assert source in let_through or any(pattern.startswith(f"{source}/") for pattern in let_through), source
    endings = {Path(pattern).suffix for pattern in let_through if "*" in pattern}
    assert endings == {".py", ".yaml", ".json", ".html", ".css", ".md"}
