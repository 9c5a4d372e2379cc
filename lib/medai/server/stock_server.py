"""``python -m medai.server.stock_server APP STUDIES PORT``: stock MONAI Label to compare with."""

import sys
from pathlib import Path

from medai.server.compat import prepare


def main(app: str, studies: str, port: str) -> None:
    """Serve until stopped, with MONAI Label's own application object and settings."""
    prepare()
    import uvicorn
    from monailabel.config import settings

    from medai.server.stock_baseline import write_stock_app

    settings.MONAI_LABEL_APP_DIR = str(write_stock_app(Path(app)))
    settings.MONAI_LABEL_STUDIES = studies
    settings.MONAI_LABEL_SERVER_PORT = int(port)
    uvicorn.run("monailabel.app:app", host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:4])
