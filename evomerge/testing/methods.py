"""What every merge method has to do, as a class of tests to inherit."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import torch
from torch import Tensor

from evomerge import methods
from evomerge.methods import CounterRandom, MethodSpec

_SHAPES = ((), (1,), (7,), (4, 9), (2, 3, 5), (0, 4))


class MethodConformance:
    """Tests of one method, driven by what its signature declares; pytest runs a subclass of it.

    A method that takes `factors`, `thresholds` or rows of data has to be tested by itself.

    Attributes:
        method: The method's name.
    """

    method: ClassVar[str]

    @property
    def spec(self) -> MethodSpec:
        """The method as it is registered."""
        return methods.get(self.method)

    def test_the_result_is_finite_new_and_shaped_like_the_inputs_which_stay(self) -> None:
        """For scalars, vectors, matrices and tensors without elements."""
        for shape in _SHAPES:
            base, models = self._tensors(shape)
            before = [tensor.clone() for tensor in (base, *models)]
            merged = self._apply(base, models)
            assert merged.shape == shape, f"{merged.shape} of inputs of shape {shape}"
            assert merged.dtype == torch.float32
            assert bool(torch.isfinite(merged).all())
            for tensor, copy in zip((base, *models), before, strict=True):
                assert torch.equal(tensor, copy), "an input was written to"
                assert tensor.numel() == 0 or merged.data_ptr() != tensor.data_ptr()

    def test_the_same_call_gives_the_same_bits(self) -> None:
        """With the same random numbers, where it draws some."""
        base, models = self._tensors((6, 11))
        assert torch.equal(self._apply(base, models), self._apply(base, models))

    def test_float32_is_close_to_float64(self) -> None:
        """To a few units in the last place."""
        base, models = self._tensors((30, 20))
        exact = self._apply(base.double(), [model.double() for model in models])
        assert exact.dtype == torch.float64
        torch.testing.assert_close(self._apply(base, models), exact.float(), rtol=1e-5, atol=2e-6)

    def test_models_equal_to_the_base_merge_to_it_under_the_defaults(self) -> None:
        """Whatever a method does, it does nothing where there is nothing to do."""
        base, models = self._tensors((4, 9))
        values = self._settings(only_required=True)
        merged = self._apply(base, [base.clone() for _ in models], values)
        torch.testing.assert_close(merged, base)

    def test_strided_inputs_merge_like_contiguous_ones(self) -> None:
        """Views of other tensors are inputs, too."""
        base, models = self._tensors((8, 5))
        strided = [tensor.t().contiguous().t() for tensor in (base, *models)]
        torch.testing.assert_close(self._apply(base, models), self._apply(strided[0], strided[1:]))

    def test_no_global_generator_is_touched(self) -> None:
        """Random numbers come from `random`, so that a resumed search draws the same."""
        state = torch.get_rng_state(), random.getstate()
        self._apply(*self._tensors((6, 11)))
        assert torch.equal(state[0], torch.get_rng_state()), "use the argument `random`"
        assert state[1] == random.getstate(), "use the argument `random`"

    def test_the_declaration_is_complete(self) -> None:
        """A reference, a summary, words and a range for each parameter."""
        spec = self.spec
        assert spec.reference
        assert spec.summary.endswith(".")
        for parameter in spec.parameters:
            assert parameter.doc, f"{parameter.name}: Doc is missing"
            if parameter.kind in ("float", "int"):
                assert parameter.low is not None, f"{parameter.name}: Range is missing"

    def _apply(
        self, base: Tensor, models: list[Tensor], values: dict[str, Any] | None = None
    ) -> Tensor:
        values = self._settings() if values is None else values
        return self.spec.apply(base, models, values, CounterRandom(seed=5, name="a.weight"))

    @property
    def _count(self) -> int:
        return max(self.spec.min_models, min(3, self.spec.max_models or 3))

    def _tensors(self, shape: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(shape, generator=generator)
        models = [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(self._count)]
        return base, models

    def _settings(self, only_required: bool = False) -> dict[str, Any]:
        draw = random.Random(self.method)
        values: dict[str, Any] = {}
        for p in self.spec.parameters:
            if only_required and not p.required:
                continue
            many = self._count if p.per_model else 1
            low, high = p.low or 0.0, 1.0 if p.high is None else p.high
            drawn = [
                draw.choice(p.choices)
                if p.choices
                else draw.randint(int(low), int(high))
                if p.kind == "int"
                else draw.uniform(low, high)
                for _ in range(many)
            ]
            values[p.name] = drawn if p.per_model else drawn[0]
        return values
