"""The product told as a story: each module reads like the description of one job."""
