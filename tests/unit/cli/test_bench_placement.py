"""`headgate bench placement` on a small cluster, and what it says of bad input."""

import json

import pytest
from click.testing import CliRunner

from headgate.cli.bench import bench
from headgate.core.errors import InputError

NODES = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(
    f"n{i},{cpu},{memory},{gpus},{model}\n"
    for i, (cpu, memory, gpus, model) in enumerate(
        [(96000, 393216, 8, "G2")] * 3 + [(104000, 524288, 2, "T4")] * 4 + [(8000, 65536, 1, "P4")]
    )
)
HEAD = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec"
PODS = [
    "p0,12000,16384,1,1000,",
    "p1,3152,5600,1,810,",
    "p2,8000,30517,1,470,G2|T4",
    "p3,12500,57344,0,0,",
    "p4,24000,65536,2,1000,",
]


@pytest.fixture
def data(tmp_path):
    """A data folder, with a pod list written by the rows given."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "openb_node_list_gpu_node.csv").write_text(NODES)

    def write(*pods: str, head: str = HEAD):
        (folder / "openb_pod_list_mine.csv").write_text("\n".join([head, *pods, ""]))
        return tmp_path

    return write


def run(folder, *options: str):
    arguments = ["placement", "--data", str(folder), "--trace", "mine", *options]
    return CliRunner().invoke(bench, arguments, catch_exceptions=False)


def test_every_policy_runs_by_default_and_the_json_names_each_run(data, tmp_path):
    file = tmp_path / "runs.json"
    result = run(data(*PODS), "--seeds", "3..4", "--json", str(file))
    runs = json.loads(file.read_text())["results"]
    assert result.exit_code == 0
    assert "Headgate" in result.output
    assert [(r["policy"], r["seed"]) for r in runs] == [
        (policy, seed)
        for policy in (
            "Random",
            "DotProd",
            "GpuClustering",
            "GpuPacking",
            "BestFit",
            "FGD",
            "Headgate",
        )
        for seed in (3, 4)
    ]
    assert {r["trace"] for r in runs} == {"mine"}
    assert all(50 < r["allocated_percent"] <= 100 and r["wall_s"] > 0 for r in runs)


def test_a_seed_tells_the_same_story_twice(data, tmp_path):
    shares = []
    for name in ("a.json", "b.json"):
        run(
            data(*PODS),
            "--policy",
            "Headgate",
            "--policy",
            "Random",
            "--json",
            str(tmp_path / name),
        )
        results = json.loads((tmp_path / name).read_text())["results"]
        shares.append([r["allocated_percent"] for r in results])
    assert shares[0] == shares[1]
    assert len(set(shares[0])) > 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("p9,1000,1024,9,1000,", "num_gpu is 9 in row 6, but no node has more than 8 GPUs"),
        ("p9,-1,1024,1,1000,", "cpu_milli is -1 in row 6; it must be a whole number of at least 0"),
        ("p9,1000,1024,1,0,", "gpu_milli is 0 in row 6"),
        ("p9,1000,1024,1,1001,", "gpu_milli is 1001 in row 6"),
        ("p9,1000,1024,2,500,", "gpu_milli is 500 for 2 GPUs in row 6; only one GPU can be shared"),
        (
            "p9,1000,1024,1,500,H100",
            "gpu_spec names model H100 in row 6, but the nodes have G2, P4",
        ),
        ("p9,many,1024,1,500,", "cpu_milli is many in row 6"),
        ("p9,1000,,1,500,", "memory_mib is empty in row 6"),
    ],
)
def test_a_bad_pod_is_told_in_one_sentence(data, row, said):
    with pytest.raises(InputError, match=r"openb_pod_list_mine\.csv") as error:
        run(data(*PODS, row))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pod_of_more_cpu_than_any_node_has_is_dropped(data):
    result = run(data(*PODS, "p9,9000000000000000,1024,1,1000,"), "--policy", "Headgate")
    assert result.exit_code == 0


def test_a_missing_column_is_told_by_name(data):
    with pytest.raises(InputError, match="no column gpu_milli"):
        run(data("p0,12000,16384,1,", head="name,cpu_milli,memory_mib,num_gpu,gpu_spec"))


def test_pods_that_ask_for_no_gpu_at_all_are_told(data):
    with pytest.raises(InputError, match="no pod asks for a GPU"):
        run(data(*[PODS[3]] * 2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "Best"], "--policy Best: no such policy; give one of Random"),
        (["--seeds", "5..2"], "--seeds 5..2: holds no seed"),
        (["--seeds", "few"], "--seeds few: is no range"),
        (["--trace", "other"], "openb_pod_list_other.csv.gz is not there"),
        (["--json", "/no/such/folder/runs.json"], "--json /no/such/folder/runs.json: cannot write"),
    ],
)
def test_a_bad_option_is_told_before_anything_runs(data, options, said):
    with pytest.raises(InputError) as error:
        run(data(*PODS), *options)
    assert said in str(error.value)
