"""How the tests run Python where the package is not installed, and where the Hub is a server of theirs."""

import subprocess
import sys
import sysconfig


# Without `site`, the file that the editable installation has put into site-packages is not read: what is in there can be
# imported, and this package cannot.
WITHOUT_PACKAGE = [sys.executable, "-S", "-P"]
PROOF = """
try:
    import flower_ddim
except ModuleNotFoundError:
    print("flower_ddim is not installed")
"""


def environment_of(home, hub=None, installed=True):
    """Variables of a process with an empty cache of its own, which is offline unless it is given the address of a Hub."""
    environment = {"PATH": "", "HOME": str(home), "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1"} if hub else {"HF_HUB_OFFLINE": "1"}
    return environment if installed else environment | {"PYTHONPATH": sysconfig.get_path("purelib")}


def run_python(code, *arguments, home, installed=True, hub=None, **environment):
    """Runs code in a fresh process with an empty cache of its own; returns it completed.

    Args:
        home: folder of the cache.
        installed: whether the package can be imported there.
        hub: address of the Hub, without which the process is offline.
        environment: further variables.
    """
    command = [sys.executable, "-c", code] if installed else [*WITHOUT_PACKAGE, "-c", PROOF + code]
    completed = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=home,
        env=environment_of(home, hub, installed) | environment,
    )
    if not installed:
        assert completed.stdout.startswith("flower_ddim is not installed"), completed.stderr
    return completed
