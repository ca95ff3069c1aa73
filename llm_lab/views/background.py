"""A run that another process trains: its card, redrawn by a thread while it goes on, and the controls under it."""

from __future__ import annotations

import math
import os
import secrets
import sys
import threading
import time
from functools import cache
from typing import Any

from llm_lab.errors import LabError
from llm_lab.results import BackgroundRun, TrainingReport, in_notebook
from llm_lab.results.background import OVER
from llm_lab.views import training
from llm_lab.views.bundle import esm
from llm_lab.views.card import MUTED, clean, esc
from llm_lab.views.live import INTERVAL, Live
from llm_lab.views.widget import kernel_widget

RARELY = 2.0  # seconds between two looks at a run that is at rest: another kernel may go on with it
_DOING = {
    "pause": "pausing after this step…",
    "resume": "a process goes on from its last state…",
    "stop": "ending after this step…",
}
_RESTING = {
    "paused": "paused at step {:,}",
    "died": "its process died at step {:,}; resume goes on from its last state",
}


def background(result: BackgroundRun) -> dict[str, str]:
    """The card as the run was last seen, and how to see it again."""
    return training.report(result.report, elsewhere=True)


def background_widget(result: BackgroundRun) -> Any:
    """The card that is redrawn while the run goes on, and its controls; `.show()` puts them on the page."""
    return _Shown(result)


def show(result: BackgroundRun) -> None:
    """Show it where we are: live with its controls in a notebook, as it is now in a terminal."""
    if in_notebook():
        background_widget(result).show()
    else:
        print(str(result), flush=True)


def watch(result: BackgroundRun) -> None:
    """Redraw the card from here until the run is over or paused. An interrupt detaches, and leaves the run alone."""
    live = Live(result)
    try:
        while result.update().status == "training":
            live.update(result)
            time.sleep(INTERVAL)
        said = ""
    except KeyboardInterrupt:
        said = f"detached; the run goes on; %attach {clean(result.name)} watches it again"
    live.close(result)
    if said:
        print(said, flush=True)


class Controls:
    """What a person asks of a run, and what is said of it until it is done."""

    def __init__(self, result: BackgroundRun) -> None:
        self.result = result
        self._asked: tuple[str, float] | None = None  # what is not done yet, and the factor of the learning rate
        self._at = ("", 0)  # the status and the step as it was asked
        self._said = ("", "")  # of what is done; for as long as the run has this status
        self._wrong = ""

    def ask(self, do: str, scale: Any = None) -> None:
        """pause | resume | stop | lr (with `scale`). What cannot be done is said."""
        self._wrong, self._asked, self._said = "", None, ("", "")
        self._at = (self.result.report.status, self.result.report.step)
        try:
            if do == "lr":
                self.result.lr(scale)
            else:
                getattr(self.result, do)()
            self._asked = (do, float(scale or 0))
        except LabError as error:
            self._wrong = str(error)
        except Exception as error:  # whatever it is, the person at the page is told
            self._wrong = f"{type(error).__name__}: {error}"

    @property
    def waits(self) -> bool:
        """Whether something that was asked is not done yet."""
        return self._asked is not None

    def now(self) -> dict[str, Any]:
        """What the page shows of it."""
        report = self.result.report
        self._settle(report)
        return {
            "status": report.status,
            "step": report.step,
            "scale": _finite(report.lr_scale),
            "rate": _finite(report.lr),
            "says": clean(self._wrong or self._says(report)),
            "wrong": bool(self._wrong),
        }

    def _settle(self, report: TrainingReport) -> None:
        """What is done, or can no longer be, is not waited for."""
        if self._asked is None:
            return
        (do, scale), (before, step), now = self._asked, self._at, report.status
        if do == "lr" and report.lr_scale == scale:
            self._asked, self._said = None, (f"learning rate × {scale:g} of its schedule", now)
        elif do == "resume" and now == "training" and report.step != step:
            self._asked, self._said = None, ("it goes on", now)
        elif do == "resume" and now == "training":
            self._at = (now, step)
        elif now != before:
            self._asked = None

    def _says(self, report: TrainingReport) -> str:
        if self._asked:
            do, scale = self._asked
            return _DOING.get(do) or f"learning rate × {scale:g} from the next step on…"
        said, status = self._said
        if said and status == report.status:
            return said
        if report.status == "died" and not report.step:
            return "its process died before the first step; resume begins it again"
        return _RESTING.get(report.status, "").format(report.step)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


