"""Importing the package and asking for help must cost nothing."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_loads_no_torch_and_opens_nothing():
    out = run(
        "import sys\n"
        "import importlib, typing\n"
        "events = []\n"
        "def watch(event, arguments):\n"
        "    name = str(arguments[0])\n"
        "    own = event == 'open' and not name.endswith(('.py', '.pyc')) and 'dcpt' in name\n"
        "    if own or event.startswith('socket.'): events.append((event, str(arguments)))\n"
        "sys.addaudithook(watch)\n"
        "import dcpt\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'huggingface_hub', 'click') if m in sys.modules], events)"
    )
    assert out.strip() == "[] []"


def test_the_command_line_shows_its_help_without_torch():
    out = run(
        "import sys\nfrom dcpt.cli import main\nmain(['--help'], standalone_mode=False)\nprint('torch' in sys.modules)"
    )
    assert "restore" in out and out.strip().endswith("False")
