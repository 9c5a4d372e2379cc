"""Reading and writing scans and label maps; decoded scans are cached here."""
