"""``python -m medai.cli``, for where the command itself is not on the path."""

from medai.cli.main import main

main()
