"""The control protocol: interface file, wire format, server, client, methods. Nothing is imported here on purpose."""
