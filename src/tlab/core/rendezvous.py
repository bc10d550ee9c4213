"""Where this command stands among those of one job that train together, one on each machine.

The words are torchrun's: a node is a machine, its rank counts from 0, and all meet at the first one's address.
"""

import os
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tlab.core.errors import UserError

PORTS = range(20000, 30000)  # below those that Linux gives to outgoing connections
STRIDE = 100  # between the ports of a command's meetings: the ids of an array's jobs follow each other
LOCALHOST = "127.0.0.1"
RENDEZVOUS_TIMEOUT = 600  # seconds that nodes wait for each other at the start
VARIABLES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")

_meetings = 0  # so far, in this command


@dataclass(frozen=True)
class Node:
    """One of the machines.

    Attributes:
        rank: From 0; the first one writes and speaks.
        address: Of the first one.
        port: Where the first one listens.
    """

    rank: int
    address: str
    port: int


def this_node(nodes: int) -> Node:
    """Return where this command stands among `nodes` commands.

    `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT` say it, as for torchrun; else the tasks of a Slurm job step, one
    for each node.

    Raises:
        UserError: Nothing says it, or the job step has another number of tasks.
    """
    if all(os.environ.get(name) for name in VARIABLES):
        rank, port = (_number(name) for name in ("NODE_RANK", "MASTER_PORT"))
        node = Node(rank, os.environ["MASTER_ADDR"], port)
    elif "SLURM_PROCID" in os.environ:
        tasks = _number("SLURM_NTASKS")
        if tasks != nodes:
            raise UserError(
                f"trainer.num_nodes={nodes} needs a job step of {nodes} tasks, and this one has {tasks}; "
                f"give hydra.launcher.nodes={nodes}, or srun --nodes={nodes} --ntasks-per-node=1"
            )
        node = Node(_number("SLURM_PROCID"), _first_host(), PORTS[_number("SLURM_JOB_ID") % len(PORTS)])
    else:
        raise UserError(
            f"trainer.num_nodes={nodes} is for a job on {nodes} machines; give -m hydra/launcher=submitit_slurm, "
            f"start the command with srun, or set {', '.join(VARIABLES)} on each machine"
        )
    if not 0 <= node.rank < nodes:
        raise UserError(f"NODE_RANK={node.rank} is not one of the trainer.num_nodes={nodes}; count from 0")
    return node


def next_rendezvous(nodes: int) -> tuple[Node, dict[str, Any]]:
    """Return this node, and how it meets the others, in the words of torch's `LaunchConfig`.

    Each meeting of a command has a port of its own, since the last one may still be open.
    """
    global _meetings
    if nodes == 1:
        endpoint = f"{LOCALHOST}:0"
        alone = {"rdzv_backend": "c10d", "rdzv_endpoint": endpoint, "local_addr": LOCALHOST}
        return Node(0, LOCALHOST, 0), {"run_id": uuid4().hex, **alone}
    node = this_node(nodes)
    node = Node(node.rank, node.address, _port(node.port, _meetings))
    _meetings += 1
    place = {"rdzv_backend": "static", "rdzv_endpoint": f"{node.address}:{node.port}"}
    return node, {"run_id": "tlab", **place, "rdzv_configs": {"rank": node.rank, "timeout": RENDEZVOUS_TIMEOUT}}


def _port(first: int, meeting: int) -> int:
    """Return the port of a command's meeting, counted from 0: one of `PORTS`, or after the user's own."""
    if first not in PORTS:
        return first + meeting
    return PORTS[(first - PORTS.start + STRIDE * meeting) % len(PORTS)]


def _first_host() -> str:
    from lightning.fabric.plugins.environments import SLURMEnvironment

    hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    return SLURMEnvironment.resolve_root_node_address(hosts)


def _number(name: str) -> int:
    try:
        return int(os.environ.get(name, "1"))
    except ValueError as error:
        raise UserError(f"{name}={os.environ[name]} is not a number; see docs/clusters.md") from error
