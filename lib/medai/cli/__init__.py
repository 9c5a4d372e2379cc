"""The command ``medai``, one module a command."""
