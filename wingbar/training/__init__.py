"""Training, checkpoints and export: PyTorch."""
