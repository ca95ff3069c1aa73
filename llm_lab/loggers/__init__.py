"""Other programs that a run is told to: what happens in it, under the field's usual names."""
