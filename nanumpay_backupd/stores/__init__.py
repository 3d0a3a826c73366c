"""Places for copies. `base` is the contract; each driver is a module; `factory` picks one and wraps it."""
