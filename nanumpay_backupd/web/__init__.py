"""The web page and the application's API: a service of its own, and a client of the control socket like any other.

It knows the protocol and nothing behind it: no pipeline, no stores, no catalog. If it falls over, backups go on.
"""
