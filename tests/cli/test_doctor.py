"""`fedstrategies doctor`: what it finds, what it advises, and how it ends."""

from __future__ import annotations

import importlib.util
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from fedstrategies.engines.packing import Plan
from fedstrategies.engines.shares import Machine
from fedstrategies.experiment.config import ExperimentConfig
from fedstrategies.experiment.doctor import flower, gpus, machine, placement, software
from fedstrategies.experiment.doctor.finding import Finding
from fedstrategies.experiment.doctor.memory import MemoryNeed, check_memory, memory_need
from fedstrategies.experiment.families import config_from_mapping
from fedstrategies.experiment.free_memory import available_memory
from fedstrategies.experiment.preparation import prepare

GIB = 1 << 30
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the extra 'simulation' is not installed"
)


def config(**options: object) -> ExperimentConfig:
    return config_from_mapping({key.replace("_", "-"): value for key, value in options.items()})


def levels(findings: list[Finding], subject: str) -> list[str]:
    return [finding.level for finding in findings if finding.subject == subject]


def of_level(findings: list[Finding], level: str) -> list[Finding]:
    return [finding for finding in findings if finding.level == level]


# ------------------------------------------------------------------ the command


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = placement.Cluster.unused([Machine(cpus=16, gpus=2)])
    monkeypatch.setattr(placement, "ray_cluster", lambda config: cluster)


