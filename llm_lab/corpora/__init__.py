"""Where text comes from: one file a source, and `open_corpus`, which takes whatever names one."""
