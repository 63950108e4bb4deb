"""Feature-level models: sequences of features per modality in, labels, label sets, scores or time series out."""
