"""Put on PYTHONPATH as a folder, so that Python loads its sitecustomize at start; not imported as a package."""
