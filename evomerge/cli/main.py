"""Arguments and exit codes: done 0, our fault 1, the user's mistake 2, interrupted 130."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from evomerge import __version__
from evomerge.cli.extract import add_extract_lora
from evomerge.cli.trajectory import add_trajectory
from evomerge.errors import ResumableError, UserError
from evomerge.redact import redact

_EPILOG = """\
Start with `evomerge demo`. The same search command again resumes a search.
`evomerge COMMAND --help` tells a command's options.
"""


class _OneScreen(argparse.RawDescriptionHelpFormatter):
    """One line for each command, and none that only says COMMAND."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        self._action_max_length += 4  # argparse forgets that commands are indented
        return super()._format_action(action).partition("\n")[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    held = signal.getsignal(signal.SIGINT)
    if held is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        code: int = parsed.run(parsed) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        again = ""
        if isinstance(error, ResumableError):
            again = f". To go on: {_command(sys.argv[1:] if arguments is None else arguments)}"
        print(f"evomerge: error: {redact(' '.join(str(error).split()))}{again}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _interrupted(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if parsed.run not in (_search, _demo):
            return 0
        return _interrupted(sys.argv[1:] if arguments is None else arguments)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_foreign(error.name):
            print(
                f"evomerge: error: this command needs the package {error.name}, which is not "
                f"installed in {sys.prefix}: install evomerge again with all that it needs",
                file=sys.stderr,
            )
            return 2
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        print("evomerge: this is a fault of evomerge, not yours; please report it", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, held)


def _is_foreign(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] != "evomerge"


def _interrupted(arguments: Sequence[str]) -> int:
    again = _command(arguments)
    print(f"\nevomerge: interrupted; what was finished is kept. To go on: {again}", file=sys.stderr)
    return 130


def _command(arguments: Sequence[str]) -> str:
    return redact(shlex.join(["evomerge", *arguments]))


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does; a scheduler's SIGTERM leaves a run that resumes."""
    signal.signal(number, _leave)
    raise KeyboardInterrupt


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """The second time: at once. What is journalled is on the disk, and workers die with us."""
    os.write(2, b"\nevomerge: left at once; the same command resumes\n")
    os._exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evomerge",
        usage="evomerge [--help] [--version] COMMAND ...",
        description="Find the best way to merge a base model and several fine-tunes of it.",
        epilog=_EPILOG,
        formatter_class=_OneScreen,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    version = f"evomerge {__version__}"
    parser.add_argument("--version", action="version", version=version, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", prog="evomerge", required=True
    )

    demo = commands.add_parser("demo", help="train a small zoo and run a whole study on it")
    demo.add_argument("directory", nargs="?", type=Path, default=Path("demo"), metavar="DIR")
    demo.add_argument("--trials", type=_count, default=240, help="recipes to try (default 240)")
    demo.add_argument("--seed", type=int, default=0, help="of training and search (default 0)")
    demo.add_argument("--optimizer", default="catcma", help="which optimizer (default catcma)")
    demo.add_argument("--space", default="task_arithmetic_by_depth", help="which search space")
    demo.add_argument("--workers", type=_count, default=2, help="processes (default 2)")
    demo.add_argument("--backend", choices=("local", "ray"), default="ray", help="default ray")
    demo.set_defaults(run=_demo)

    search = commands.add_parser("search", help="run a study; the same command again resumes it")
    search.add_argument("study", type=Path, metavar="STUDY.yaml")
    search.add_argument("directory", type=Path, metavar="RUN", help="the run folder")
    search.add_argument("--trials", type=_count, help="instead of the study's search.trials")
    search.add_argument("--deadline", help="such as 45m or 8h, race and verdict included")
    search.add_argument("--workers", type=_count, help="instead of the study's workers.count")
    search.add_argument("--ray-address", metavar="ADDRESS", help="join this Ray cluster, or `auto`")
    search.add_argument(
        "--log-to",
        action="append",
        default=[],
        metavar="TRACKER",
        help="tensorboard[:DIR], mlflow[:URI] or wandb[:PROJECT]; may be given more than once",
    )
    search.add_argument(
        "--reuse",
        action="append",
        default=[],
        type=Path,
        metavar="RUN",
        help="another run of the same parents and tasks: what it scored is not scored again",
    )
    search.add_argument(
        "--allow-task-code", type=Path, metavar="DIR", help="tasks in this folder may run Python"
    )
    search.add_argument(
        "--allow-changed",
        action="store_true",
        help="resume although the study or the code changed; the journal records what",
    )
    search.set_defaults(run=_search)

    check = commands.add_parser("check", help="check a study before anything is spent on it")
    check.add_argument("study", type=Path, metavar="STUDY.yaml")
    check.add_argument(
        "--parents",
        action="store_true",
        help="score the parents and the middles between them, even if that takes minutes",
    )
    check.set_defaults(run=_check)

    status = commands.add_parser("status", help="what a run has done so far")
    status.add_argument("directory", type=Path, metavar="RUN")
    status.add_argument("--json", action="store_true", help="for scripts")
    status.set_defaults(run=_status)

    watch = commands.add_parser("watch", help="follow a run from another shell")
    watch.add_argument("directory", type=Path, metavar="RUN")
    watch.add_argument(
        "--every", type=_seconds, default=1.0, metavar="SECONDS", help="between looks (default 1)"
    )
    watch.set_defaults(run=_watch)

    dashboard = commands.add_parser(
        "dashboard", help="Optuna's dashboard on a run, on this machine"
    )
    dashboard.add_argument("directory", type=Path, metavar="RUN")
    dashboard.add_argument("--port", type=_port, default=8080, help="on 127.0.0.1 (default 8080)")
    dashboard.add_argument(
        "--export", metavar="URL", help="copy to this Optuna storage instead, e.g. sqlite:///x.db"
    )
    dashboard.set_defaults(run=_dashboard)

    report = commands.add_parser("report", help="write a run's report.html")
    report.add_argument("directory", type=Path, metavar="RUN")
    report.add_argument("--out", type=Path, metavar="FILE", help="default RUN/report.html")
    report.set_defaults(run=_report)

    explain = commands.add_parser("explain", help="do the parents complement, what mattered")
    explain.add_argument("directory", type=Path, metavar="RUN")
    explain.add_argument(
        "--around",
        type=_count,
        metavar="N",
        help="score N points on a line through the winner and N x N on a slice (N >= 3)",
    )
    explain.add_argument("--json", action="store_true", help="for scripts")
    explain.set_defaults(run=_explain)

    repair = commands.add_parser("repair", help="check a journal, or cut it off before damage")
    repair.add_argument("directory", type=Path, metavar="RUN")
    repair.add_argument("--to", type=int, metavar="OFFSET", help="keep the events before this byte")
    repair.set_defaults(run=_repair)

    build = commands.add_parser("build", help="merge one recipe into a model folder")
    _add_recipe(build)
    build.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    build.add_argument("--device", default="cpu", help="where the arithmetic runs (default cpu)")
    build.set_defaults(run=_build)

    push = commands.add_parser("push", help="upload a merged model to the Hugging Face Hub")
    push.add_argument("source", type=Path, metavar="RUN", help="a run folder, or a merged model's")
    push.add_argument("repository", metavar="REPO", help="such as organisation/name")
    push.add_argument("--public", action="store_true", help="a new repository is private otherwise")
    push.set_defaults(run=_push)

    export = commands.add_parser("export", help="print a recipe as a mergekit configuration")
    _add_recipe(export)
    export.set_defaults(run=_export)

    imported = commands.add_parser(
        "import", help="read a mergekit file, or a mergekit-evolve genome"
    )
    imported.add_argument("file", type=Path, metavar="FILE.yaml")
    imported.add_argument("out", nargs="?", type=Path, metavar="OUT", help="default: print it")
    imported.add_argument(
        "--include-path",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of task YAML for the study of a genome file",
    )
    imported.set_defaults(run=_import)

    add_trajectory(commands)
    add_extract_lora(commands)

    methods = commands.add_parser("methods", help="merge methods: parameters, ranges, papers")
    methods.add_argument("name", nargs="?", metavar="NAME")
    methods.add_argument("--json", action="store_true", help="for scripts")
    methods.set_defaults(run=_methods)

    spaces = commands.add_parser("spaces", help="the search spaces that come with evomerge")
    spaces.add_argument("name", nargs="?", metavar="NAME")
    spaces.set_defaults(run=_spaces)

    completion = commands.add_parser("completion", help="a shell's completion script")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run=_completion)
    return parser


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", type=Path, metavar="RECIPE", help="a recipe's file, or a run: its recommended one"
    )
    command.add_argument("--trial", type=_number, metavar="N", help="of a run, this trial's")


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a trial's number, but got {text!r}")
    return int(text)


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, but got {text}")
    return number


