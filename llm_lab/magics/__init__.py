"""The magics: each parses a line and a cell, calls one verb, and shows its result."""
