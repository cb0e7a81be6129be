"""A trained or built-in encoder run with ONNX Runtime: images in, codes and features out."""
