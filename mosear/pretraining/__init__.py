"""How the embedded bases were trained, from scratch, before any method was tuned on them."""
