"""Hand a loader mutated inputs: ``python tests/tools/fuzz_loaders.py LOADER FILE COUNT [SEED]``.

A policy's actions are inputs, too: ``python tests/tools/fuzz_loaders.py action FOLDER COUNT``.

FILE is a good input, or the folder of one. Each mutant must be loaded, or refused with one of the
errors that the loader's docstring names. Anything else ends the process: another error, code that
runs, a file that is written, a connection, too much time or memory.
"""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

import komo_envs  # noqa: F401 - registers the ids
from benchmark.records.result import load_result
from benchmark.records.submission import load_row
from benchmark.reporting.report_page import report_page
from experts.dataset.format import DemoFile
from komo_envs.control import ActionError, Controller
from komo_envs.tasks.push import Push
from policies.external import remote
from policies.student.checkpoint import load_checkpoint
from policies.student.onnx_student import OnnxStudent

SECONDS, BYTES = 10.0, 3 * 2**30
"""What one input may take, and what the process may take beyond what it has at the start."""

FORBIDDEN = ("pickle.find_class", "os.", "subprocess.", "socket.connect", "shutil.")
"""Audited events that no loader has a reason for. Opening a file to write it is another."""
HARMLESS = ("os.listdir", "os.scandir", "os.putenv", "os.unsetenv")


class Evil:
    """A pickle of it would run a command."""

    def __reduce__(self) -> Any:
        return (print, ("a pickle was run",))


class Odd:
    """An object that becomes an array in a way of its own."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __array__(self, *_: Any, **__: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Mute(Exception):
    """An error that has no message."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


def around_itself() -> list[Any]:
    """A list that holds itself."""
    around: list[Any] = [0.0]
    around.append(around)
    return around


def tensors() -> list[Any]:
    """Tensors that numpy cannot take."""
    import torch

    zeros = torch.zeros(3)
    return [
        *(zeros.clone().requires_grad_(), zeros.bfloat16(), zeros.to("meta"), zeros.to_sparse()),
        *(torch.zeros(3, dtype=torch.complex64).conj(), zeros.to(torch.float8_e4m3fn)),
    ]


NO_ACTIONS: list[Any] = [
    *([1, [2, 3], 4], around_itself(), [10**400, 0, 0], {"action": [0, 0, 0]}, {1, 2, 3}, "abc"),
    *(
        None,
        print,
        iter([0, 0, 0]),
        (0,) * 4,
        [[0, 0, 0]],
        b"abc",
        [1j, 0, 0],
        [True] * 3,
        ["0"] * 3,
    ),
    *(np.ma.masked_array([0.0, 0, 0], [True, False, False])),
    *(np.zeros(3, [("a", float)]), np.zeros(3, "M8[s]"), np.zeros(3, "m8[s]"), np.zeros(3, "V8")),
    *(np.array([None, 1, 2]), np.broadcast_to(0.0, (10**12,)), np.array([np.nan, 0, 0])),
    *(np.zeros((0, 3)), np.array([0, np.inf, 0]), np.array(["x", "y", "z"]), np.zeros(())),
    *(Odd("garbage"), Odd(None), Odd(np.zeros(4)), Odd(Mute()), Odd(RuntimeError("x" * 10**7))),
    *(Odd(ValueError("\ud800\0\x1b[31m")), [Odd(KeyError(1))] * 3, Odd(MemoryError())),
]
"""Values that a policy may return in place of the three numbers of an action."""


STRANGE: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), -0.5, ""),
    *("../../../tmp/evil", "/etc/passwd", "a\nb", "\0", "x" * 100_000, "__import__('os')"),
    *("\ud800", [], {}, [[]], [None], {"": None}, [0] * 10_000, {"__class__": "os"}),
]


def strange(rng: random.Random) -> Any:
    """One of those, a copy."""
    return copy.deepcopy(rng.choice(STRANGE))


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A copy with one to three parts exchanged, dropped, doubled or put in."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randint(1, 3)):
        parent, key, part = None, None, value
        while isinstance(part, dict | list) and part and rng.random() < 0.85:
            keys = list(part) if isinstance(part, dict) else range(len(part))
            parent, key = part, rng.choice(keys)
            part = parent[key]
        if parent is None:
            value = strange(rng)
            if not isinstance(value, dict | list):
                return value
            continue
        kind = rng.randrange(5)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(key, part)
        elif kind == 2 and isinstance(parent, dict):
            parent[str(strange(rng))[:50]] = strange(rng)
        elif kind == 3 and type(part) in (int, float) and abs(part) < 1e300:
            parent[key] = rng.choice([part + 1, -part, part * 2**40, part / 3, str(part)])
        else:
            parent[key] = strange(rng)
    return value


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A copy that is cut, or has some bytes changed, put in, doubled or dropped."""
    kind = rng.randrange(8)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return pickle.dumps(Evil())
    if kind == 2:
        return rng.randbytes(rng.randrange(2000))
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 20)):
        # Heads say more than bodies do.
        end = len(mutant) if rng.random() < 0.5 else min(len(mutant), 2048)
        at = rng.randrange(max(end, 1))
        if kind == 3:
            mutant[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7])
        elif kind == 4:
            mutant[at:at] = rng.randbytes(rng.randrange(16))
        elif kind == 5:
            del mutant[at : at + rng.randrange(16)]
        else:
            mutant[at : at + 1] = rng.randbytes(1)
    return bytes(mutant)


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """A mutant of a JSON file: of its values, mostly, or of its bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    if rng.random() < 0.02:
        return b"[" * 100_000
    mutant = mutate_json(json.loads(data), rng)
    return json.dumps(mutant).encode("utf-8", "surrogatepass")


