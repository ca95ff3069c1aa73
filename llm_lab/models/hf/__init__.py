"""Published models and ours: one table a family maps config.json and tensors, both ways. It opens no file."""
