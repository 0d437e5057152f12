"""Student -> ONNX -> what ships for each target."""
