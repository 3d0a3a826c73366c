"""`nanumpay-backupd restore --from PLACE`: a restore on a machine that has nothing but the copies."""
