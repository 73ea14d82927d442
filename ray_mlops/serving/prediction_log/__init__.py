"""The log of predictions: bounded, exactly accounted, Parquet by model and day."""
