"""Models: cards to predictors; the only door to torch and ONNX Runtime."""
