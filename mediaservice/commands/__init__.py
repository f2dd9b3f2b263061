"""The command line: `flask --app app media …`, for people who set the service up and run it.

Commands only ask, call and print; what they do is `lifecycle`, `audit`, `doctor`, `broker` and
`client`. Exit codes: 0 all is well, 1 something is not, 2 the command could not do its work.
"""

from mediaservice.commands import (
    audit,
    dead_letters,
    delete,
    doctor,
    init,
    retry,
    show,
    stats,
    upload,
)
from mediaservice.commands.terminal import Commands

__all__ = ["media"]

media = Commands(
    "media",
    help="Set the media service up, look after it, try it out.\n\nExit codes: 0 all is well, 1 "
    "something is not, 2 the command could not do its work, or was not understood.",
)
for command in (
    init.init,
    doctor.doctor,
    stats.stats,
    show.list_media,
    show.show,
    audit.audit,
    retry.retry,
    retry.reprocess,
    delete.delete,
    dead_letters.dead_letters,
    upload.upload,
):
    media.add_command(command)
