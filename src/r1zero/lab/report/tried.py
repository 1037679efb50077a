"""What was tried for the miniature and dropped, so that a reader knows how often the dice were thrown."""

TRIED = (
    ("task", "slips on 22 % of the steps, hesitations after most slips",
     "both algorithms removed the hesitations alike (accuracy 0.46 to 0.64 in 80 steps)",
     "length was tied to the slip, so mending slips mended length: no bias to see"),
    ("task", "two designs between that one and the present one", "no difference of lengths in one seed each",
     "the present design is the fourth; the control (g) shows what it takes"),
    ("e", "10, 15 and 35 % question pages in the web-like text, 700 and 1,200 steps",
     "0.04 after 60 steps of RL, one seed each", "7.7 % of the groups hold a signal: the run was too short"),
    ("e", "RL of 60 steps on states that had read random sums, R1-like pages with tags in the question-answer text",
     "0.04, 0.04 and 0.60 at the end, from 0.02, 0.01 and 0.04 (3 seeds)",
     "8 % of the groups hold a signal, and the paper's question-answer state starts lowest"),
    ("f", "2-term sums on a base made of 4 terms alone, 40 steps",
     "training reward 0.07 to 0.08, held-out sums of 4 terms 0.51 to 0.26",
     "the simple questions were as foreign to that base as words"),
    ("f", "2 and 3 terms in words on that base", "held-out sums 0.52 to 0.14, one seed", "as above"),
    ("f", "longer sums, words, products on that base", "held-out sums +0.22, -0.24, +0.20 (3 seeds)",
     "none is simpler than the benchmark, and 3 to 18 % of the samples are right"),
    ("f", "words at a fifth of the learning rate", "held-out sums 0.52 to 0.49, one seed",
     "it unlearns more slowly and learns nothing; now a study of its own (sweep=near_zero)"),
    ("f", "words without hopeless questions (a sampler that drops them)", "no difference, one seed",
     "no question comes twice in 60 steps, so none is known to be hopeless"),
    ("f", "base of 2 to 6 terms with 15 % pages of speakers, 1,400 steps; with 24 % and 2,000 steps",
     "R1 template: 0.06 right, a signal in 19 % of the groups on wide questions (seed 100)",
     "under the precondition of 30 %; two thirds of the answers had no tag"),
)  # fmt: skip
"""(claim, what, what was seen, why it was dropped)."""
HEADER = ("claim", "tried", "seen", "why dropped")
