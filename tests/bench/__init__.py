"""`make bench`: speed and memory of the product beside the other ways, as ratios measured in one run."""
