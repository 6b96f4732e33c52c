"""Holds an open study: its configuration, space and ledger, which every phase works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Data
from evomerge.recipe.space.dimension import Point
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from evomerge.study.extensions import load_extensions
from evomerge.study.journal.events import AskedEvent, AskedTrial
from evomerge.study.journal.record import Record
from evomerge.study.ledger import Ledger
from evomerge.study.phases.control import KIND as RANDOM
from evomerge.study.statistics.outcome import fitness
from evomerge.study.wanted import Items

Asked = tuple[str, str, Point | None, Recipe]  # kind, name, point, recipe


@dataclass(frozen=True)
class StudyRun:
    """A study whose journal is open for writing.

    Attributes:
        config: What to search, on what, for how long.
        directory: The run folder.
        space: The search space, bound to the study's models.
        ledger: The journal, its record, and the workers that fill it.
        data: Rows of models' own, once they are known.
    """

    config: StudyConfig
    directory: Path
    space: SearchSpace
    ledger: Ledger
    data: Mapping[str, Data] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        """The state of the study so far."""
        return self.ledger.record

    @property
    def seed(self) -> int:
        """The study's seed."""
        return self.config.search.seed

    @property
    def modes(self) -> tuple[ScoreKind, ...]:
        """The score kinds of anchors: the search's, and the metric."""
        return ("smooth", "metric") if self.config.evaluate.fitness == "smooth" else ("metric",)

    @property
    def pools(self) -> Mapping[str, Items]:
        """The items of each pool by task, as the journal holds them."""
        return self.record.pools

    def fitness(self, rows: Sequence[OutcomeRow], score_kind: ScoreKind) -> float:
        """Return the objective over these outcomes."""
        return fitness(rows, self.record.tasks_of("search"), score_kind)

    def outcomes(
        self, trials: Sequence[int], items: Items, mode: ScoreKind, phase: str
    ) -> dict[int, list[OutcomeRow] | None]:
        """Return the outcomes of trials on items, paid for where the journal lacks them."""
        return self.ledger.outcomes(trials, items, mode, phase)

    def ask(self, asked: Sequence[Asked], generation: int | None, items: Items | None) -> None:
        """Write down trials that are asked together."""
        first = self.record.next_number
        trials = tuple(
            AskedTrial(
                trial=first + i,
                kind=kind,
                name=name,
                generation=generation,
                index=i,
                point=None if point is None else list(point),
                recipe=recipe.to_dict(),
                digest=recipe.digest,
            )
            for i, (kind, name, point, recipe) in enumerate(asked)
        )
        self.ledger.log(AskedEvent(trials=trials, items=items))

    def ask_generation(
        self,
        generation: int,
        points: Sequence[Point],
        recipes: Sequence[Recipe],
        items: Items | None,
        n_random: int = 0,
    ) -> None:
        """Write down a generation of the search, the last `n_random` of it the control arm's."""
        first = self.record.next_number
        kinds = ["trial"] * (len(points) - n_random) + [RANDOM] * n_random
        asked = [
            (kind, f"{'random ' * (kind == RANDOM)}trial {first + i}", point, recipe)
            for i, (kind, point, recipe) in enumerate(zip(kinds, points, recipes, strict=True))
        ]
        self.ask(asked, generation, items)

    def check_same(self, numbers: Sequence[int], recipes: Sequence[Recipe], what: str) -> None:
        """Refuse to go on unless the journal asked for the same trials.

        Raises:
            UserError: It asked for others; the message names the first that differs.
        """
        digests = [self.record.trials[number].digest for number in numbers]
        for i, recipe in enumerate(recipes):
            if i >= len(digests) or digests[i] != recipe.digest:
                raise UserError(
                    f"{self.directory}: {what} {i} is not the recipe in the journal: another "
                    "version of evomerge or of the optimizer's library wrote it; resume with that "
                    "version, or start another run folder"
                )


def study_space(config: StudyConfig) -> SearchSpace:
    """Return the study's space, bound to its models.

    Raises:
        UserError: It cannot be read or bound, has nothing to search, or names a strange model.
    """
    load_extensions(config)
    if isinstance(config.space, str):
        space = SearchSpace.from_yaml(config.space)
    else:
        space = SearchSpace.from_dict(config.space, "study: space")
    bound = space.bind(config.base_model, config.models, config.output.dtype, config.search.seed)
    if not bound.dimensions:
        raise UserError(f"{bound.where}: there are no holes, so there is nothing to search")
    strangers = set(bound.fill([d.start for d in bound.dimensions]).model_names) - {
        config.base_model,
        *config.models,
    }
    if strangers:
        raise UserError(
            f"{bound.where}: it names {sorted(strangers)[0]}, which is not among the study's models"
        )
    return bound
