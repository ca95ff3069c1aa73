"""What the verbs return: compact data on the CPU, apart from how it is drawn.

A result holds no torch graph and pins no model. `actions` are callables that the façade fills in ("exact": the value
under the pointer, …), so that a view can ask Python for more without knowing who answers. The renderer is named by an
entry string and imported when a result is first shown.
"""

from __future__ import annotations

from llm_lab.results.attention import AttentionMaps
from llm_lab.results.background import BackgroundRun
from llm_lab.results.base import Piece, Result, in_notebook, mean
from llm_lab.results.bench import Bench, BenchLine
from llm_lab.results.comparisons import Compared, Comparison, RunComparison, RunFacts
from llm_lab.results.counterfactual import Counterfactual
from llm_lab.results.decoding import BeamNode, BeamTree, Fork, Generation, Generations, TokenStatistics
from llm_lab.results.heads import HeadTable
from llm_lab.results.lenses import LogitAttribution, LogitLens, TunedLens
from llm_lab.results.linear import LinearProbe, SiteScore
from llm_lab.results.maps import Heatmap, Panel, TokenScores
from llm_lab.results.models import ModelPart, ModelReport, Sample, TrainingReport
from llm_lab.results.passages import (
    Autoencoder,
    FactorPassages,
    Factors,
    FactorScores,
    FeatureScores,
    Passage,
    Passages,
    SparseAutoencoder,
    Unit,
)
from llm_lab.results.playing import Chat, Control, Message, Playground, StrategyControls
from llm_lab.results.probes import ExpertRouting, Neighbours
from llm_lab.results.projections import Projection
from llm_lab.results.prompts import (
    ANSWER_COLUMNS,
    Answer,
    Prompt,
    PromptResults,
    PromptScore,
    mean_interval,
    ratio_interval,
)
from llm_lab.results.robustness import NoisePoint, Robustness, Swap
from llm_lab.results.runs import RunRow, RunTable
from llm_lab.results.sides import SideBySide
from llm_lab.results.sizing import SizePoint, Sizing
from llm_lab.results.tables import Evaluation, Listing, Score
from llm_lab.results.texts import CorpusReport, Tokenization, TokenizationRow
from llm_lab.results.walk import Step, Walk
from llm_lab.results.weights import WeightFacts, WeightRow, WeightTable

__all__ = [
    "ANSWER_COLUMNS",
    "Answer",
    "AttentionMaps",
    "Autoencoder",
    "BackgroundRun",
    "BeamNode",
    "BeamTree",
    "Bench",
    "BenchLine",
    "Chat",
    "Compared",
    "Comparison",
    "Control",
    "CorpusReport",
    "Counterfactual",
    "Evaluation",
    "ExpertRouting",
    "FactorPassages",
    "FactorScores",
    "Factors",
    "FeatureScores",
    "Fork",
    "Generation",
    "Generations",
    "HeadTable",
    "Heatmap",
    "LinearProbe",
    "Listing",
    "LogitAttribution",
    "LogitLens",
    "Message",
    "ModelPart",
    "ModelReport",
    "Neighbours",
    "NoisePoint",
    "Panel",
    "Passage",
    "Passages",
    "Piece",
    "Playground",
    "Projection",
    "Prompt",
    "PromptResults",
    "PromptScore",
    "Result",
    "Robustness",
    "RunComparison",
    "RunFacts",
    "RunRow",
    "RunTable",
    "Sample",
    "Score",
    "SideBySide",
    "SiteScore",
    "SizePoint",
    "Sizing",
    "SparseAutoencoder",
    "Step",
    "StrategyControls",
    "Swap",
    "TokenScores",
    "TokenStatistics",
    "Tokenization",
    "TokenizationRow",
    "TrainingReport",
    "TunedLens",
    "Unit",
    "Walk",
    "WeightFacts",
    "WeightRow",
    "WeightTable",
    "in_notebook",
    "mean",
    "mean_interval",
    "ratio_interval",
]
