"""A server of a policy in its own environment: copy it, and fill in ``Policy``.

It needs NumPy and msgpack, and nothing of komo-envs. What goes over the wire is written down in
komo-envs' policies/external/remote.py.

    python policy_server.py                                                 # there
    python -m benchmark.run --policy tcp://127.0.0.1:5555 --env KomoPush-v0  # here
"""

import hashlib
import pathlib
import socketserver
import struct
import sys

import msgpack
import numpy as np

WEIGHTS = []  # the files of your network: [pathlib.Path("checkpoint.pt")]
FILES = [pathlib.Path(__file__), *WEIGHTS]


class Policy:
    """Yours. One is made for each connection."""

    name = "my policy"
    sha256 = hashlib.sha256(b"".join(map(pathlib.Path.read_bytes, FILES))).hexdigest()
    privileged = False  # whether it sees the state of the simulation
    env_options = {"obs_mode": "rgb", "control_mode": "ee_delta"}

    def __init__(self, env_id):
        self.generator = np.random.default_rng(0)

    def seed(self, seed):
        self.generator = np.random.default_rng(seed)

    def act(self, observation, start):
        """observation: dict of arrays; start: whether an episode begins; returns an array (A,)."""
        return self.generator.uniform(-1, 1, 3).astype(np.float32)


def decode(value):
    if set(value) == {"dtype", "shape", "data"}:
        return np.frombuffer(value["data"], value["dtype"]).reshape(value["shape"])
    return {key: decode(part) for key, part in value.items()}


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        policy = None
        while head := self.rfile.read(4):
            asked = msgpack.unpackb(self.rfile.read(struct.unpack(">I", head)[0]))
            try:
                if asked["type"] == "hello":
                    policy = Policy(asked["env"])
                    names = ("name", "sha256", "privileged", "env_options")
                    said = {name: getattr(policy, name) for name in names}
                    answer = {"type": "hello", "version": 1, **said}
                elif asked["type"] == "seed":
                    policy.seed(asked["seed"])
                    answer = {"type": "ok"}
                else:
                    action = policy.act(decode(asked["observation"]), asked["start"])
                    array = {"dtype": action.dtype.name, "shape": action.shape}
                    answer = {"type": "action", "action": {**array, "data": action.tobytes()}}
            except Exception as error:  # the episode fails, and the server goes on
                answer = {"type": "error", "message": f"{type(error).__name__}: {error}"}
            data = msgpack.packb(answer)
            self.wfile.write(struct.pack(">I", len(data)) + data)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 5555
    with Server(("127.0.0.1", port), Handler) as server:
        print(f"serving on tcp://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()
