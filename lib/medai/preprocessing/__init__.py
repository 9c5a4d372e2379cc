"""From a scan to what a network sees: windows, resampled patches, lungs."""
