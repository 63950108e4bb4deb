"""Settings of steering policies, searched on validation clips."""
