"""One backup from start to end: stage order, the commit point, verification, uploads, retention. Starts no processes itself."""
