"""The command ``medai``: puts the subcommands together and turns errors into one line and exit code 2.

Start-up time is a promise (``medai --help`` in under half a second): modules here import typer and the standard library
at the top, and everything heavier inside the function that needs it.
"""

import logging
import sys
from typing import NoReturn

import typer

from medai.cli import (
    annotations,
    annotators,
    audit,
    bench,
    demo,
    evaluate,
    import_scans,
    infer,
    models,
    phantom,
    score,
    serve,
    simulate,
    status,
    train,
)
from medai.cli.environment import set_library_defaults
from medai.errors import CancelledByUserError, MedaiError

_log = logging.getLogger(__name__)

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="medai",
    help="Lung-nodule annotation with MONAI Label and 3D Slicer.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("import")(import_scans.import_scans)
app.add_typer(infer.app, name="infer")
app.command("score")(score.score)
app.command("status")(status.status)
app.command("audit")(audit.audit)
app.command("train")(train.train)
app.command("annotations")(annotations.list_annotations)
app.command("annotators")(annotators.annotators)
app.add_typer(evaluate.app, name="evaluate")
app.command("demo")(demo.demo)
app.add_typer(models.app, name="models")
app.add_typer(simulate.app, name="simulate")
app.add_typer(bench.app, name="bench")
app.add_typer(phantom.app, name="phantom")


def _show_version(value: bool) -> None:
    if value:
        import medai

        typer.echo(f"medai {medai.__version__}")
        raise typer.Exit


@app.callback()
def configure(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say what happens inside, with times."),
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Set up logging before any command."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(levelname)s: %(message)s",
    )


def main() -> None:
    """Run the command line; the exit code is 2 for bad input, 130 when interrupted."""
    set_library_defaults()
    try:
        code = app(args=serve.join_conf(sys.argv[1:]), standalone_mode=False)
    except typer.TyperException as error:
        # Usage errors: typer's own classes below this one are private to it.
        context = getattr(error, "ctx", None)
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message)
            sys.exit(0)
        _fail(f"{message} See: {context.command_path if context else 'medai'} --help")
    except (typer.Abort, KeyboardInterrupt, CancelledByUserError) as error:
        typer.echo(f"medai: stopped. {error}".rstrip(), err=True)
        sys.exit(EXIT_INTERRUPTED)
    except MedaiError as error:
        _fail(str(error))
    except OSError as error:
        # A disk that fails in the middle, or a file of another program's: nobody is helped by our lines of code.
        _log.info("The disk or the system refused", exc_info=error)
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}. Check the path, its permissions and the disk; -v says more.")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    one_line = " ".join(message.split())
    typer.echo(f"medai: {one_line}", err=True)
    sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
