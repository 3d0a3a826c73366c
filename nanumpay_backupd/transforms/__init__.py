"""What happens to bytes between the source and the artifact: compression into tar.gz. No knowledge of MongoDB."""
