"""The stages of a fit, one file each: sample, coarse, partition, fine, label."""
