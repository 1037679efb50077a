"""A call's prompts in parts, each with a seed of its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from r1zero.rollout.parts import Part, split


class TestParts:
    @given(st.integers(1, 200), st.integers(1, 20))
    def test_every_prompt_is_in_one_part(self, count: int, parts: int) -> None:
        made = split(count, parts, 5)
        assert [i for p in made for i in range(p.start, p.stop)] == list(range(count))
        assert len(made) == min(parts, count)
        sizes = [p.stop - p.start for p in made]
        assert max(sizes) - min(sizes) <= 1
        assert len({p.seed for p in made}) == len(made)

    def test_one_part_keeps_the_seed(self) -> None:
        assert split(7, 1, 5) == split(7, 1, 5) == [Part(0, 7, 5)]
        assert split(1, 4, 5) == [Part(0, 1, 5)]
        assert {p.seed for p in split(8, 2, 5)}.isdisjoint(p.seed for p in split(8, 2, 6))
