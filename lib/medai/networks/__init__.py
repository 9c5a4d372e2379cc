"""Networks, their weights on disk and the engines that run them."""
