"""The command line: each verb's flags stand beside its function.

A module here imports only light modules at its top; what is heavy (NumPy, Pillow, ONNX Runtime,
SQLite, PyTorch) is imported inside the functions that need it, so that `wingbar --help` is quick.
"""
