"""Little stories from a grammar of our own, in any size: their entropy is known exactly, and so is the truth of each task.

A story is four sentences: somebody gets some things, somebody else has to do with them, their number changes, and it
ends. Stories are drawn one by one, all from the same distribution. What a model must carry through a story, and an
n-gram cannot, since more words stand between than it looks at:

- who and what it is about: two names, the thing and its colour come back sentences later;
- pronouns: she, he, her, him and his go by the person named before; it and them by how many things there are;
- agreement: `The hats that the brother of Anna was selling were big` — the nearest noun is not the subject;
- counting: of four pens, one is lost and three kept; two more make six, and the ending says so;
- in French, adjectives and participles agree with a gender that English never says (`trois fleurs vertes`, `les a
  montrées`); in Chinese, each thing has its measure word (三顶帽子, 两本书).

Each story has exactly one derivation, so −log p of a story is the sum of its choices, and the entropy of a story is
known by recursion: `entropy()`. `log_prob(story)` gives the exact log-probability of a given one. No model gets below
the entropy on average; one that reads blocks which begin inside a story pays a little for what it cannot see: 2 % at
512 tokens of a word or so, twice that at 256. So a minute on two cores is best spent on many steps of a small model
with a long context, whose attention may be as sharp as it likes:

    lab.pretrain("stories", size=4_000_000, seconds=55, tokenizer="bpe", vocab_size=1024, n_layer=2, d_model=128,
                 max_seq_len=512, batch_size=4, qk_norm=False)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

from llm_lab.corpora.corpus import Corpus
from llm_lab.corpora.stories import scoring
from llm_lab.corpora.stories.parts import PARTS
from llm_lab.corpora.stories.rules import grammar

NOTES = (
    "drawn from a grammar: each story has one derivation, so its probability and the entropy are exact",
    "names, things and colours come back sentences later; pronouns and was/were go by what was said before",
    "counts add up: of four pens one is lost, three are kept, and the ending says three",
)
_ABOUT = {
    "text": "stories",
    "pairs": "is the second text the story's next sentence, or one that cannot follow there?",
    "sentiment": "what the writer of a review thinks, whatever others think in it",
    "headlines": "a headline for each story: who did what, in the present tense",
    "questions": "a question about each story, answered by a stretch of it",
    "entities": "a tag for each word and sign: persons (PER), places (LOC), others (O)",
    "english-french": "gender and number agree in French where English is silent",
    "english-chinese": "each thing has its measure word in Chinese",
}


def read(size: int = 1_000_000, corpus_seed: int = 0, part: str = "text") -> Corpus:
    """At least `size` characters of a part, in whole stories: the same for a seed everywhere."""
    rng = random.Random(corpus_seed)
    rows = []
    for row in PARTS[part](grammar(), rng):
        rows.append(row)
        size -= len(row.document) + len(row.target or "")
        if size <= 0:
            break
    running = part == "text"
    return Corpus(
        "stories" if running else f"stories-{part}",
        f"a grammar of little stories, {part}, seed {corpus_seed}",
        [row.document for row in rows],
        targets=None if running else [row.target or "" for row in rows],
        table=None if running else {name: [row.columns[name] for row in rows] for name in rows[0].columns},
        entropy=entropy().nats / entropy().bytes if running else None,
        notes=NOTES if running else (_ABOUT[part],),
    )


@cache
def entropy() -> scoring.Expectation:
    """The entropy of a story in nats, with its expected characters and UTF-8 bytes.

    In nats per byte of text it is `nats / bytes`; per token of a char tokenizer, which ends each story with `<eos>`, it
    is `nats / (chars + 1)`.
    """
    return scoring.expectation(grammar())


def log_prob(story: str) -> float:
    """The exact log-probability of a story, in nats; −inf where it is none."""
    return scoring.log_prob(grammar(), story)


def cross_entropy(stories: Sequence[str]) -> float:
    """What these very stories cost under the grammar itself, in nats per byte: the least that a model can aim at."""
    return -sum(map(log_prob, stories)) / sum(len(story.encode()) for story in stories)
