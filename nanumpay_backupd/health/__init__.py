"""Pure: what is out of the ordinary (`sizes`), too old or about to end (`ages`), or will not fit (`room`)."""
