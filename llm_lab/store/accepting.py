"""A run that was left on its way, declared finished as it is."""

from __future__ import annotations

from llm_lab.errors import BadValue
from llm_lab.store import runs
from llm_lab.store.cards import load_card, write_card
from llm_lab.store.files import read_weights, weight_shapes
from llm_lab.store.lm import LM, load_run
from llm_lab.store.runs import Run
from llm_lab.training.state import BEST


def accept(run: Run) -> LM:
    """From its newest whole state the model; where its best weights were to be kept, those of the best validation so far.
    BadValue where there is nothing to take."""
    if run.status == "finished":
        raise BadValue(f"run {run.id} of {run.name} is finished already")
    if not run.resumable:
        how = (
            "is training; %lab stop NAME ends it first"
            if run.status == "training"
            else f"{run.status}, and left no state"
        )
        raise BadValue(f"run {run.id} of {run.name} {how}")
    with runs.hold(run):
        lm = load_run(run)
        file = run.state_file(run.states[-1])
        for i, module in enumerate((lm.model, lm.extras)):
            if weight_shapes(file, f"{BEST}{i}."):
                read_weights(file, module, partly=True, prefix=f"{BEST}{i}.")
        lm.save(run.path)
        card = load_card(run)
        if card is not None:
            whole = f" of {card.budget_steps}" if card.budget_steps else ""
            card.notes.append(f"accepted at step {card.step}{whole}, as it was")
            card.status = "finished"
            write_card(run, card)
        facts = {} if card is None else {"steps": card.step, "tokens": card.tokens, "seconds": card.seconds}
        run.set_status("finished", accepted=True, **facts)
        run.forget_states()
    return load_run(run)
