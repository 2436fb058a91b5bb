"""What ``peers/`` offers for deploying: the systemd unit, the Slurm template, and network namespaces."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from decentra.groups import fresh_identities, write_folder
from decentra.simulation.group import charter_for
from decentra.transport.zeromq import FILES_WANTED
from starting import PROGRAMS

PEERS = Path(__file__).resolve().parent.parent / "peers"
UNIT = PEERS / "decentra@.service"


def test_the_unit_runs_a_peer_as_its_own_user_and_lets_it_leave_its_group() -> None:
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    assert service["ExecStart"].split()[1:] == [
        "run", "${PROGRAM}", "--state", "/var/lib/decentra/%i", "--json", "--", "$ARGUMENTS"
    ]  # fmt: skip
    assert (service["StateDirectory"], service["StateDirectoryMode"]) == ("decentra/%i", "0700")
    assert service["User"] != "root" and service["UMask"] == "0077"
    assert int(service["LimitNOFILE"]) >= FILES_WANTED
    assert (service["KillSignal"], service["SuccessExitStatus"]) == ("SIGTERM", "143")
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2")


def test_systemd_itself_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/decentra/bin/decentra", "/bin/true"))
    command = [analyze, "verify", str(here)] if analyze else [sys.executable, "-c", ""]  # the test above has the rest
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_slurm_template_gives_every_node_its_folder_and_the_addresses_of_the_others(tmp_path: Path) -> None:
    tools, folders = tmp_path / "tools", tmp_path / "folders"
    fakes = {
        "scontrol": "printf 'node1\\nnode2\\nnode3\\n'",
        "srun": 'shift; for SLURM_PROCID in 0 1 2; do export SLURM_PROCID; "$@"; done',
        "decentra": 'echo "$@" > "$4/ran"',
    }
    tools.mkdir()
    for tool, body in fakes.items():
        (tools / tool).write_text(f"#!/bin/bash\n{body}\n")
        (tools / tool).chmod(0o755)
    for number, name in enumerate(("alice", "bob", "carol")):
        (folders / str(number)).mkdir(parents=True)
        (folders / str(number) / "decentra.toml").write_text(f'[peer]\nname = "{name}"\nbind = "tcp://h:1"\n')
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_TMPDIR": str(tmp_path),
        "SLURM_CPUS_PER_TASK": "8",
    }
    command = ["bash", str(PEERS / "slurm.sbatch"), str(folders), "/bin/true", "--rounds", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert tomllib.loads((folders / "1" / "decentra.toml").read_text()) == {
        "peer": {"name": "bob", "bind": "tcp://0.0.0.0:7431", "advertise": "tcp://node2:7431"},
        "peers": {"alice": "tcp://node1:7431", "carol": "tcp://node3:7431"},
        "run": {"threads": 8},
    }
    ran = [(folders / str(number) / "ran").read_text() for number in range(3)]
    assert all(line.startswith("run ") and line.endswith("--json -- --rounds 3\n") for line in ran)


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({"unshare": "exit 1", "ip": ""}, "this machine does not permit network namespaces"),
        ({"unshare": ""}, "there is no ip here: install util-linux and iproute2"),
        ({"ip": ""}, "there is no unshare here: install util-linux and iproute2"),
    ],
)
def test_where_namespaces_cannot_be_had_the_script_says_why(tmp_path: Path, tools: dict[str, str], said: str) -> None:
    for tool, body in tools.items():
        (tmp_path / tool).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / tool).chmod(0o755)
    command = ["/bin/sh", str(PEERS / "namespaces.sh"), "2", "true"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr


def namespaces_can_be_had() -> bool:
    """Asked of the machine itself, and not of the script."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    ways = [["unshare", *how, "--net", "--mount", "true"] for how in ((), ("--user", "--map-root-user"))]
    return any(subprocess.run(one, capture_output=True).returncode == 0 for one in ways)


@pytest.mark.slow
def test_eight_peers_with_addresses_of_their_own_average_on_one_machine(tmp_path: Path) -> None:
    """Where namespaces cannot be had, the script has to say so instead, as in the test above, and be right."""
    members = fresh_identities(8)
    charter = charter_for(members, "secagg", template=None, protocol__initial_range=8.0, rounds__ready_deadline=120.0)
    for index, identity in enumerate(members):
        folder = write_folder(tmp_path / f"p{index}", identity, charter, [7431 + one for one in range(8)], index)
        text = folder.config.read_text()
        for one in range(8):
            text = text.replace(f"127.0.0.1:{7431 + one}", f"10.77.0.{one + 1}:7431")
        folder.config.write_text(text)
    run = [sys.executable, "-m", "decentra.cli", "run", str(PROGRAMS / "averaging.py"), "--state", f"{tmp_path}/p{{i}}"]
    apart = ["sh", "-c", f'exec "$@" > {tmp_path}/told-{{i}}', "peer"]
    command = ["sh", str(PEERS / "namespaces.sh"), "8", *apart, *run, "--", "{i}", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if done.returncode == 2:
        assert not namespaces_can_be_had()
        return
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line for index in range(8) for line in (tmp_path / f"told-{index}").read_text().splitlines()]
    rounds = [fact for fact in map(json.loads, lines) if fact["event"] == "round"]
    assert len(rounds) == 16
    for fact in rounds:
        assert fact["mean"] == pytest.approx(3.5, abs=1e-2) and len(fact["participants"]) == 8
