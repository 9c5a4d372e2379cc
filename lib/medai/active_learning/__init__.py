"""Which case to annotate next. No torch."""
