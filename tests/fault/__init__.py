"""What happens when something dies, fills up or lies."""
