"""How a model answers: label scores, generated text, and what each modality says alone. One implementation of each."""
