"""Where settings come from: the application's document, the host file, the last-good cache. Nothing acts on them."""