def mutate_file(folder: Path, rng: random.Random) -> None:
    """Exchange one file of the input for a mutant of it."""
    file = rng.choice(sorted(folder.iterdir()))
    mutate = mutate_text if file.suffix == ".json" else mutate_bytes
    file.write_bytes(mutate(file.read_bytes(), rng))


def mutate_message(folder: Path, rng: random.Random) -> None:
    """A mutant of the message that is kept as JSON, as it would be sent."""
    file = folder / "message.json"
    good = json.loads(file.read_text())
    array = remote.encode_array(np.arange(6, dtype=np.float32).reshape(2, 3))
    data = msgpack.packb({**good, "action": array})
    if rng.random() < 0.6:
        mutant = mutate_json(good, rng)
        if isinstance(mutant, dict) and isinstance(mutant.get("action"), dict):
            mutant["action"].setdefault("data", rng.choice([array["data"], b""]))
        with contextlib.suppress(OverflowError, ValueError, UnicodeEncodeError):
            data = msgpack.packb(mutant)  # what cannot be sent is not
    else:
        data = mutate_bytes(data, rng)
    file.write_bytes(data)


def load_report(folder: Path) -> None:
    """A result, and what its page is made of."""
    report_page(load_result(folder / "result.json"), folder)


def load_demos(folder: Path) -> None:
    with DemoFile(folder / "demos.h5") as file:
        for index in range(min(len(file), 3)):
            _ = file[index]


def load_message(folder: Path) -> None:
    said = remote.unpack((folder / "message.json").read_bytes())
    remote.read_hello(said)
    remote.decode_array(said.get("action"))


def mutate_action(folder: Path, rng: random.Random) -> None:
    """Which of those that are no actions is taken, or an array of odd numbers, by a seed."""
    (folder / "action.json").write_text(str(rng.randrange(2**31)))


def load_action(folder: Path) -> None:
    rng = random.Random(int((folder / "action.json").read_text()))
    bad = [*NO_ACTIONS, *tensors()]
    action = rng.choice(bad)
    if rng.random() < 0.3:
        dtype = rng.choice(["f2", "f4", "f8", "g", "i1", "u8", "?", "c8", "O", "S3", "U3"])
        data = np.frombuffer(rng.randbytes(4096), np.uint8)[: 8 * rng.randint(0, 5)]
        action = data.astype(dtype)[: rng.randint(0, 4)]
        if dtype in ("f2", "f4", "f8") and rng.random() < 0.5:
            action = data.view(dtype)[: rng.randint(2, 4)]
    elif rng.random() < 0.2:  # a batch of what is none
        action = [action] * 3
    checked = Controller(Push(), "ee_delta").check(action)
    if checked.shape != (3,) or checked.dtype != float or not np.isfinite(checked).all():
        raise SystemExit(f"{action!r:.200} was let pass as {checked!r:.200}")


Mutate = Callable[[Path, random.Random], None]
Load = Callable[[Path], object]
LOADERS: dict[str, tuple[Mutate, Load, type[Exception]]] = {
    "result": (mutate_file, load_report, ValueError),
    "row": (mutate_file, load_row, ValueError),
    "checkpoint": (mutate_file, load_checkpoint, ValueError),
    "onnx": (mutate_file, lambda folder: OnnxStudent(folder / "student.onnx"), ValueError),
    "demos": (mutate_file, load_demos, ValueError),
    "message": (mutate_message, load_message, remote.RemoteError),
    "action": (mutate_action, load_action, ActionError),
}


def main() -> None:
    name, good, count, *seed = sys.argv[1:]
    mutate, load, refusal = LOADERS[name]
    rng = random.Random(int(*seed) if seed else 0)
    refused, watching = 0, False

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & {*"wax+"}
        acts = event.startswith(FORBIDDEN) and not event.startswith(HARMLESS)
        if writes or acts:
            raise SystemExit(f"{name}: {event} {arguments!r:.200}")

    # What a first time does, imports and caches, is no input's doing. And mutants of what is no
    # good would all be refused for one reason.
    # A message is not packed yet; a seed's action may be bad.
    with contextlib.suppress(*[refusal] if name in ("message", "action") else []):
        load(Path(good))
    sys.addaudithook(audit)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "input"
        for number in range(int(count)):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(good, folder)
            mutate(folder, rng)
            started = time.monotonic()
            watching = True
            try:
                load(folder)
            except refusal:
                refused += 1
            except Exception as error:
                raise SystemExit(
                    f"{name}, input {number}: {type(error).__name__}: {error!s:.300}"
                ) from error
            finally:
                watching = False
            if time.monotonic() - started > SECONDS:
                raise SystemExit(f"{name}, input {number}: took {time.monotonic() - started:.0f} s")
    print(f"{name}: {count} inputs, {refused} refused, {int(count) - refused} loaded")


if __name__ == "__main__":
    main()
