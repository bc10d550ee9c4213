"""How the nodes of one job, each with its own command, find each other.

The terms are torchrun's: a node is a machine, its rank counts from 0, and all meet at the first one's address.
"""

import os
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tlab.core.errors import UserError

PORTS = range(20000, 30000)  # below the range that Linux uses for outgoing connections
STRIDE = 100  # between the ports of a command's rendezvous; jobs of a Slurm array have consecutive first ports
LOCALHOST = "127.0.0.1"
RENDEZVOUS_TIMEOUT = 600  # seconds that nodes wait for each other at the start
VARIABLES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")

_meetings = 0  # number of rendezvous so far in this command


@dataclass(frozen=True)
class Node:
    """One of the machines."""

    rank: int  # number of this node, from 0; node 0 writes files and logs
    address: str  # host name or IP address of node 0
    port: int  # on which node 0 listens


def this_node(nodes: int) -> Node:
    """Return which of `nodes` nodes this is.

    Read from `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT`, as by torchrun, else from the Slurm job step, which must
    have one task per node.

    Raises:
        UserError: Neither is set, or the job step has another number of tasks.
    """
    if all(os.environ.get(name) for name in VARIABLES):
        rank, port = (_number(name) for name in ("NODE_RANK", "MASTER_PORT"))
        node = Node(rank, os.environ["MASTER_ADDR"], port)
    elif "SLURM_PROCID" in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        tasks = _number("SLURM_NTASKS")
        if tasks != nodes:
            raise UserError(
                f"trainer.num_nodes={nodes} needs a job step of {nodes} tasks, and this one has {tasks}; "
                f"give hydra.launcher.nodes={nodes}, or srun --nodes={nodes} --ntasks-per-node=1"
            )
        hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
        address = SLURMEnvironment.resolve_root_node_address(hosts)
        node = Node(_number("SLURM_PROCID"), address, PORTS[_number("SLURM_JOB_ID") % len(PORTS)])
    else:
        raise UserError(
            f"trainer.num_nodes={nodes} is for a job on {nodes} machines; give -m hydra/launcher=submitit_slurm, "
            f"start the command with srun, or set {', '.join(VARIABLES)} on each machine"
        )
    if not 0 <= node.rank < nodes:
        raise UserError(f"NODE_RANK={node.rank} is not one of the trainer.num_nodes={nodes}; count from 0")
    return node


def next_rendezvous(nodes: int) -> tuple[Node, dict[str, Any]]:
    """Return this node, and the arguments of torch's `LaunchConfig` by which it meets the others.

    Each rendezvous of a command has its own port, since the last one may still be open.
    """
    global _meetings
    if nodes == 1:
        alone = {"rdzv_backend": "c10d", "rdzv_endpoint": f"{LOCALHOST}:0", "local_addr": LOCALHOST}
        return Node(0, LOCALHOST, 0), {"run_id": uuid4().hex, **alone}
    node = this_node(nodes)
    node = Node(node.rank, node.address, _port(node.port, _meetings))
    _meetings += 1
    place = {"rdzv_backend": "static", "rdzv_endpoint": f"{node.address}:{node.port}"}
    return node, {"run_id": "tlab", **place, "rdzv_configs": {"rank": node.rank, "timeout": RENDEZVOUS_TIMEOUT}}


def _port(first: int, meeting: int) -> int:
    """Return the port of rendezvous number `meeting` (from 0): one of `PORTS`, or counted from the user's own."""
    if first not in PORTS:
        return first + meeting
    return PORTS[(first - PORTS.start + STRIDE * meeting) % len(PORTS)]


def _number(name: str) -> int:
    try:
        return int(os.environ.get(name, "1"))
    except ValueError as error:
        raise UserError(f"{name}={os.environ[name]} is not a number; see docs/pages/clusters.md") from error
