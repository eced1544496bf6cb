import re
import subprocess
import sys

from featurestore.core.request_ids import new_request_id

FORKING = """
import os
from featurestore.core.request_ids import new_request_id
new_request_id()
child = os.fork()
os.write(1, f"{new_request_id()}\\n".encode())
if child:
    os.waitpid(child, 0)
"""


def test_every_request_has_a_name_of_its_own():
    names = [new_request_id() for _ in range(1000)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


def test_a_forked_process_gives_other_names():
    done = subprocess.run([sys.executable, "-c", FORKING], check=True, capture_output=True, text=True)
    own, childs = done.stdout.split()
    assert own[:16] != childs[:16]
