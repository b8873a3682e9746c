"""A policy in another process, or on another machine, over TCP.

A policy whose dependencies conflict with others runs in its own Python environment so;
``examples/policy_server.py`` is a server to copy. A message is its length (four bytes, big-endian)
and so many bytes of MessagePack: a map. An array in it is a map of ``dtype``, ``shape`` and
``data``, the elements in C order. The server answers each request of the client:

=================================================  ===============================================
``{"type": "hello", "version": 1, "env": ID}``     ``{"type": "hello", "version": 1, "name": ...,
                                                   "sha256": ..., "privileged": ..., "env_options":
                                                   {...}}``
``{"type": "seed", "seed": N}``, before episodes   ``{"type": "ok"}``
``{"type": "predict", "observation": {...},        ``{"type": "action", "action": ARRAY}``
"start": whether an episode begins}``
=================================================  ===============================================

or ``{"type": "error", "message": ...}``. Messages are checked, and never executed.
"""

from __future__ import annotations

import math
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from policies.base import ENV_OPTIONS
from policies.spec import REMOTE

VERSION = 1
MAX_BYTES = 2**26
"""Size limit of a message; a longer one is refused before it is read."""
DTYPES = ("bool", "uint8", "uint16", "int32", "int64", "float32", "float64")
HELLO_SECONDS = 10.0


class RemoteError(RuntimeError):
    """The server reported an error, or sent an invalid message, or none."""


class RemotePolicy:
    """A policy on a server.

    Args:
        address: ``"tcp://HOST:PORT"``.
        env_id: The env in which the policy will act.

    Raises:
        ValueError: There is no server, or it sends no valid answer.
    """

    def __init__(self, address: str, env_id: str) -> None:
        self.address = address
        try:
            self._socket = socket.create_connection(split(address), timeout=HELLO_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            hello = self._ask({"type": "hello", "version": VERSION, "env": env_id}, "hello")
            self._socket.settimeout(None)  # episodes have a time limit elsewhere
            self.name, self.sha256, self.privileged, self.env_options = read_hello(hello)
        except (OSError, RemoteError) as error:
            raise ValueError(f"policy {address}: {error}") from error

    def set_random_seed(self, seed: int) -> None:
        """Seed the policy, before every episode."""
        self._ask({"type": "seed", "seed": seed}, "ok")

    def predict(
        self,
        obs: Mapping[str, Any],
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Any]:
        """The action for one observation.

        Raises:
            RemoteError: The server sends no action.
        """
        start = state is None or (episode_start is not None and bool(episode_start.any()))
        asked = {"type": "predict", "observation": encode(obs), "start": start}
        answer = self._ask(asked, "action")
        return decode_array(answer.get("action")), True

    def _ask(self, message: Mapping[str, Any], expected: str) -> dict[str, Any]:
        try:
            send(self._socket, message)
            answer = receive(self._socket)
        except OSError as error:
            raise RemoteError(f"{self.address}: {error}") from error
        if answer.get("type") == "error":
            raise RemoteError(f"the server says: {str(answer.get('message'))[:200]}")
        if answer.get("type") != expected:
            raise RemoteError(f"the answer is {answer.get('type')!r:.50}; expected {expected!r}")
        return answer


def split(address: str) -> tuple[str, int]:
    """Host and port of ``"tcp://HOST:PORT"``.

    Raises:
        ValueError: The address has another form.
    """
    host, colon, port = address.removeprefix(REMOTE).rpartition(":")
    if not (address.startswith(REMOTE) and colon and host and port.isdecimal()):
        raise ValueError(f"policy {address}: expected tcp://HOST:PORT")
    return host, int(port)


def read_hello(hello: Mapping[str, Any]) -> tuple[str, str, bool, dict[str, Any]]:
    """Name, sha256, ``privileged`` and ``env_options`` in a server's first answer.

    Raises:
        RemoteError: A field is invalid.
    """
    name, sha256, options = hello.get("name"), hello.get("sha256"), hello.get("env_options", {})
    if hello.get("version") != VERSION:
        raise RemoteError(f"version {hello.get('version')!r:.20}: expected {VERSION}")
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
        raise RemoteError(f"name {name!r:.80}: expected a line of text")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise RemoteError(f"sha256 {sha256!r:.80}: expected 64 hexadecimal digits")
    if not isinstance(hello.get("privileged"), bool):
        raise RemoteError(f"privileged {hello.get('privileged')!r:.20}: expected a boolean")
    if not isinstance(options, dict) or not set(options) <= set(ENV_OPTIONS):
        raise RemoteError(f"env_options {options!r:.80}: expected some of {', '.join(ENV_OPTIONS)}")
    tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    return name, sha256, hello["privileged"], tuples


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a message.

    Raises:
        OSError: The connection failed.
    """
    data = msgpack.packb(message)
    connection.sendall(struct.pack(">I", len(data)) + data)


def receive(connection: socket.socket) -> dict[str, Any]:
    """The next message.

    Raises:
        RemoteError: The message is too long, or invalid.
        OSError: The connection failed.
    """
    (length,) = struct.unpack(">I", _exactly(connection, 4))
    if length > MAX_BYTES:
        raise RemoteError(f"a message of {length} bytes; expected at most {MAX_BYTES}")
    return unpack(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(length - len(data), 2**20))
        if not part:
            raise RemoteError("the connection was closed")
        data += part
    return bytes(data)


def unpack(data: bytes) -> dict[str, Any]:
    """The message in ``data``.

    Raises:
        RemoteError: The bytes are no message.
    """
    try:
        message = msgpack.unpackb(data, max_ext_len=0, strict_map_key=True)
    except Exception as error:  # of several kinds, none of which is msgpack's own
        raise RemoteError(f"no message: {type(error).__name__}: {error}") from error
    if not isinstance(message, dict):
        raise RemoteError(f"a message is a {type(message).__name__}; expected a map")
    return message


def encode(obs: Mapping[str, Any]) -> dict[str, Any]:
    """An observation, of arrays and dicts of arrays, as part of a message."""
    return {
        key: encode(value) if isinstance(value, Mapping) else encode_array(np.asarray(value))
        for key, value in obs.items()
    }


def encode_array(array: NDArray[Any]) -> dict[str, Any]:
    """An array as part of a message."""
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": array.tobytes()}


def decode_array(value: Any) -> NDArray[Any]:
    """The array in a message.

    Raises:
        RemoteError: The value is no array.
    """
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data"}:
        raise RemoteError(f"{value!r:.80}: expected an array: dtype, shape and data")
    dtype, shape, data = value["dtype"], value["shape"], value["data"]
    if dtype not in DTYPES:
        raise RemoteError(f"dtype {dtype!r:.20}: expected one of {', '.join(DTYPES)}")
    whole = isinstance(shape, list) and len(shape) <= 8
    if not whole or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise RemoteError(f"shape {shape!r:.80}: expected a list of sizes")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise RemoteError(f"data: expected the bytes of {dtype} {shape}")
    return np.frombuffer(data, dtype).reshape(shape).copy()
