"""The outermost room: train and evaluate flows, config validation, strategies. Nothing else imports it."""
