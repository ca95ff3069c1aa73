"""The families of published models that can be read and written."""

from __future__ import annotations

from llm_lab.registry import Entry, Table

FAMILIES = Table(
    "model_type",
    [
        Entry("gpt2", "llm_lab.models.hf.gpt2:GPT2", "GPT-2 (Radford et al. 2019)"),
        Entry("llama", "llm_lab.models.hf.llama:LLAMA", "LLaMA (Touvron et al. 2023) and what is built like it"),
        Entry("mistral", "llm_lab.models.hf.llama:MISTRAL", "Mistral (Jiang et al. 2023)"),
        Entry("qwen3", "llm_lab.models.hf.llama:QWEN3", "Qwen3 (Qwen team 2025)"),
        Entry("bert", "llm_lab.models.hf.bert:BERT", "BERT (Devlin et al. 2019), MiniLM"),
        Entry("roberta", "llm_lab.models.hf.bert:ROBERTA", "RoBERTa (Liu et al. 2019)"),
        Entry("albert", "llm_lab.models.hf.bert:ALBERT", "ALBERT (Lan et al. 2020)"),
        Entry("distilbert", "llm_lab.models.hf.bert:DISTILBERT", "DistilBERT (Sanh et al. 2019)"),
        Entry("t5", "llm_lab.models.hf.t5:T5", "T5, T5 1.1 and Flan-T5 (Raffel et al. 2020; Chung et al. 2022)"),
    ],
)
