"""The command line: `flask --app app media …`, for people who set the service up and run it.

Commands only ask, call and print; what they do is `lifecycle`, `audit`, `doctor`, `broker` and
`client`. Exit codes: 0 all is well, 1 something is not, 2 it could not be found out.
"""

from mediaservice.commands.dead_letters import dead_letters
from mediaservice.commands.examine import audit, doctor
from mediaservice.commands.operate import init, reprocess, retry, stats
from mediaservice.commands.terminal import Commands
from mediaservice.commands.upload import upload

__all__ = ["media"]

media = Commands(
    "media",
    help="Set the media service up, look after it, try it out.\n\nExit codes: 0 all is well, 1 "
    "something is not, 2 it could not be found out (or the command was not understood).",
)
for command in (init, doctor, stats, audit, retry, reprocess, dead_letters, upload):
    media.add_command(command)
