#!/usr/bin/env python3
"""Runs the commands of the documents, so that none of them goes stale.

A fenced block of `sh` is run verbatim in the repository's root, unless a comment on the line before it changes that:

    <!-- ci: background PORT -->  starts the block in the background and continues once the port of 127.0.0.1 answers
    <!-- ci: stop -->             runs nothing; ends all background blocks
    <!-- ci: exit N -->           the block must end with this exit code
    <!-- ci: skip REASON -->      the block is not run

All blocks of a document share a home folder of their own. The test command has a step of its own in `.ci/run`.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

FENCE = re.compile(r"(?:<!-- ci: (?P<how>[^>]*?) -->\n)?```sh\n(?P<code>.*?)```", re.S)
STOP = re.compile(r"<!-- ci: stop -->")
SECONDS_MAX = 300


def wait_for(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing answers at port {port}")


def stop(background):
    for process in background:
        os.killpg(process.pid, signal.SIGTERM)
    for process in background:
        process.wait(60)
    background.clear()


def steps(text):
    found = [(m.start(), m) for m in FENCE.finditer(text)] + [(m.start(), None) for m in STOP.finditer(text)]
    return [step for _, step in sorted(found, key=lambda step: step[0])]


def run(document):
    with open(document, encoding="utf-8") as file:
        text = file.read()
    home = tempfile.mkdtemp(prefix="jobmill-docs-")
    # The caller has built it: `cargo run --release` and `jobmill` are the same program.
    path = os.path.abspath("target/release") + os.pathsep + os.environ["PATH"]
    toolchain = {
        "CARGO_HOME": os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo")),
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", os.path.expanduser("~/.rustup")),
    }
    env = {**os.environ, **toolchain, "HOME": home, "PATH": path, "NO_COLOR": "1"}
    env = {name: value for name, value in env.items() if not name.startswith(("XDG_", "JOBMILL_"))}
    # Root's default data folder is not in its home.
    env["JOBMILL_DATA_DIR"] = os.path.join(home, "data")
    background, count = [], 0
    try:
        for step in steps(text):
            if step is None:
                stop(background)
                continue
            how, code = (step["how"] or "").split(), step["code"]
            if how[:1] == ["skip"] or code.startswith("cargo test"):
                continue
            print(f"--- {document}\n{code.rstrip()}", flush=True)
            command = ["bash", "-euo", "pipefail", "-c", code]
            count += 1
            if how[:1] == ["background"]:
                process = subprocess.Popen(command, env=env, start_new_session=True, stdin=subprocess.DEVNULL)
                background.append(process)
                wait_for(int(how[1]))
                continue
            expected = int(how[1]) if how[:1] == ["exit"] else 0
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, timeout=SECONDS_MAX)
            if done.returncode != expected:
                sys.exit(f"{document}: exit code {done.returncode}, expected {expected}, of:\n{code}")
    finally:
        stop(background)
        shutil.rmtree(home, ignore_errors=True)
    print(f"--- {document}: {count} blocks ran", flush=True)


for name in sys.argv[1:]:
    run(name)
