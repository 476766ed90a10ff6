"""Looking and measuring: explain, pictures, dumps, the benchmark and the doctor."""
