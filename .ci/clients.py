#!/usr/bin/env python3
"""Runs the recipes of docs/clients.md, so that none of them goes stale: `.ci/clients.py [JOBMILL [SECTION…]]`.

JOBMILL is the program; without it, the one in target/. Sections are named by their headings, such as `Go`; by default
all are run. Each gets an empty folder with a copy of `proto/` and a server of its own, in memory, whose configuration
is the document's `jobmill.toml`. Its blocks are processed in order: one with a title is written to the file of that
name, one of `sh` is run verbatim, unless a comment on the line before it changes that:

    <!-- ci: client -->  runs the client twice with the same request id, and checks what it prints. The first time its
                         connection is cut in the middle of the watch, and the next ones are refused for a while; it
                         must then go on with a token of that watch.
    <!-- ci: worker -->  runs the worker of the kind `words` beside a server with a data folder, which is stopped,
                         killed and started again under it, and checks how its jobs end
    <!-- ci: dotnet -->  needs `dotnet`; where that is missing, the section's stubs are generated with protoc alone

Any other tool that is missing is an error.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

DOCUMENT = "docs/clients.md"
BLOCK = re.compile(r'(?:<!-- ci: (?P<how>[^>]*?) -->\n)?```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n'
                   r"(?P<code>.*?)\n```", re.S)
SECONDS_MAX = 300
# Time for which connections are refused after the cut, so that a client has to retry more than once.
REFUSED_SECONDS = 0.5
# A protoc whose C# generator replaces that of Grpc.Tools: the same code, without .NET.
PROTOC = ["npx", "--yes", "protoc@36.2.0"]

# A resume token within the bytes of a message. The match may include the byte before it, which is the token's length
# and so the same in every message that has the token.
TOKEN = re.compile(rb"[A-Za-z0-9_-]{60,}")

# The output of a client, without underscores and in lower case, since each language spells enums in its own way.
EXPECTED = [
    r"{outcome} \w+",
    r"succeeded: 6$",
    r"invalidargument: job\.priority: is 1000",
    r"reason invalidrequest",
    r"field job\.priority: is 1000",
    r"notfound: no queue is named `nowhere`",
    r"reason queuenotfound .*queue.*nowhere",
]


class Link:
    """A proxy to the server whose connections can be cut."""

    def __init__(self, target):
        self.target = target
        self.open = []
        # Bytes from the client and from the server, since the cut if there was one.
        self.asked, self.told = bytearray(), bytearray()
        # Resume tokens that the server sent before the cut, without that of the answer to the submission.
        self.tokens = []
        self.refused_until = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                if time.monotonic() < self.refused_until:
                    reset(client)
                    continue
                server = socket.create_connection(("127.0.0.1", self.target))
                self.open += [client, server]
                for way in (client, server, self.asked), (server, client, self.told):
                    threading.Thread(target=forward, args=way, daemon=True).start()

    def cut(self):
        self.refused_until = time.monotonic() + REFUSED_SECONDS
        for end in self.open:
            reset(end)
        self.open.clear()
        self.tokens = TOKEN.findall(self.told)[1:]
        self.asked.clear()
        self.told.clear()

    def went_on(self):
        return any(token in self.asked for token in self.tokens)

    def close(self):
        self.listener.close()
        self.cut()


def reset(end):
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Wakes the reading thread, which would keep the socket open.
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def forward(source, sink, record):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            record += data
            sink.sendall(data)
    reset(source)
    reset(sink)


@contextlib.contextmanager
def served(program, folder, store=("--memory",), port=0, end=signal.SIGTERM):
    """A server, by default in memory; yields its port."""
    command = [program, "serve", *store, "--config", "jobmill.toml", "--listen", f"127.0.0.1:{port}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("JOBMILL_")}
    server = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in server.stdout:
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
                break
        else:
            sys.exit("the server did not start")
        # Later log lines must not fill the pipe.
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield int(found[1])
    finally:
        server.send_signal(end)
        server.wait(60)


def run(code, folder, env):
    print(code, flush=True)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=env, stdin=subprocess.DEVNULL,
                          timeout=SECONDS_MAX)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode} of:\n{code}")


def run_client(code, folder, env, link, outcome, to_cut):
    """Runs the client, cuts its connection once it tells that the job runs, and checks what it prints."""
    client = subprocess.Popen(["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True, start_new_session=True)
    timer = threading.Timer(SECONDS_MAX, os.killpg, (client.pid, signal.SIGKILL))
    timer.start()
    lines = []
    for line in client.stdout:
        print("    " + line.rstrip(), flush=True)
        lines.append(line.strip().replace("_", "").lower())
        if to_cut and "running" in lines[-1]:
            link.cut()
            to_cut = False
    timer.cancel()
    if (status := client.wait()) != 0:
        sys.exit(f"exit code {status} of:\n{code}")
    expected = [EXPECTED[0].format(outcome=outcome)] + EXPECTED[1:]
    if outcome == "created":
        expected.insert(1, "broken off; again with the token")
    remaining = iter(lines)
    for pattern in expected:
        if not any(re.search(pattern, line) for line in remaining):
            sys.exit(f"the client printed no line like {pattern!r}, or not in its place")
    if outcome == "created" and not link.went_on():
        sys.exit("the client did not go on with a token of its watch")


def run_worker(code, folder, env, program, server_folder):
    """Runs a worker while its server is stopped, killed and started again, and checks how its jobs end."""
    data = os.path.join(server_folder, "data")

    def server(**how):
        return served(program, server_folder, ("--data-dir", data), **how)

    def jobmill(port, *arguments):
        command = [program, "--server", f"127.0.0.1:{port}", "--output", "json", *arguments]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60).stdout)

    def submit(port, payload):
        # One attempt: a job that is lost, or that starts twice, does not succeed.
        return jobmill(port, "submit", "words", payload, "--max-attempts", "1")["submitted"]["id"]

    def expect(port, job_id, state, told):
        job = jobmill(port, "get", job_id, "--wait", "30s")
        text = job.get("lastFailure", {}).get("message") or job.get("result", {}).get("text")
        if (job["state"], text, job["attempt"]) != (f"JOB_STATE_{state}", told, 1):
            sys.exit(f"expected {state} and {told!r} of: {job}")
        print(f"    {state} {told}", flush=True)

    with contextlib.ExitStack() as stack:
        with server() as port:
            worker = subprocess.Popen(["bash", "-euo", "pipefail", "-c", code], cwd=folder, stdin=subprocess.DEVNULL,
                                      env={**env, "JOBMILL_ADDRESS": f"127.0.0.1:{port}"}, stdout=subprocess.PIPE,
                                      text=True, start_new_session=True)
            timer = threading.Timer(SECONDS_MAX, os.killpg, (worker.pid, signal.SIGKILL))
            timer.start()
            stack.callback(timer.cancel)
            good, bad, cancelled = submit(port, "to be or"), submit(port, ""), submit(port, "long " * 60)
            long = submit(port, "long " * 15)
            expect(port, bad, "FAILED", "ValueError: no words")
            expect(port, good, "SUCCEEDED", "3")
            jobmill(port, "cancel", cancelled)
            expect(port, cancelled, "CANCELLED", "InterruptedError: asked to stop")
            short = submit(port, "not to be")
            while jobmill(port, "get", short)["state"] != "JOB_STATE_RUNNING":
                time.sleep(0.05)
        # It ends while no server is there; the worker keeps its report.
        if not any(short in line for line in worker.stdout):
            sys.exit("the worker has ended")
        with server(port=port, end=signal.SIGKILL):
            expect(port, short, "SUCCEEDED", "3")
            if (job := jobmill(port, "get", long))["state"] != "JOB_STATE_RUNNING":
                sys.exit(f"expected a running job: {job}")
        with server(port=port):
            expect(port, long, "SUCCEEDED", "15")
            os.killpg(worker.pid, signal.SIGTERM)
            for line in worker.stdout:
                print("    " + line.rstrip(), flush=True)
            if status := worker.wait(60):
                sys.exit(f"exit code {status} of a worker that was to end")


def run_section(name, text, configuration, program):
    start = time.monotonic()
    print(f"--- {DOCUMENT}: {name}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jobmill-clients-"))
        shutil.copytree("proto", os.path.join(folder, "proto"))
        server_folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jobmill-clients-"))
        write(server_folder, "jobmill.toml", configuration)
        link = Link(stack.enter_context(served(program, server_folder)))
        stack.callback(link.close)
        env = {**os.environ, "JOBMILL_ADDRESS": f"127.0.0.1:{link.port}"}
        clients = 0
        for block in BLOCK.finditer(text):
            how, code = block["how"], block["code"]
            if block["title"]:
                write(folder, block["title"], code)
            elif block["kind"] == "sh" and how == "dotnet" and not shutil.which("dotnet"):
                clients += 1
                run(" ".join([*PROTOC, "-I proto --csharp_out=. proto/jobmill/v1/*.proto"]), folder, env)
            elif block["kind"] == "sh" and how == "worker":
                print(code, flush=True)
                run_worker(code, folder, env, program, server_folder)
            elif block["kind"] == "sh" and how in ("client", "dotnet"):
                clients += 1
                print(code, flush=True)
                run_client(code, folder, env, link, "created", to_cut=True)
                run_client(code, folder, env, link, "repeated", to_cut=False)
            elif block["kind"] == "sh":
                run(code, folder, env)
        if clients != 1:
            sys.exit(f"{name} runs {clients} clients, expected one")
    print(f"--- {DOCUMENT}: {name} took {time.monotonic() - start:.0f} s", flush=True)


def write(folder, name, text):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def find_program():
    for path in "target/release/jobmill", "target/debug/jobmill":
        if os.path.exists(path):
            return path
    sys.exit("no program in target/: build it, or name it")


def main():
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else find_program())
    with open(DOCUMENT, encoding="utf-8") as file:
        head, *sections = re.split(r"^## (.+)\n", file.read(), flags=re.M)
    sections = dict(zip(sections[::2], sections[1::2]))
    configuration = next(block["code"] for block in BLOCK.finditer(head) if block["title"] == "jobmill.toml")
    # Sections without an `sh` block have no recipe.
    recipes = {name: text for name, text in sections.items() if "```sh" in text}
    for name in sys.argv[2:] or recipes:
        run_section(name, recipes[name], configuration, program)


main()
