"""TensorRT engines: lowering a graph for a builder, and building it in a process of its own."""
