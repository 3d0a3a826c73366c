"""One backup from start to end: stage order, commit point, verification, uploads, retention. No process of its own."""
