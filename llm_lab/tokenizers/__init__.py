"""Text to tokens and back: a thin layer over the `tokenizers` library."""
