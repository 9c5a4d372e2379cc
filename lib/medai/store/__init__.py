"""The study folder: images, labels with their info, reservations; safe between processes."""
