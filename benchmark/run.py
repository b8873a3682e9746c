"""Score a policy: ``python -m benchmark.run --policy expert``."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

from benchmark.evaluation.display import show_scores, summary
from benchmark.evaluation.episode_log import EpisodeLog
from benchmark.evaluation.rollout import Evaluator
from benchmark.evaluation.session import (
    RunOptions,
    backend_options,
    finish_run,
    is_finished,
    open_run,
)
from benchmark.records.submission import RESULT
from benchmark.reporting.highlights import REPORT, VIDEOS
from komo_envs.utils.cli import fail, parse, plain, printing
from komo_envs.utils.progress import waiting
from komo_envs.utils.workers import WorkerError

MODULE = "benchmark.run"


@dataclass(frozen=True, kw_only=True)
class Arguments(RunOptions):
    """Score a policy. The same command with the same --out resumes an interrupted run."""


def main() -> None:
    """Run the command."""
    options = parse(Arguments, MODULE, repeatable=("--env",))
    try:
        # The operator of a real robot is asked meanwhile.
        with waiting("loading") if options.backend != "real" else contextlib.nullcontext():
            log, cluster = open_run(options, MODULE)
    except (ValueError, OSError, ImportError) as error:
        fail(MODULE, error)
    except RuntimeError as error:  # an environment could not be made
        fail(MODULE, f"{type(error).__name__}: {error}", code=1)
    except KeyboardInterrupt:
        fail(MODULE, "interrupted", code=130)
    file, page = log.folder / RESULT, log.folder / REPORT
    try:
        finished = is_finished(log, options.report)
        make_evaluator = partial(
            Evaluator,
            options.policy,
            trust_code=options.trust_code,
            options=backend_options(options, log.folder),
            device=options.device,
            sb3=options.sb3,
        )
        result = finish_run(log, make_evaluator, options.workers, cluster, options.report)
    except KeyboardInterrupt:
        fail(MODULE, f"interrupted; {_rest(log)}", code=130)
    except (WorkerError, OSError, ValueError) as error:
        fail(MODULE, f"stopped: {plain(error)}; {_rest(log)}", code=1)
    with printing(MODULE, f"{file} is complete"):
        if finished:
            print(f"{file} is already there, with the same configuration: nothing to do.")
        show_scores(result)
        print(f"Result: {file}")
        if page.exists():
            print(f"Report: {page}")
        if (videos := log.folder / VIDEOS).is_dir():
            print(f"Videos: {videos}")
        print(summary(result))


def _rest(log: EpisodeLog) -> str:
    return (
        f"{len(log.entries)} finished episodes are kept, "
        f"and the same command with --out {log.folder} goes on"
    )


if __name__ == "__main__":
    main()
