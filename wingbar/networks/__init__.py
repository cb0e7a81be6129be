"""Backbones and layers in PyTorch. The names can be listed without it."""

BACKBONES = (
    "resnet18",
    "resnet50",
    "resnet101",
    "alexnet",
    "efficientnet_lite0",
    "resnet20",
    "resnet8",
)
"""The names of the backbones, those of the literature first; see backbones.create."""