class _Shown:
    """A run on the page, one output for its card and one for its controls. The newest of a run is the one that lives."""

    def __init__(self, result: BackgroundRun) -> None:
        self.result = result
        self.controls = Controls(result)
        self._key = secrets.token_hex(4)  # by which the page finds where to put the controls
        self._card: Any = None
        self._bar: Any = None
        self._drawn = 0
        self._left: str | None = None  # what is said where nobody watches any more
        self._wake = threading.Event()

    def show(self, handle: Any = None) -> None:
        """Display it, the card in the place of `handle` where one is given. A thread redraws it; where none can, this one
        watches until the run is over or interrupted."""
        if "google.colab" in sys.modules:
            watch(self.result)
            return
        from IPython.display import display

        if handle is None:
            handle = display(self._framed(), raw=True, display_id=True)
        else:
            handle.update(self._framed(), raw=True)
        self._card = handle
        with _lock:
            earlier, _shown[self.result.run] = _shown.get(self.result.run), self
        if earlier is not None:
            earlier.leave("it is shown live in a newer output")
        if self.result.report.status in OVER:
            self._end("")
            return
        self._bar = _bar_class()(self._heard, key=self._key, name=clean(self.result.name), now=self._now())
        self._bar.show()
        threading.Thread(target=self._follow, name=f"llm_lab {self.result.run}", daemon=True).start()

    def leave(self, said: str = "detached; the run goes on") -> None:
        """Watch it no more. The run goes on; its card stays as it is."""
        self._left = said
        self._wake.set()

    def _follow(self) -> None:
        seen: Any = None
        try:
            while self._left is None:
                report = self.result.update()
                if report.status in OVER:
                    self._left = ""
                    break
                if seen != (seen := _seen(report)):
                    self._card.update(self._framed(), raw=True)
                    self._bar.now = self._now()
                busy = report.status == "training" or self.controls.waits
                self._wake.wait(INTERVAL if busy else RARELY)
                self._wake.clear()
        except LabError as error:
            self._left = str(error)
        except Exception as error:  # a thread has no cell that its traceback would belong to
            self._left = f"it is no longer watched: {type(error).__name__}: {error}"
        self._end(self._left or "")

    def _end(self, said: str) -> None:
        """The card in its final form, and no controls."""
        with _lock:
            if _shown.get(self.result.run) is self:
                del _shown[self.result.run]
        try:
            self._card.update(background(self.result), raw=True)
            if self._bar is not None:
                self._bar.send(self._page() | {"kind": "end", "says": clean(said)})
                self._bar.said = said
                self._bar.freeze()
        except Exception as error:  # as above; and at its end a kernel hears nothing any more
            self._left = str(error)

    def _heard(self, kind: str, message: dict[str, Any]) -> None:
        """What the page asks."""
        if kind == "ask" and message.get("do") in (*_DOING, "lr"):
            self.controls.ask(message["do"], message.get("scale"))
            self._bar.now = self._now()
            self._wake.set()
        elif kind == "detach":
            self.leave()
        elif kind == "card":
            self._bar.send(self._page() | {"kind": "card"})

    def _now(self) -> dict[str, Any]:
        return self.controls.now() | {"drawn": self._drawn}

    def _classes(self) -> str:
        return f"llm-lab-card-{self._key} llm-lab-drawn-{self._drawn}"

    def _page(self) -> dict[str, str]:
        return {"page": background(self.result)["text/html"], "classes": self._classes()}

    def _framed(self) -> dict[str, str]:
        """The card in a frame that says how new it is."""
        self._drawn += 1
        made = background(self.result)
        return {**made, "text/html": f'<div class="{self._classes()}">{made["text/html"]}</div>'}


_shown: dict[str, _Shown] = {}  # by run
_lock = threading.Lock()


def _seen(report: TrainingReport) -> tuple[Any, ...]:
    """What tells one look at a run from the next."""
    lengths = (len(report.train), len(report.val), len(report.samples), len(report.notes))
    return report.status, report.step, report.seconds, report.lr_scale, *lengths


@cache
def _bar_class() -> type:
    import traitlets as t

    class RunControls(kernel_widget()):  # type: ignore[misc]
        """Controls that are no output: the page's model puts them where the cell's HTML keeps a place. So what is saved is
        an empty place, whenever it is saved, and a page that is opened again has its controls again."""

        _esm = esm("background")
        key, name = (t.Unicode().tag(sync=True) for _ in range(2))
        now = t.Dict().tag(sync=True)

        def __init__(self, heard: Any, **state: Any) -> None:
            super().__init__(self._rests, **state)
            self._hears = heard
            self.said = ""
            self._free()

        def _send(self, msg: Any, buffers: Any = None) -> None:
            super()._send(msg, buffers)
            self._free()

        def _free(self) -> None:
            """ipykernel sends what a page says to the thread that spoke to it last, and that may be busy with a cell; without
            that the page's own one hears it (a subshell), so that a run can be paused while something else is computed."""
            comm: Any = self.comm
            if comm is not None:
                vars(comm).pop("_reply_subshell_id", None)

        def show(self, handle: Any = None) -> None:
            if "VSCODE_PID" in os.environ:  # it makes a widget's model when it shows the widget, and not before
                super().show(handle)
                return
            from IPython.display import display

            place = {"text/plain": "", "text/html": f'<div class="llm-lab-bar-{self.key}"></div>'}
            self._handle = display(place, raw=True, display_id=True)

        def _rests(self) -> dict[str, str]:
            line = f'<div style="{MUTED};font-size:12px;margin:0 15px">{esc(self.said)}</div>' if self.said else ""
            return {"text/plain": clean(self.said), "text/html": line}

        def heard(self, kind: str, message: dict[str, Any]) -> None:
            self._hears(kind, message)

    return RunControls
