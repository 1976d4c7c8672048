"""A SLURM of two nodes on this machine, as Debian has it: munge, slurmctld and two slurmd (`slurm-wlm`, `munge`)."""

import os
import secrets
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "squeue")
CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MessageTimeout=60
SchedulerParameters=batch_sched_delay=1,sched_interval=5
KillWait=30
NodeName={names[0]} NodeHostname={names[0]} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName={names[1]} NodeHostname={names[1]} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """The programs that are not installed; slurmd must be started by root."""
    return [name for name in PROGRAMS if shutil.which(name) is None] or (["root"] if os.geteuid() else [])


class Slurm:
    """Its commands are called with `environment`."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        folder.chmod(0o755)
        for name in ("state", "logs"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o400)
        self.names = (socket.gethostname(), f"{socket.gethostname()}-b")  # the first one must lead to a machine
        conf = CONF.format(folder=folder, host=socket.gethostname(), names=self.names, ports=_ports(3))
        (folder / "slurm.conf").write_text(conf)
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
        options = [f"--{option}={folder / file}" for option, file in (files | {"seed-file": "munge.seed"}).items()]
        self.start("munged", "--foreground", "--force", *options)
        _until((folder / "munge.socket").exists)
        self.start("slurmctld", "-D")
        for name in self.names:
            self.start("slurmd", "-D", "-N", name)
        _until(lambda: self.run("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"])

    def start(self, *command):
        with (self.folder / "logs" / f"{command[0]}-{len(self.processes)}").open("w") as log:
            self.processes.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def run(self, *command):
        """What a command prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout.strip()

    def state(self, job):
        """RUNNING, PENDING, COMPLETED, ..."""
        found = self.run("scontrol", "show", "job", str(job), "-o")
        return found.partition("JobState=")[2].split(" ")[0]

    def stop(self):
        self.run("scancel", "--user=root")
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _until(ready, seconds=120):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.2)
