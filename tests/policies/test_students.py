"""Students: trained from real demonstrations, saved, loaded, scored, and gone on with."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from common import wait_for
from conftest import PROJECT, Command
from safetensors.torch import load_file, save_file

from experts.dataset.format import DemoFile
from komo_envs.suite import VALIDATION
from policies import load_policy
from policies.rollout import successes
from policies.spec import PRETRAINED
from policies.student import obstacle_map
from policies.student.actions import ActionEncoding
from policies.student.checkpoint import load_checkpoint
from policies.student.config import make
from policies.student.features import features_of
from policies.student.geometry import direction
from policies.student.policy import load_student
from policies.training.data import load_frames, open_features
from policies.training.learner import Learner

TINY = ("--steps", 10, "--n-eval-episodes", 1, "--num-demos", 3)


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory, command: Command) -> dict[str, Path]:
    """Some demonstrations of each task, with small pictures; of the shelf by two cameras."""
    folder = tmp_path_factory.mktemp("demos")
    files = {}
    tasks = {"push": ("KomoPush-v0", "front"), "shelf": ("KomoShelfHard-v0", "front", "wrist")}
    for name, (env_id, *cameras) in tasks.items():
        files[name] = folder / f"{name}.h5"
        done = command(
            *("experts.collect", "--env", env_id, "--episodes", 4, "--image-size", 48),
            *("--cameras", *cameras, "--out", files[name]),
        )
        assert done.returncode == 0, done.stderr
    return files


@pytest.fixture(scope="module")
def student(
    demos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, command: Command
) -> Path:
    """A student of push that has hardly learned anything."""
    out = tmp_path_factory.mktemp("student")
    done = command("policies.train", "--demos", demos["push"], "--out", out, *TINY)
    assert done.returncode == 0, done.stderr
    assert "validation episodes" in done.stdout
    return out / "seed0"


def learner(demos: Path, seed: int = 0, **options: Any) -> Learner:
    chosen = {"encoder": "resnet18", "modality": "rgb", "head": "transformer", **options}
    architecture, training = make("light", **chosen)
    modality = None if architecture.encoder == "state" else architecture.modality
    features = open_features([demos], chosen.get("control_mode"))
    frames = load_frames([demos], features, modality, architecture.n_obs_steps)
    return Learner(architecture, training, frames, features, seed)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("push", {"encoder": "state", "head": "transformer"}),
        ("shelf", {"encoder": "state", "head": "act"}),
        ("push", {"encoder": "state", "head": "diffusion", "denoiser": "transformer"}),
        ("shelf", {"encoder": "state", "head": "diffusion", "denoiser": "unet"}),
        ("push", {"modality": "rgb", "pooling": "grid"}),
        ("shelf", {"modality": "rgb", "pooling": "spatial_softmax", "use_image_features": False}),
        ("shelf", {"modality": "depth", "pooling": "grid", "map_encoder": True}),
        ("shelf", {"modality": "depth", "pooling": "average"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_a_batch_is_learned_by_heart(demos, task, options):
    trained = learner(demos[task], batch_size=4, color_jitter=0.0, depth_noise=0.0, **options)
    batch = trained.sample(np.random.default_rng(0))
    optimizer = torch.optim.AdamW(trained.student.parameters(), 1e-3)
    errors = []
    for _ in range(150):
        losses = trained.losses(batch)
        optimizer.zero_grad()
        (losses.actions + losses.state).backward()
        optimizer.step()
        errors.append(float(losses.actions.detach()))
    assert np.mean(errors[-10:]) < 0.3 * np.mean(errors[:5])


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("command_slice", [(0, 0), (2, 5)])
def test_decoding_is_the_inverse_of_encoding(command_slice, rotated):
    encoding = ActionEncoding(command_slice, rotated)
    rng = np.random.default_rng(0)
    shapes = ((6, 4, 3), (6, 5), (6, 2), (6, 2))
    actions, *given = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    encoded = encoding.encode(actions, *given)
    assert np.array_equal(encoded, actions) == (command_slice == (0, 0) and not rotated)
    decoded = encoding.decode(*map(torch.from_numpy, (encoded, *given)))
    np.testing.assert_allclose(decoded, actions, atol=1e-5)


def test_images_that_are_too_small_are_refused(tmp_path, command):
    small = ("--env", "KomoPush-v0", "--episodes", 2, "--image-size", 32, "--out")
    assert command("experts.collect", *small, tmp_path / "small.h5").returncode == 0
    done = command("policies.train", "--demos", tmp_path / "small.h5", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "--demos: have images of side 32; expected 48 or more" in done.stderr


def test_obstacles_are_known_in_any_order(demos):
    trained = learner(demos["shelf"], encoder="state", batch_size=4)
    batch = trained.sample(np.random.default_rng(0))
    state, goal = batch.state.flatten(0, 1), batch.goal.flatten(0, 1)
    (count, size), student = trained.features.object_slots, trained.student
    assert count == 2
    *own, first, second = state.split([state.shape[1] - 2 * size, size, size], 1)
    assert first.ne(second).any()
    # The target of the prediction.
    truth, exchanged = (
        student.target_map(state),
        student.target_map(torch.cat([*own, second, first], 1)),
    )
    assert torch.equal(truth, exchanged)
    assert obstacle_map.loss(torch.logit(truth.clamp(1e-6, 1 - 1e-6)), truth) < 1e-3
    assert obstacle_map.loss(torch.logit(truth.roll(1, 1).clamp(1e-6, 1 - 1e-6)), truth) > 0.1
    normalizer, start = student.state_normalizer, student.object_state_size
    mean, std = (part[start : start + 2] for part in (normalizer.mean, normalizer.std))
    ahead = direction(goal[:, :2] - state[:, :2])
    # The first sample is so far behind the start and to the right of it, in the mean cell's size.
    cell = (2 * obstacle_map.SPAN * std / (obstacle_map.CELLS - 1)).mean()
    left = torch.stack([-ahead[:, 1], ahead[:, 0]], -1)
    start = first[:, :2] - cell * (obstacle_map.AHEAD[0] * ahead + obstacle_map.LATERAL[0] * left)
    assert obstacle_map.sample_along(truth, start, ahead, mean, std)[:, 0].min() > 0.6


def test_the_map_encoder_learns_from_the_map_alone(demos):
    trained = learner(demos["shelf"], batch_size=2, map_encoder=True)
    student, batch = trained.student, trained.sample(np.random.default_rng(0))
    parts = (batch.images, batch.agent_pos, batch.goal, batch.state)
    images, agent_pos, goal, state = (part.flatten(0, 1) for part in parts)
    _, prediction = student.tokens(images, agent_pos, goal)
    names, parameters = zip(*student.named_parameters(), strict=True)

    def learns(error: torch.Tensor) -> set[str]:
        gradients = torch.autograd.grad(error, parameters, allow_unused=True, retain_graph=True)
        moved = zip(names, gradients, strict=True)
        return {name.split(".")[0] for name, gradient in moved if gradient is not None}

    assert learns(obstacle_map.loss(prediction.obstacle_logits, student.target_map(state))) == {
        "map_encoder",
        "surveyor",
    }
    assert learns(prediction.object_state.sum()) == {"encoder", "estimator"}


def test_a_seed_decides_the_weights(demos):
    def weights(seed: int) -> dict[str, torch.Tensor]:
        trained = learner(demos["shelf"], seed, batch_size=2)
        for _ in range(3):
            trained.advance()
        return trained.averaged.state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    demos, student, tmp_path, command
):
    words = ("policies.train", "--demos", demos["push"], "--out", tmp_path, *TINY)
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, words)], cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )
    wait_for((tmp_path / "seed0" / "state.pt").exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "seed0" / "policy.json").exists()
    done = command(*words)
    assert done.returncode == 0, done.stderr
    ours, theirs = (folder / "model.safetensors" for folder in (tmp_path / "seed0", student))
    assert ours.read_bytes() == theirs.read_bytes()
    assert not (tmp_path / "seed0" / "state.pt").exists()
    # Other options are another student.
    done = command(*words, "--n-obs-steps", 2)
    assert done.returncode == 2
    assert "architecture" in done.stderr
    assert ours.read_bytes() == theirs.read_bytes()


def test_where_cameras_stand_exactly_may_differ_from_what_a_student_knows(student):
    policy = load_student(student, "KomoPushRandomized-v0")
    together = {}
    for randomize in ("dynamics", "visual"):
        env = gym.make("KomoPush-v0", obs_mode="rgb", image_size=48, randomize=randomize)
        obs, _ = env.reset(seed=0)
        assert env.action_space.contains(policy.predict(obs)[0])
        together[randomize] = features_of(env.unwrapped, "KomoPush-v0").camera_pose_varies
        env.close()
    assert together == {"dynamics": False, "visual": True}


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_obs_steps": 4, "n_action_steps": 8}, {"temporal_ensemble_coeff": 0.01}],
    ids=lambda changes: "-".join(changes) or "as-trained",
)
def test_students_act_alike_however_they_are_asked(student, demos, tmp_path, changes):
    """Loaded twice, one by one or in a batch, with an episode that ends in between."""
    folder = tmp_path / "student"
    shutil.copytree(student, folder)
    break_card(folder, **{f"architecture__{name}": value for name, value in changes.items()})
    one, other = (load_student(folder, "KomoPush-v0") for _ in range(2))
    with DemoFile(demos["push"]) as file:
        seen = [file[i].obs for i in range(2)]
    keys = ("pixels", "agent_pos", "goal")

    def observation(episode: int, step: int) -> dict[str, np.ndarray]:
        return {key: seen[episode][key][step] for key in keys}

    alone = []
    for episode in range(2):
        state, actions = None, []
        for step in range(12):
            action, state = one.predict(observation(episode, step), state, np.array([step == 0]))
            actions.append(action)
        alone.append(actions)
    state = None
    for step in range(15):  # the second episode begins three steps later, and anew
        rows = [observation(0, min(step, 11)), observation(1, max(step - 3, 0))]
        batch = {key: np.stack([row[key] for row in rows]) for key in keys}
        actions, state = other.predict(batch, state, np.array([step == 0, step == 3]))
        if step < 12:
            np.testing.assert_allclose(actions[0], alone[0][step], atol=1e-5)
        if step >= 3:
            np.testing.assert_allclose(actions[1], alone[1][step - 3], atol=1e-5)


def test_an_ensemble_is_the_mean_of_what_all_chunks_say(student, demos, tmp_path):
    folder = tmp_path / "student"
    shutil.copytree(student, folder)
    break_card(folder, architecture__n_action_steps=1)
    every = load_student(folder, "KomoPush-v0")
    break_card(folder, architecture__temporal_ensemble_coeff=0.01)
    mean = load_student(folder, "KomoPush-v0")
    with DemoFile(demos["push"]) as file:
        obs = file[0].obs
    chunks, states = [], (None, None)
    for step in range(10):
        seen = {key: obs[key][step] for key in ("pixels", "agent_pos", "goal")}
        _, first = every.predict(seen, states[0])
        action, second = mean.predict(seen, states[1])
        states = (first, second)
        chunks.append(first.chunks[0, 0])
        say = np.array([chunk[step - made] for made, chunk in enumerate(chunks) if step - made < 8])
        weights = np.exp(-0.01 * np.arange(len(say)))  # the oldest first
        wanted = (say * weights[:, None]).sum(0) / weights.sum()
        wanted = np.clip(wanted, mean.action_space.low, mean.action_space.high)
        np.testing.assert_allclose(action, wanted, atol=1e-5)


def test_a_student_is_scored(student, tmp_path, command):
    out = tmp_path / "run"
    words = (
        "benchmark.run",
        "--no-report",
        "--policy",
        student,
        "--env",
        "KomoPush-v0",
        "--episodes",
        2,
    )
    done = command(*words, "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["policy"]["name"] == "ResNet-18 RGB, transformer, preset light, 10 steps, seed 0"
    assert not result["policy"]["privileged"]
    assert result["policy"]["training"]["demonstrations"] == 3
    done = command(
        "benchmark.run",
        "--no-report",
        "--policy",
        student,
        "--env",
        "KomoShelf-v0",
        "--episodes",
        1,
    )
    assert done.returncode == 2
    assert "learned KomoPush-v0, and cannot act in KomoShelf-v0" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def break_card(folder: Path, **changes: Any) -> None:
    file = folder / "policy.json"
    card = json.loads(file.read_text())
    for path, value in changes.items():
        *parents, name = path.split("__")
        part = card
        for parent in parents:
            part = part[parent]
        part[name] = value
    file.write_text(json.dumps(card))


def break_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def first(weights: dict[str, torch.Tensor]) -> str:
    return sorted(weights)[0]


DAMAGES: dict[str, tuple[Any, str]] = {
    "no card": (lambda f: (f / "policy.json").unlink(), "policy.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "no JSON": (lambda f: (f / "policy.json").write_text("{"), "policy.json"),
    "foreign": (lambda f: (f / "policy.json").write_text('{"type": "act"}'), "policy.json"),
    "earlier version": (lambda f: break_card(f, version=1), "version: 1; expected 2"),
    "unknown head": (lambda f: break_card(f, architecture__head="mamba"), "architecture.head"),
    "huge": (lambda f: break_card(f, architecture__layers=10**9), "architecture.layers"),
    "another size": (lambda f: break_card(f, architecture__width=64), "expected shape"),
    "short stats": (lambda f: break_card(f, stats__goal__mean=[0.0]), "stats.goal"),
    "no stats": (lambda f: break_card(f, stats={}), "stats"),
    "cut off": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1000]
        ),
        "is damaged",
    ),
    "a pickle": (
        lambda f: torch.save({"x": torch.zeros(1)}, f / "model.safetensors"),
        "is damaged",
    ),
    "not finite": (
        lambda f: break_weights(f, lambda w: w[first(w)].fill_(float("nan"))),
        "expected finite float32",
    ),
    "one too few": (lambda f: break_weights(f, lambda w: w.pop(first(w))), "got None"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda name: name.replace(" ", "-"))
def test_a_damaged_checkpoint_is_one_clear_error(student, tmp_path, damage, command):
    folder = tmp_path / "student"
    shutil.copytree(student, folder)
    spoil, message = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_policy(str(folder), "KomoPush-v0")
    assert str(folder) in str(caught.value)
    if damage in ("no weights", "cut off"):  # the command says it in a line, and begins nothing
        words = ("--policy", folder, "--episodes", 1, "--out", tmp_path / "run")
        done = command("benchmark.run", *words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "model.safetensors" in done.stderr
        assert not (tmp_path / "run").exists()


def test_an_expert_takes_over_from_a_student(student, demos, tmp_path, command):
    file = tmp_path / "taken.h5"
    words = ("--policy", student, "--out", file, "--episodes", 2, "--first-seed", 500)
    done = command("policies.collect", *words)
    assert done.returncode == 0, done.stderr
    features = open_features([file], None)
    frames = load_frames([file], features, "rgb", 4)
    assert 0 < frames.loss_mask.sum() < len(frames)
    with DemoFile(file) as taken:
        assert [demo.seed for demo in taken] == [500, 501]
        assert "preset light" in taken.recipe["student"]
        lengths = [len(demo) - demo.intervention for demo in taken if demo.success]
        assert all(demo.intervention > 0 for demo in taken)
        assert frames.loss_mask.sum() == sum(lengths)
        # One that takes over late may run out of time.
        assert any(demo.success for demo in taken)
    words = ("--demos", demos["push"], file, "--encoder", "state", "--out", tmp_path / "second")
    done = command("policies.train", *words, *TINY)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "second" / "seed0" / "policy.json").read_text())
    used = {name: part["demonstrations"] for name, part in card["origin"]["demos"].items()}
    assert used == {"push.h5": 2, "taken.h5": 1}
    # A student of states is scored as one that sees more than a robot does.
    words = ("--env", "KomoPush-v0", "--episodes", 1, "--no-report", "--out", tmp_path / "run")
    done = command("benchmark.run", "--policy", tmp_path / "second" / "seed0", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["policy"]["privileged"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 so small that it knows nothing, saved as a real one is."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    folder = tmp_path_factory.mktemp("dinov2")
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


def test_a_student_with_dinov2(demos, backbone, tmp_path, command):
    words = ("--demos", demos["push"], "--encoder", "dinov2", "--backbone", backbone)
    done = command("policies.train", *words, "--out", tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    [cache] = demos["push"].parent.glob("push.h5.dinov2-*.npy")
    with DemoFile(demos["push"]) as file:
        assert np.load(cache).shape == (sum(len(demo) for demo in file), 32)
    policy = load_student(tmp_path / "seed0", "KomoPush-v0")
    env = gym.make("KomoPush-v0", **policy.env_options)
    observation, _ = env.reset(seed=0)
    action, _ = policy.predict(observation)
    env.close()
    assert env.action_space.contains(action)
    # Another backbone of the same size is not what it learned with.
    break_card(tmp_path / "seed0", architecture__backbone_sha256="0" * 64)
    with pytest.raises(ValueError, match="expected those that the student learned with"):
        load_student(tmp_path / "seed0", "KomoPush-v0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--demos", "nowhere.h5"), "nowhere.h5: expected a file of demonstrations"),
        (("--n-action-steps", 9), "n_action_steps 9: expected at most chunk_size, 8"),
        (("--seeds", 0, 0), "--seeds"),
        (("--num-demos", 5), "--num-demos 5: there are 4 demonstrations"),
        (
            ("--encoder", "dinov2", "--modality", "depth"),
            "modality depth: expected rgb with DINOv2",
        ),
        (("--encoder", "state", "--map-encoder", "True"), "map_encoder True: expected False"),
        (("--device", "abacus"), "--device abacus"),
        (("--cameras", "wrist"), "--cameras wrist: "),
    ],
    ids=lambda value: str(value[0]).strip("-") if isinstance(value, tuple) else "",
)
def test_what_cannot_be_trained_is_one_clear_error(demos, tmp_path, command, options, message):
    words: dict[str, object] = {"--demos": demos["push"], "--out": tmp_path / "out"}
    given = [str(word) for word in options]
    rest = [word for pair in words.items() if pair[0] not in given for word in pair]
    done = command("policies.train", *rest, *given)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("folder", sorted(PRETRAINED.iterdir()), ids=lambda folder: folder.name)
def test_a_shipped_student_does_as_its_card_says(folder):
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 10e6
    _, card = load_checkpoint(folder)
    policy = load_student(folder, card.features.env_id)
    env = gym.make(card.features.env_id, **policy.env_options)
    solved = sum(successes(policy, env, VALIDATION[:8]))
    env.close()
    rate = card.origin.validation[0] / card.origin.validation[1]
    assert solved >= 8 * rate - 2


def test_onnx_gives_the_same_actions(demos, tmp_path, command):
    env_id = "KomoShelfHard-v0"  # of two cameras, and with things around that are mapped
    words = ("--demos", demos["shelf"], "--head", "diffusion", "--modality", "depth")
    words = (*words, "--steps", 2, *TINY[2:])
    assert command("policies.train", *words, "--out", tmp_path).returncode == 0
    folder, file = tmp_path / "seed0", tmp_path / "student.onnx"
    break_card(folder, architecture__sampling_steps=1)  # each is a network of its own in the file
    done = command("policies.export_onnx", folder, "--out", file)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_student(path, env_id) for path in (folder, file))
    env = gym.make(env_id, **theirs.env_options)
    observation, _ = env.reset(seed=0)
    states = (None, None)
    for _ in range(5):
        actions = [ours.predict(observation, states[0]), theirs.predict(observation, states[1])]
        np.testing.assert_allclose(actions[0][0], actions[1][0], atol=1e-4)
        states = tuple(state for _, state in actions)
        observation, *_ = env.step(actions[1][0])
    env.close()
    done = command(
        "benchmark.run", "--no-report", "--policy", file, "--env", env_id, "--episodes", 1
    )
    assert done.returncode == 0, done.stderr
    file.write_bytes(file.read_bytes()[:1000])
    done = command(
        "benchmark.run", "--no-report", "--policy", file, "--env", env_id, "--episodes", 1
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "is no ONNX file" in done.stderr
