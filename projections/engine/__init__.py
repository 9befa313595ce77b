"""What applies events to read models: batches, checkpoints, parked streams."""
