"""Model versions on disk: publish, resolve, roll back."""
