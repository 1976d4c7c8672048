"""Models as ONNX files, and as pages that classify in a browser."""
