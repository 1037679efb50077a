"""The header of a run names the functions that run."""

from __future__ import annotations

from objective_support import algo_config
from r1zero.algo_config import Clip, Ratio
from r1zero.train.run import objective_of


def test_the_header_names_what_runs() -> None:
    assert objective_of(algo_config("grpo")) == "length_norm=response, std_norm=true"
    mixed = algo_config("grpo", ratio=Ratio.sequence, clip=Clip.weight, overlong=0.2)
    assert objective_of(mixed) == "ratio=sequence, clip=weight, length_norm=response, std_norm=true, overlong=0.2"
    own = algo_config("grpo", loss="my_ideas.gspo", advantage="my_ideas.halved", credit="length_aware")
    assert objective_of(own) == "loss=my_ideas.gspo, advantage=my_ideas.halved, credit=length_aware"
