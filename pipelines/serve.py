"""`clinjepa serve`: an export as an HTTP service that scores patients."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from pipelines.scheduling.interruptions import SERVICE_LINE
from pipelines.terminal.arguments import Debug, run_as_module
from pipelines.terminal.faults import one_line_errors

TOKEN_VARIABLE = "CLINJEPA_SERVE_TOKEN"


def serve(
    folder: Annotated[str, typer.Argument(metavar="EXPORT_FOLDER", help="What `clinjepa export` wrote for an evaluated run.")],
    host: Annotated[str, typer.Option(help="Address to listen on; other machines reach 0.0.0.0, without encryption.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Scorers, each with a whole model.")] = 1,
    token_file: Annotated[str, typer.Option(help=f"File with the bearer token; by default it is in {TOKEN_VARIABLE}.")] = "",
    base: Annotated[str, typer.Option(help="Folder or model id of a base that the export names and does not hold.")] = "",
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each scorer a GPU.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a scorer.")] = 1,
    latent_cache_mb: Annotated[int, typer.Option(min=0, help="Memory of a scorer for latents of texts.")] = 256,
    key_cache_mb: Annotated[int, typer.Option(min=0, help="Memory of a scorer for keys and values of stays.")] = 512,
    most_body_mb: Annotated[int, typer.Option(min=1, help="Largest body of a request.")] = 8,
    most_waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait or be scored at once.")] = 64,
    debug: Debug = False,
) -> None:
    """Answer scoring requests over HTTP until interrupted. Needs the extra `serve` (Ray Serve) and a token."""
    with one_line_errors(debug, SERVICE_LINE):
        from clinjepa.export.folder import check_export
        from clinjepa.serving.service import Limits, token_digest
        from clinjepa.storage import Folder

        place, token = check_place(folder), read_token(token_file)
        check_export(Folder(place))
        from pipelines.serving.running import Serving, served  # loads Ray

        serving = Serving(
            place,
            token_digest(token),
            host,
            port,
            replicas,
            base or None,
            gpu,
            threads,
            (latent_cache_mb, key_cache_mb),
            Limits(most_body_mb << 20, most_waiting),
        )
        with served(serving, debug):
            typer.echo(f"answers on http://{host}:{port} (OpenAPI: /openapi.json); interrupt to end")
            while True:  # an interruption is the usual end of a service
                time.sleep(3600)


def check_place(folder: str) -> str:
    """The export's folder as an absolute path. Raises ConfigError for an address that is no local folder."""
    from clinjepa.errors import ConfigError
    from pipelines.scheduling.locations import inside_job

    if "://" in folder:
        raise ConfigError(f"{folder}: a scorer reads a local folder; copy the export to every node, or mount it")
    if inside_job() and not os.path.isabs(folder):
        raise ConfigError(f"{folder} is relative to the job's own folder; give an absolute folder that every node sees")
    return os.path.abspath(folder)


def read_token(file: str) -> str:
    """The bearer token of the file, or else of the environment, which loses it: Ray's processes would inherit it.

    Raises:
        ConfigError: There is none, the file cannot be read or is open to other users, or the token is too short or not printable.
    """
    from clinjepa.errors import ConfigError
    from clinjepa.serving.service import LEAST_TOKEN

    token, where = os.environ.pop(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
    if file:
        where = file
        try:
            mode = os.stat(file).st_mode
            token = Path(file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: the token cannot be read ({type(error).__name__})") from None
        if mode & 0o077:
            raise ConfigError(f"{file} can be read by other users; chmod 600 it")
    if not token:
        raise ConfigError(f"the service needs a token: set {TOKEN_VARIABLE} or give --token-file FILE (`openssl rand -hex 32` makes one)")
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where}: the token needs at least {LEAST_TOKEN} printable ASCII characters without spaces")
    return token


if __name__ == "__main__":
    run_as_module(serve, "serve")
