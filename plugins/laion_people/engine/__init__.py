"""What runs any step: planning, resuming, writing whole shards, counting, auditing. It knows no step by name."""
