"""Every package that the Makefile and the image install is known by its SHA-256, in the versions that were tested together."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "locks").glob("*.txt"))}
ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)([^\n\\]*(?:\\\n[^\n\\]*)*)", re.MULTILINE)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(text: str) -> dict[str, tuple[str, int]]:
    """Name -> (version, number of hashes)."""
    return {name: (version, len(re.findall(r"--hash=sha256:[0-9a-f]{64}", rest))) for name, version, rest in ENTRY.findall(text)}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonical(name): version for name, version in (line.split("==") for line in lines if re.match(r"\w[\w.-]*==", line))}


def test_there_is_a_lock_for_packages_for_torch_for_launchers_and_for_development() -> None:
    """torch_cpu.txt stands in place of torch.txt in the image for CPUs; all others can be installed together."""
    assert sorted(LOCKS) == ["dev.txt", "launcher.txt", "packages.txt", "torch.txt", "torch_cpu.txt"]
    assert {name for name in entries(LOCKS["torch.txt"]) if not name.startswith(("nvidia-", "cuda-"))} == {"torch", "triton"}
    assert {name: version for name, (version, _) in entries(LOCKS["torch_cpu.txt"]).items()} == {"torch": f"{pinned()['torch']}+cpu"}
    together = sorted(set(LOCKS) - {"torch_cpu.txt"})
    assert not any(set(entries(LOCKS[a])) & set(entries(LOCKS[b])) for a in together for b in together if a < b)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_has_hashes_and_the_version_that_was_tested(lock: str) -> None:
    found, tested = entries(LOCKS[lock]), pinned()
    assert found and all(num_hashes for _, num_hashes in found.values())
    assert {name: version for name, (version, _) in found.items() if tested.get(name, version) != version.removesuffix("+cpu")} == {}
    lines = [line for line in LOCKS[lock].splitlines() if line and not line.startswith(("#", "    --hash=sha256:"))]
    assert len(lines) == len(found) and "://" not in LOCKS[lock], "a lock names packages only: no address, file or folder"


def test_every_package_that_was_tested_is_in_a_lock() -> None:
    locked = {name for text in LOCKS.values() for name in entries(text)}
    assert sorted(set(pinned()) - locked) == [], "run `make lock`"


def test_every_dependency_of_the_project_is_in_the_lock_of_its_kind() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = {name for lock in ("packages.txt", "torch.txt") for name in entries(LOCKS[lock])}
    locked = runtime | set(entries(LOCKS["dev.txt"])) | set(entries(LOCKS["launcher.txt"]))

    def names(requirements: list[str]) -> set[str]:
        return {canonical(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements} - {project["name"]}

    assert names(project["dependencies"]) <= runtime
    assert names([each for extra in project["optional-dependencies"].values() for each in extra]) <= locked
    assert "setuptools" in runtime, "the project is built without isolation by a locked setuptools"


def test_makefile_and_image_install_by_hash_and_resolve_nothing() -> None:
    image = (ROOT / "cluster" / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line for line in re.findall(r"pip install[^&\n]*", image)]
    assert [line for line in installs if "--require-hashes" not in line and not re.search(r"--no-deps --no-build-isolation \.", line)] == []
    assert "LOCKED := $(INSTALL) --no-deps --require-hashes" in makefile
    by_index = [line.strip() for line in makefile.splitlines() if "$(INSTALL)" in line and not line.startswith("LOCKED")]
    assert len(by_index) == 2 and "'$(TORCH)'" in by_index[0] and "--no-deps --no-build-isolation -e ." in by_index[1]