def test_a_sound_run_is_exit_code_0_in_plain_text(fedstrategies, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = fedstrategies("doctor", "ef21", *problem)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "no problems"
    for line in lines[:-2]:
        assert line.split()[0] in ("ok", "note", "->"), line
    assert "\x1b" not in out
    assert "ef21 on small: n = 4 clients, d = 6" in out
    assert "client memories 4 x 6 x 8 bytes" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_would_stop_is_exit_code_1_with_the_reason(fedstrategies, problem):
    code, out, err = fedstrategies("doctor", "efbv", *problem, "--clients", 41)
    assert (code, err) == (1, "")
    (line,) = [line for line in out.splitlines() if line.startswith("problem")]
    assert "41" in line
    assert out.splitlines()[-1] == "1 problem"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--gpus-per-client", "1.5"], "whole"),
        (["--gpus-per-client", "0.5,0.5"], "2 numbers for 4 clients"),
        (["--device", "tpu"], "tpu"),
        (["--actors", "0"], "actors"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_wrong_usage_is_exit_code_2(fedstrategies, problem, arguments, word):
    code, out, err = fedstrategies("doctor", "efbv", *problem, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err


@needs_ray
def test_the_packing_is_drawn(fedstrategies, problem, two_gpus):
    shares = ("--backend", "ray", "--gpus-per-client", "0.5,0.5,0.25,0.25")
    code, out, _ = fedstrategies("doctor", "efbv", *problem, *shares)
    assert code == 0
    table = out[out.index("an actor reserves") :].splitlines()
    assert table[1].split()[:6] == ["0", "0.5", "1", "2", "2", "2"]
    assert table[2].split()[:6] == ["1", "0.25", "1", "2", "2", "2"]
    assert table[3] == "idle: 12 CPUs, 50% of GPU 1"
    assert "clients compute on the CPU" in out  # as logistic regression does


@needs_ray
def test_flowers_hanging_actor_is_a_problem(fedstrategies, problem, two_gpus):
    code, out, _ = fedstrategies(
        "doctor", "efbv", *problem, "--backend", "flower", "--gpus-per-client", 0.4
    )
    assert code == 1
    assert "Flower would start 5 at 0.4 of a GPU, of which Ray can place 4" in out
    assert "-> --gpus-per-client 0.5" in out
    code, out, _ = fedstrategies(
        "doctor", "efbv", *problem, "--backend", "flower", "--gpus-per-client", 0.5
    )
    assert code == 0
    assert "4, all of which Ray can place" in out


@needs_ray
def test_what_does_not_fit_is_a_problem_with_the_numbers(fedstrategies, problem, two_gpus):
    code, out, _ = fedstrategies(
        "doctor", "efbv", *problem, "--backend", "ray", "--gpus-per-client", 3
    )
    assert code == 1
    assert "a client needs 1 CPUs and 3 GPUs" in out
    assert "16 CPUs and 2 GPUs" in out


@needs_ray
def test_a_cluster_out_of_reach_is_a_problem(fedstrategies, problem, monkeypatch):
    def unreachable(config: ExperimentConfig) -> placement.Cluster:
        raise ConnectionError("nobody answers at 10.0.0.1:6379")

    monkeypatch.setattr(placement, "ray_cluster", unreachable)
    code, out, _ = fedstrategies("doctor", "efbv", *problem, "--backend", "ray")
    assert code == 1
    assert "nobody answers" in out


# ------------------------------------------------------------------ software


def test_every_requirement_is_compared_with_what_is_installed():
    installed = {"flwr": "1.20.0", "torch": "2.13.0+cpu", "numpy": "2.4.0", "ray": "2.55.1"}
    found = list(software.check_versions(config(), found=installed.get, python="3.9.1"))
    assert levels(found, "python") == ["problem"]
    assert levels(found, "torch") == ["ok"]
    (old,) = [finding for finding in found if finding.subject == "flwr"]
    assert old.level == "problem"
    assert "1.20.0" in old.text
    assert "pip install" in old.advice
    assert levels(found, "safetensors") == ["problem"]  # missing, and always needed
    (absent,) = [finding for finding in found if finding.subject == "matplotlib"]
    assert (absent.level, absent.advice) == ("note", 'pip install "fedstrategies[plots]"')
    assert not levels(found, "pytest")


def test_an_extra_that_the_run_needs_is_a_problem():
    def all_but_ray(package: str) -> str | None:
        return None if package == "ray" else software.installed(package)

    for backend, level in (("cohort", "note"), ("ray", "problem"), ("flower", "problem")):
        found = list(software.check_versions(config(backend=backend), found=all_but_ray))
        assert levels(found, "ray") == [level]


def test_a_package_without_metadata_is_a_note(monkeypatch):
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(software, "requires", missing)
    (finding,) = software.check_versions(config())
    assert finding.level == "note"


@needs_ray
def test_ray_must_be_the_version_that_flower_is_made_for():
    versions = {"ray": "2.10.0", "flwr": "1.41.0"}
    for backend, level in (("ray", "note"), ("flower", "problem")):
        (finding,) = software.check_ray(config(backend=backend), found=versions.get)
        assert finding.level == level
        assert "ray==" in finding.advice


def test_a_ray_that_does_not_import_is_a_problem_where_it_is_used(monkeypatch):
    def broken(name: str) -> None:
        raise OSError("libray.so: no such file")

    monkeypatch.setattr(software, "import_module", broken)
    (finding,) = software.check_ray(config(backend="ray"), found={"ray": "2.55.1"}.get)
    assert finding.level == "problem"
    assert "libray.so" in finding.text
    assert not list(software.check_ray(config(), found={}.get))


# ------------------------------------------------------------------ memory, threads, disk


def need(**changes: int) -> MemoryNeed:
    sizes = {"clients": 1000, "dimension": 1_600_000, "itemsize": 4, "vectors": 1, "copies": 1}
    return MemoryNeed(**{**sizes, "budget": 8 * GIB, "data": 0, **changes})


def test_memories_are_n_d_itemsize():
    assert need().memories == need().total == 6_400_000_000
    assert need(vectors=2, copies=3, data=5).total == 6 * 6_400_000_000 + 10


@pytest.mark.parametrize(
    ("free", "level"), [(5 * GIB, "problem"), (7 * GIB, "note"), (20 * GIB, "ok"), (None, "note")]
)
def test_memories_are_compared_with_what_is_free(free, level):
    (finding,) = check_memory(need(), free)
    assert finding.level == level
    assert "1,000 x 1,600,000 x 4 bytes" in finding.text
    if level == "problem":
        assert "6.4 GB" in finding.text
        assert "--dtype float32" in finding.advice


def test_memories_above_the_budget_are_noted():
    found = list(check_memory(need(budget=GIB), 20 * GIB))
    assert [finding.level for finding in found] == ["ok", "note"]
    assert "resets all" in found[1].text


@pytest.mark.parametrize(
    ("options", "vectors", "copies"),
    [
        ({"algorithm": "efbv"}, 1, 1),
        ({"algorithm": "efbv", "backend": "ray"}, 1, 2),
        ({"algorithm": "efbv", "backend": "flower"}, 1, 3),
        ({"algorithm": "scafflix", "alpha": 1}, 1, 1),
        ({"algorithm": "sppm", "sampling": "nice", "cohort_size": 2}, 0, 1),
        ({"algorithm": "fedavg"}, 0, 1),
    ],
)
def test_what_a_method_remembers_is_asked_of_its_rule(libsvm_file, options, vectors, copies):
    prepared = prepare(config(dataset=str(libsvm_file), clients=4, **options))
    found = memory_need(prepared)
    assert (found.vectors, found.copies, found.dimension) == (vectors, copies, 6)


def test_the_least_of_system_and_control_group_is_free(tmp_path):
    (tmp_path / "proc").mkdir()
    assert available_memory(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8192 kB\n")
    assert available_memory(tmp_path) == 8192 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.current").write_text("2000000\n")
    assert available_memory(tmp_path) == 3_000_000
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 8192 * 1024


GROUPS = {
    "version 2": ("0::/", "", "max", ("memory.max", "memory.current", "inactive_file")),
    "version 1": (
        "4:cpu,memory:/",
        "memory",
        "9223372036854771712",
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ),
}


@pytest.mark.parametrize("version", GROUPS)
def test_limits_of_all_groups_around_the_process_count(tmp_path, version):
    line, controller, no_limit, (limit, use, cache) = GROUPS[version]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 100000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(f"9:pids:/other\n{line}slurm/job_7/step_0\n")
    top = tmp_path / "sys/fs/cgroup" / controller
    step = top / "slurm/job_7/step_0"
    step.mkdir(parents=True)

    def group(folder, limited, used, files):
        (folder / limit).write_text(f"{limited}\n")
        (folder / use).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{cache} {files}\nactive_file 77\n")

    group(step, no_limit, 100, 0)
    assert available_memory(tmp_path) == 100000000 * 1024
    group(step.parent, 1_000_000_000, 700_000_000, 600_000_000)
    assert available_memory(tmp_path) == 900_000_000
    group(top, 800_000_000, 100_000_000, 0)
    assert available_memory(tmp_path) == 700_000_000
    group(step, 5_000, 6_000, 0)
    assert available_memory(tmp_path) == 0


def test_a_container_sees_its_own_group_outermost(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 8192 kB\n")
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.current").write_text("2000000\n")
    for path in ("/docker/0123abcd", "/../other", "/"):
        (tmp_path / "proc/self/cgroup").write_text(f"0::{path}\n")
        assert available_memory(tmp_path) == 3_000_000


def test_the_disk_must_hold_the_results(tmp_path, monkeypatch):
    out = tmp_path / "not" / "there"
    (finding,) = machine.check_disk(config(rounds=10), out, model_bytes=100)
    assert finding.level == "ok"
    (finding,) = machine.check_disk(config(rounds=10), out, model_bytes=1 << 60)
    assert finding.level == "problem"
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    (finding,) = machine.check_disk(config(rounds=10), out, model_bytes=100)
    assert "cannot be written" in finding.text
    assert not out.exists()


def test_threads_are_shown():
    found = list(machine.check_threads(config()))
    assert [finding.level for finding in found] == ["ok", "ok"]
    assert "torch" in found[1].text


# ------------------------------------------------------------------ GPUs and Flower


@pytest.fixture
def torch_sees(monkeypatch):
    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (GIB, 2 * GIB))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Imaginary 1")

    return see


NETWORK = {"model": "mlp", "stepsize": 0.1}


def test_gpus_are_listed_and_one_that_is_not_there_is_a_problem(torch_sees):
    torch_sees(2)
    found = list(gpus.check_gpus(config(**NETWORK, device="cuda:1")))
    assert [f.subject for f in found] == ["cuda:0", "cuda:1", "device"]
    assert "Imaginary 1" in found[0].text
    assert not of_level(found, "problem")
    (finding,) = of_level(list(gpus.check_gpus(config(**NETWORK, device="cuda:2"))), "problem")
    assert "2 CUDA devices" in finding.text
    torch_sees(0)
    (finding,) = of_level(list(gpus.check_gpus(config(**NETWORK, device="cuda"))), "problem")
    assert finding.advice


def test_gpus_that_the_run_does_not_use_are_noted(torch_sees):
    torch_sees(1)
    (finding,) = of_level(list(gpus.check_gpus(config(**NETWORK))), "note")
    assert finding.advice == "add --device cuda"
    assert not of_level(list(gpus.check_gpus(config(**NETWORK, device="auto"))), "note")
    reserved = config(**NETWORK, backend="ray", gpus_per_client=0.5)
    texts = [finding.text for finding in of_level(list(gpus.check_gpus(reserved)), "note")]
    assert any("reserves GPUs" in text for text in texts)
    alone = config(**NETWORK, device="cuda", gpus_per_client=0.5)
    (finding,) = of_level(list(gpus.check_gpus(alone)), "note")
    assert finding.advice == "use --backend ray"


def test_what_hides_gpus_is_named(torch_sees, monkeypatch):
    torch_sees(0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (finding, _) = gpus.check_gpus(config())
    assert (finding.level, finding.advice) == ("note", "unset it")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(gpus.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (finding, _) = gpus.check_gpus(config())
    assert "no CUDA" in finding.text
    assert finding.level == "note"


def test_ray_and_torch_should_see_the_same_gpus():
    machines, run = [Machine(cpus=8, gpus=2)], config(backend="ray", gpus_per_client=0.5)
    plan = placement.plan_of(run, machines)
    assert isinstance(plan, Plan)
    cluster = placement.Cluster.unused(machines)
    for seen, level in ((2, []), (1, ["note"])):
        found = list(placement.check_placement(run, cluster, plan, torch_gpus=seen))
        assert levels(found, "gpus") == level


def test_what_fits_on_all_machines_together_and_on_none_of_them_is_a_problem():
    for options, machines, word in (
        ({"cpus_per_client": 2.0}, [Machine(cpus=1), Machine(cpus=1)], "two machines"),
        ({"gpus_per_client": 2.0}, [Machine(cpus=4, gpus=1)] * 2, "two GPUs or machines"),
    ):
        run = config(backend="ray", **options)
        plan = placement.plan_of(run, machines)
        cluster = placement.Cluster.unused(machines)
        found = list(placement.check_placement(run, cluster, plan, torch_gpus=0))
        assert " + " in found[0].text
        (finding,) = of_level(found, "problem")
        assert finding.text.endswith(f"no share lies across {word}")


def test_shares_that_leave_a_rest_are_noted_with_the_share_that_does_not():
    machines = [Machine(cpus=8, gpus=2)]
    run = config(backend="ray", gpus_per_client=0.4)
    plan = placement.plan_of(run, machines)
    cluster = placement.Cluster.unused(machines)
    found = list(placement.check_placement(run, cluster, plan, torch_gpus=2))
    (finding,) = [f for f in found if f.subject == "shares"]
    assert "20%" in finding.text
    assert finding.advice.startswith("0.5")


@pytest.mark.parametrize(
    ("backend", "free", "level"),
    [
        ("ray", (8.0, 2.0), "ok"),
        ("ray", (8.0, 1.5), "note"),
        ("ray", (3.0, 2.0), "note"),
        ("flower", (4.0, 2.0), "ok"),
        ("flower", (8.0, 0.5), "note"),
    ],
)
def test_what_others_use_of_a_cluster_is_noted(backend, free, level):
    machines = (Machine(cpus=8, gpus=2),)
    run = config(backend=backend, gpus_per_client=0.5, clients=4)
    plan = placement.plan_of(run, machines)
    assert isinstance(plan, Plan)
    cluster = placement.Cluster(machines=machines, free_cpus=free[0], free_gpus=free[1])
    found = list(placement.check_placement(run, cluster, plan, torch_gpus=2))
    assert levels(found, "actors")[-1] == level
    if level == "note":
        (finding,) = of_level(found, "note")
        assert f"4 CPUs and 2 GPUs, of which {free[0]:g} and {free[1]:g} are free" in finding.text
        assert "ray status" in finding.advice
        assert ("--actors" in finding.advice) == (backend == "ray")


@needs_ray
@pytest.mark.parametrize(
    ("resources", "free"),
    [({"memory": 1.0, "CPU": 3.0}, (3.0, 0.0)), ({"memory": 1.0}, (0.0, 0.0)), ({}, (8.0, 2.0))],
)
def test_ray_is_asked_for_what_is_free(monkeypatch, resources, free):
    import ray

    from fedstrategies.engines import ray_cluster

    monkeypatch.setattr(ray_cluster, "connect", lambda address: False)
    monkeypatch.setattr(ray_cluster, "machines", lambda: [Machine(cpus=8, gpus=2)])
    monkeypatch.setattr(ray, "available_resources", lambda: resources)
    found = placement.ray_cluster(config(backend="ray"))
    assert found.machines == (Machine(cpus=8, gpus=2),)
    assert (found.free_cpus, found.free_gpus) == free


def test_flowers_environment(tmp_path: Path):
    with socket.socket() as superlink:
        superlink.bind(("127.0.0.1", 0))
        port = superlink.getsockname()[1]
        environment = {
            "FLWR_TELEMETRY_ENABLED": "1",
            "FLWR_HOME": str(tmp_path / "flwr"),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        }
        found = list(flower.check_flower(config(), environment))
        assert levels(found, "SuperLink") == ["ok"]  # bound, but nobody listens
        superlink.listen()
        found = list(flower.check_flower(config(), environment))
    assert levels(found, "telemetry") == ["note"]
    assert levels(found, "FLWR_HOME") == ["ok"]
    assert levels(found, "SuperLink") == ["note"]
    assert not levels(found, "flwr run")
    quiet = list(flower.check_flower(config(), {"FLWR_HOME": str(tmp_path)}))
    assert levels(quiet, "telemetry") == ["ok"]
    assert levels(quiet, "flwr run") == ["note"]
    assert not (tmp_path / "flwr").exists()


@pytest.mark.parametrize(
    ("lines", "level"),
    [
        (["server:/x {home} nfs4 rw 0 0"], "note"),
        (["server:/x / nfs rw 0 0", "/dev/a {home} ext4 rw 0 0"], "ok"),
        (["/dev/a {home} ext4 rw 0 0", "//host/x {home} cifs rw 0 0"], "note"),
        (["server:/x {home}/deeper nfs4 rw 0 0"], "ok"),
        ([], "ok"),
    ],
)
def test_flwr_home_on_a_network_s_file_system(tmp_path, lines, level):
    home = tmp_path / "a home"
    home.mkdir()
    mounts = tmp_path / "mounts"
    place = str(home).replace(" ", "\\040")
    mounts.write_text("".join(line.format(home=place) + "\n" for line in lines))
    found = list(flower.check_flower(config(), {"FLWR_HOME": str(home)}, mounts))
    assert levels(found, "FLWR_HOME") == [level]
