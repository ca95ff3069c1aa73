"""The table of probes: options that mean the same everywhere, and nothing heavy imported to list them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm_lab.options import all_specs
from llm_lab.probes.options import PROBES, KindOptions, ProbeOptions, probe_options


def test_an_option_means_the_same_in_every_kind():
    assert all_specs([ProbeOptions, *(entry.options for entry in PROBES.values())])
    assert {type(kind()) for kind in probe_options({})} == {entry.options for entry in PROBES.values()}


@pytest.mark.parametrize("kind", PROBES)
def test_every_kind_says_what_it_is(kind):
    entry = PROBES[kind]
    assert entry.help and entry.supports
    assert issubclass(entry.options, KindOptions)
    assert entry.options.room == kind or kind in entry.options.room
    for least, most in (entry.options.texts, entry.options.models):
        assert 0 <= least <= most
    assert callable(entry.load())


def test_listing_them_costs_no_torch():
    code = "import sys; from llm_lab.probes.options import PROBES; assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