def _port(text: str) -> int:
    number = _count(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"expected a port of at most 65535, but got {text}")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.01 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"expected 0.01 to 3600 seconds, but got {text}")
    return number


def _demo(arguments: argparse.Namespace) -> None:
    from evomerge.cli.demo import run_demo

    run_demo(arguments)


def _search(arguments: argparse.Namespace) -> None:
    from evomerge.cli.search import run_search

    run_search(
        arguments.study,
        arguments.directory,
        trials=arguments.trials,
        deadline=arguments.deadline,
        workers=arguments.workers,
        ray_address=arguments.ray_address,
        log_to=arguments.log_to,
        reuse=arguments.reuse,
        allow_changed=arguments.allow_changed,
        allow_task_code=arguments.allow_task_code,
    )


def _check(arguments: argparse.Namespace) -> None:
    from evomerge.cli.check import run_check

    run_check(arguments.study, arguments.parents)


def _status(arguments: argparse.Namespace) -> None:
    from evomerge.cli.show import show_status

    show_status(arguments.directory, arguments.json)


def _explain(arguments: argparse.Namespace) -> None:
    from evomerge.cli.show import show_explanation

    show_explanation(arguments.directory, arguments.json, arguments.around)


def _watch(arguments: argparse.Namespace) -> None:
    from evomerge.cli.watch import watch

    watch(arguments.directory, arguments.every)


