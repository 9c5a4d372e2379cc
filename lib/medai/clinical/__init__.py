"""Pure functions of clinical practice: measurements, and later risk and guidelines."""
