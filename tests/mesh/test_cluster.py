"""Every environment that tells of many processes, as its documentation has it."""

import dataclasses

import pytest

from lm.base.errors import UserError
from lm.mesh.cluster import expand, find
from lm.mesh.config import Config

SLURM = dict(SLURM_JOB_ID="4003", SLURM_STEP_NODELIST="gpu[07-08],big1", SLURM_STEP_NUM_TASKS="3",
             SLURM_PROCID="1", SLURM_LOCALID="0", SLURM_NTASKS="3")
TPU = dict(TPU_WORKER_ID="1", TPU_WORKER_HOSTNAMES="t-0.svc,t-1.svc")
JOBSET = dict(JOB_COMPLETION_INDEX="1", JOBSET_NAME="run", REPLICATED_JOB_NAME="workers",
              JAX_PROCESS_COUNT="4", JOB_INDEX="1", PROCESSES_IN_JOB="2")


def typed(coordinator="", processes=0, process=-1):
    return dataclasses.replace(Config(), coordinator=coordinator, processes=processes,
                               process=process)


def test_alone():
    assert find(Config(), {}) is None
    assert find(Config(), SLURM | dict(SLURM_STEP_NUM_TASKS="1", SLURM_PROCID="0")) is None
    assert find(Config(), dict(TPU_WORKER_ID="0", TPU_WORKER_HOSTNAMES="localhost")) is None
    assert find(Config(), dict(JOB_COMPLETION_INDEX="3")) is None, "an indexed job of single runs"
    assert find(typed("here:1", 1, 0), SLURM) is None, "one that a person asked for"


def test_a_batch_script_is_no_task_of_its_job():
    """Slurm tells it of all tasks too; they come with srun."""
    script = {k: v for k, v in SLURM.items() if "STEP" not in k}
    assert find(Config(), script) is None


def test_flags():
    found = find(typed("host0:1234", 4, 1), {})
    assert found[:4] == (1, 4, "host0:1234", "flags")
    assert found.name(2) == "process 2 of 4"


def test_what_a_person_typed_wins_then_the_order_is_tpu_slurm_jobset():
    every = TPU | SLURM | JOBSET
    order = []
    for config, environ in ((typed("h:1", 2, 0), every), (Config(), every),
                            (Config(), SLURM | JOBSET), (Config(), JOBSET)):
        order.append(find(config, environ).source)
    assert order == ["flags", "TPU VM", "Slurm", "JobSet"]


def test_slurm():
    found = find(Config(), SLURM)
    assert found.hosts == ("gpu07", "gpu08", "big1")
    assert (found.index, found.count, found.local) == (1, 3, None)
    assert found.coordinator == "gpu07:61006"
    assert found.name(2) == "process 2 of 3 (big1)"


def test_slurm_tasks_that_share_a_host_take_a_gpu_each():
    shared = SLURM | dict(SLURM_STEP_NODELIST="a", SLURM_LOCALID="2", SLURM_PROCID="2")
    assert find(Config(), shared).local == 2
    assert find(Config(), shared | dict(CUDA_VISIBLE_DEVICES="0,1,2")).local == 2
    given = shared | dict(CUDA_VISIBLE_DEVICES="5")
    assert find(Config(), given).local is None, "it sees no other"


@pytest.mark.parametrize("text, hosts", [
    ("a", ["a"]),
    ("a,b-c.d", ["a", "b-c.d"]),
    ("n[1-3]", ["n1", "n2", "n3"]),
    ("n[098-101,7],m2", ["n098", "n099", "n100", "n101", "n7", "m2"]),
    ("r[1-2]n[3,5]x", ["r1n3x", "r1n5x", "r2n3x", "r2n5x"]),
])
def test_lists_of_hosts(text, hosts):
    assert expand(text) == hosts


def test_tpu_workers_on_gke():
    found = find(Config(), TPU)
    assert found[:5] == (1, 2, "t-0.svc:8476", "TPU VM", ("t-0.svc", "t-1.svc"))
    ports = dict(TPU_WORKER_ID="0", TPU_PROCESS_ADDRESSES="10.0.0.1:8471,10.0.0.2:8471")
    assert find(Config(), ports).hosts == ("10.0.0.1", "10.0.0.2")


def test_slices_count_on():
    found = find(Config(), TPU | dict(MEGASCALE_NUM_SLICES="3", MEGASCALE_SLICE_ID="2",
                                      MEGASCALE_COORDINATOR_ADDRESS="s0-0.svc:8080"))
    assert found[:3] == (5, 6, "s0-0.svc:8476")
    assert found.name(5) == "process 5 of 6"


def test_a_bare_tpu_machine_is_asked():
    known = {"agent-worker-number": "1", "worker-network-endpoints":
             "x:y:10.0.0.1,x:y:10.0.0.2", "tpu-env": "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\n"
             "MEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.1.1'\n"}
    assert find(Config(), {}, known.get)[:3] == (3, 4, "10.0.1.1:8476")
    known["tpu-env"] = ""
    assert find(Config(), {}, known.get)[:5] == (
        1, 2, "10.0.0.1:8476", "TPU VM", ("10.0.0.1", "10.0.0.2"))
    assert find(Config(), {}, lambda key: "") is None
    assert find(Config(), dict(TPU_SKIP_MDS_QUERY="1"), known.get) is None


def test_jobset():
    found = find(Config(), JOBSET)
    assert found[:4] == (3, 4, "run-workers-0-0.run:8476", "JobSet")
    assert found.hosts[3] == "run-workers-1-1.run"


@pytest.mark.parametrize("config, environ, says", [
    (typed("h:1"), {}, ["missing: mesh.processes, mesh.process"]),
    (typed(process=1), {}, ["mesh.coordinator=HOST:PORT, mesh.processes"]),
    (typed("h:1", 2, 2), {}, ["no process 2 of 2", "0 to 1"]),
    (typed("h", 2, 0), {}, ["mesh.coordinator = 'h'", "HOST:PORT"]),
    (Config(), {k: v for k, v in JOBSET.items() if "COUNT" not in k}, ["JAX_PROCESS_COUNT"]),
])
def test_what_is_half_given_is_an_error(config, environ, says):
    with pytest.raises(UserError) as error:
        find(config, environ)
    for part in says:
        assert part in str(error.value)