def _dashboard(arguments: argparse.Namespace) -> None:
    from evomerge.cli.dashboard import export, serve

    if arguments.export is None:
        serve(arguments.directory, arguments.port)
    else:
        print(f"{export(arguments.directory, arguments.export)} trials in {arguments.export}")


def _report(arguments: argparse.Namespace) -> None:
    from evomerge.cli.show import make_report

    make_report(arguments.directory, arguments.out)


def _repair(arguments: argparse.Namespace) -> None:
    from evomerge.cli.show import repair_journal

    repair_journal(arguments.directory, arguments.to)


def _build(arguments: argparse.Namespace) -> None:
    from evomerge.cli.show import build_recipe

    build_recipe(arguments.recipe, arguments.out, arguments.device, arguments.trial)


def _push(arguments: argparse.Namespace) -> None:
    from evomerge.cli.push import push

    print(push(arguments.source, arguments.repository, public=arguments.public))


def _export(arguments: argparse.Namespace) -> None:
    from evomerge.cli.show import export_recipe

    export_recipe(arguments.recipe, arguments.trial)


def _import(arguments: argparse.Namespace) -> None:
    from evomerge.cli.migrate import import_file

    import_file(arguments.file, arguments.out, arguments.include_path)


def _methods(arguments: argparse.Namespace) -> None:
    from evomerge.cli.show import show_methods

    show_methods(arguments.name, arguments.json)


def _spaces(arguments: argparse.Namespace) -> None:
    from evomerge.cli.show import show_spaces

    show_spaces(arguments.name)


def _completion(arguments: argparse.Namespace) -> None:
    from evomerge.cli.completion import completion_script

    print(completion_script(_parser(), arguments.shell))
