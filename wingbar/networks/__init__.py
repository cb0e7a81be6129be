"""Backbones and layers in PyTorch."""
