"""What a run will take, before it does anything: memory, steps."""
