"""The pages: what each shows, and what its forms do. How they look is in templates and static."""
