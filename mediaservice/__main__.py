"""`python -m mediaservice`: the command line of a client, without any setting of the service."""

import click

from mediaservice.commands.upload import upload

main = click.Group("mediaservice", commands=[upload], help="Use a media service from elsewhere.")

if __name__ == "__main__":
    main(prog_name="python -m mediaservice")
