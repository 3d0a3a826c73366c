"""What can be backed up. `base` is the contract; each source is a module; `factory` picks one."""
