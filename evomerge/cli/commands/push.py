"""`evomerge push`: upload a merged model to the Hugging Face Hub, with its card and recipe."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from evomerge.cli.run_folder import (
    add_own_methods,
    check_own_methods,
    load_own_methods,
    record_of,
)
from evomerge.core.errors import UserError

_LEFT_OUT = {"README.md", "evomerge_recipe.yaml"}  # written anew, without this machine's paths


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("push", help="upload a merged model to the Hugging Face Hub")
    parser.add_argument(
        "source", type=Path, metavar="RUN", help="a run folder, or a merged model's"
    )
    parser.add_argument("repository", metavar="REPO", help="such as organisation/name")
    add_own_methods(parser)
    parser.add_argument(
        "--public", action="store_true", help="a new repository is private otherwise"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Upload, and print the address of the model."""
    load_own_methods(arguments.method)
    print(push(arguments.source, arguments.repository, public=arguments.public))


def push(source: Path, repository: str, *, public: bool = False) -> str:
    """Upload a run's recommended model, or a folder that `evomerge build` wrote.

    Args:
        source: A run folder with an exported model, or a model folder.
        repository: ``name`` or ``organisation/name``; made if it is missing.
        public: Make a new repository public; one that exists stays as it is.

    Returns:
        The address of the model.

    Raises:
        UserError: There is no model, or the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    model, card, recipe = _model(source, repository.rpartition("/")[2])
    api = HfApi()
    with tempfile.TemporaryDirectory(prefix="evomerge-push-") as folder:
        staged = Path(folder)
        for file in model.iterdir():
            if file.name not in _LEFT_OUT and not file.name.startswith("."):
                (staged / file.name).symlink_to(file.resolve())
        (staged / "README.md").write_text(card, encoding="utf-8")
        (staged / "evomerge_recipe.yaml").write_text(recipe, encoding="utf-8")
        try:
            created = api.create_repo(repository, exist_ok=True, private=not public)
            api.upload_folder(
                repo_id=created.repo_id, folder_path=staged, commit_message="Upload by evomerge"
            )
        except OfflineModeIsEnabled:
            raise UserError(
                f"{repository}: HF_HUB_OFFLINE is set, so the Hub was not contacted: unset it"
            ) from None
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{repository}: the Hub refused: {reason}; log in with `hf auth login`, or set "
                "HF_TOKEN to a token that may write"
            ) from None
        except Exception as error:
            if not type(error).__module__.startswith("httpx"):  # whichever the hub's client brings
                raise
            raise UserError(
                f"{repository}: the Hub cannot be reached: {error}; look at the "
                "network, and at HF_ENDPOINT and proxies if they are set"
            ) from None
    return str(created)


def _model(source: Path, title: str) -> tuple[Path, str, str]:
    """Return the model folder, its card, and its recipe without this machine's paths."""
    from evomerge.merge.output.card import model_card, public_recipe
    from evomerge.recipe.recipe import Recipe
    from evomerge.study.journal.journal import JOURNAL
    from evomerge.study.phases.card import study_card

    if (source / JOURNAL).is_file():
        record = record_of(source)
        exported = record.exported and record.exported.model
        if record.winner is None or not exported or not (source / exported).is_dir():
            raise UserError(
                f"{source}: expected a finished run with a model, but it is in phase "
                f"{record.phase} and has exported {exported or 'no model'}"
            )
        check_own_methods(source, record, record.winner.recipe)
        recipe = Recipe.from_dict(record.winner.recipe)
        return source / exported, study_card(record, title), public_recipe(recipe)
    recipe_file = source / "evomerge_recipe.yaml"
    if not recipe_file.is_file() or not (source / "config.json").is_file():
        raise UserError(
            f"{source}: expected a run folder, or a model folder that evomerge wrote, but it has "
            f"neither {JOURNAL} nor {recipe_file.name} with a config.json"
        )
    recipe = Recipe.from_yaml(recipe_file)
    return source, model_card(recipe, title), public_recipe(recipe)
