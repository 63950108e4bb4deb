"""How a model is tuned. Each method is one folder behind the protocol of :mod:`mosear.methods.base`."""
