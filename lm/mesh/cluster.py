"""Whether this process is one of many, as told by a person or by what started it."""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import NamedTuple

from lm.base.errors import UserError
from lm.mesh.config import Config

# Of the ports that Google's own firewall rule for TPU VMs opens (jax-ml/jax issue 35905), the one
# that is meant for this; elsewhere any will do.
_PORT = 8476


class Cluster(NamedTuple):
    """The processes that compute together, as process `index` of `count` knows them."""

    index: int
    count: int
    coordinator: str              # host:port of process 0; the port after it is used too
    source: str                   # what told of them
    hosts: tuple[str, ...] = ()   # by index, where they are known beforehand
    local: int | None = None      # the GPU that is this process's alone, where a host has several

    def name(self, index: int) -> str:
        """Returns e.g. `process 1 of 4 (host1)`."""
        host = f" ({self.hosts[index]})" if self.hosts else ""
        return f"process {index} of {self.count}{host}"


def find(config: Config, environ: Mapping[str, str],
         ask: Callable[[str], str] | None = None) -> Cluster | None:
    """Returns what the first of these tells, or None for a process that is alone.

    The config's coordinator, processes and process, since what a person typed wins; the environment
    of a TPU VM; of a Slurm step; of a JobSet on GKE. ask: reads an attribute of a TPU VM, '' for
    one that it has not. UserError where half is given, or what is given cannot be.
    """
    told = _typed(config) or _tpu(environ, ask) or _slurm(environ) or _jobset(environ)
    if told is None or told.count == 1:
        return None
    if not 0 <= told.index < told.count:
        raise UserError(f"there is no process {told.index} of {told.count} ({told.source}); they "
                        f"are numbered from 0 to {told.count - 1}")
    if not re.fullmatch(r"\S+:\d+", told.coordinator):
        raise UserError(f"mesh.coordinator = '{told.coordinator}' is not HOST:PORT, that of "
                        "process 0")
    return told


def _typed(c):
    given = (c.coordinator != "", c.processes > 0, c.process >= 0)
    if not any(given):
        return None
    if not all(given):
        names = ("mesh.coordinator=HOST:PORT", "mesh.processes", "mesh.process")
        missing = [name for name, there in zip(names, given, strict=True) if not there]
        raise UserError(f"many processes need {', '.join(names)}; missing: {', '.join(missing)}")
    return Cluster(c.process, c.processes, c.coordinator, "flags")


def _tpu(environ, ask):
    """Workers of a TPU slice: GKE sets the environment, a bare VM has attributes to be asked for.

    Slices that are joined by Megascale count on from one another, as jax counts them.
    """
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    index, slices = environ.get("TPU_WORKER_ID"), environ
    if not hosts and ask and "TPU_SKIP_MDS_QUERY" not in environ:
        hosts, index = ask("worker-network-endpoints"), ask("agent-worker-number")
        slices = dict(re.findall(r"^(\w+): *'?([^'\n]*)", ask("tpu-env"), re.M)) | dict(environ)
    if not hosts or not index:
        return None
    # Each is a host, host:port, or name:number:host.
    hosts = [h.split(":")[2] if h.count(":") == 2 else h.split(":")[0] for h in hosts.split(",")]
    many = int(slices.get("MEGASCALE_NUM_SLICES") or 1)
    number = int(slices.get("MEGASCALE_SLICE_ID") or 0) * len(hosts) + int(index)
    first = (slices.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]).split(":")[0]
    return Cluster(number, many * len(hosts), f"{first}:{_PORT}", "TPU VM",
                   tuple(hosts) if many == 1 else ())


def _slurm(environ):
    """Tasks of a step: what `srun` starts. A batch script itself is no step and stays alone."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if any(name not in environ for name in names):
        return None
    job, nodes, count, index = (environ[name] for name in names)
    nodes = expand(nodes)
    # Jobs may share a host: each has ports of its own, above those that Linux hands out itself.
    port = 61000 + int(job) % 2000 * 2
    local = None
    if len(nodes) < int(count) and len(environ.get("CUDA_VISIBLE_DEVICES", ",").split(",")) > 1:
        local = int(environ["SLURM_LOCALID"])
    return Cluster(int(index), int(count), f"{nodes[0]}:{port}", "Slurm",
                   tuple(nodes) if len(nodes) == int(count) else (), local)


def expand(nodes: str) -> list[str]:
    """Returns the hosts of a Slurm list: `a[1,08-10]-x,b` is a1-x, a08-x, a09-x, a10-x, b."""
    out = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        head, inner, tail = re.fullmatch(r"([^\[]*)(?:\[([^\]]*)\])?(.*)", item).groups()
        for part in (inner or "").split(","):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last) + 1) if last else [first]
            found = [f"{head}{n:0{len(first)}d}" if last else f"{head}{n}" for n in numbers]
            out += [h + rest for h in found for rest in (expand(tail) if tail else [""])]
    return out


def _jobset(environ):
    """Pods of an indexed Job in a JobSet, with the names that XPK gives what JobSet knows.

    The manifest has to set JOBSET_NAME and REPLICATED_JOB_NAME from the pod's annotations and
    JAX_PROCESS_COUNT; with several jobs, JOB_INDEX and PROCESSES_IN_JOB too. Kubernetes itself
    sets JOB_COMPLETION_INDEX.
    """
    names = ("JOB_COMPLETION_INDEX", "JOBSET_NAME", "REPLICATED_JOB_NAME", "JAX_PROCESS_COUNT")
    if "JOB_COMPLETION_INDEX" not in environ or "JOBSET_NAME" not in environ:
        return None
    missing = [name for name in names if name not in environ]
    if missing:
        raise UserError(f"this pod of JobSet {environ['JOBSET_NAME']} does not know its company: "
                        f"{', '.join(missing)} not set in the manifest; see launch/gke.sh")
    pod, jobset, job, count = (environ[name] for name in names)
    count, per = int(count), int(environ.get("PROCESSES_IN_JOB") or count)
    hosts = tuple(f"{jobset}-{job}-{i // per}-{i % per}.{jobset}" for i in range(count))
    index = int(environ.get("JOB_INDEX") or 0) * per + int(pod)
    return Cluster(index, count, f"{hosts[0]}:{_PORT}", "JobSet", hosts)


def metadata(key: str) -> str:
    """Returns an attribute of this Google machine, as its metadata server has it; '' without."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{key}",
        headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except (OSError, urllib.error.URLError):
        return ""
