"""Every operation on a media, and the only writers of its status.

Each change is one conditional statement built from `states.TRANSITIONS`; no row back means that
somebody else was first, and the row is read again. The network is never used inside a transaction.
What happens later (dispatch, resend, expiry, purge) is a row that is due: the listener's loop
claims it, and the lease on the claim brings the row back if that process dies.
"""

from sqlalchemy import Engine

from config.settings import Settings
from mediaservice.lifecycle.deletion import Deletion
from mediaservice.lifecycle.processing import Claim, Processing
from mediaservice.lifecycle.results import ResultOutcome, Results
from mediaservice.lifecycle.rows import MediaRow, Rows
from mediaservice.lifecycle.statistics import Statistics
from mediaservice.lifecycle.uploads import RequestedUpload, UploadRequest, Uploads
from mediaservice.storage import Storage

__all__ = ["Claim", "Lifecycle", "MediaRow", "RequestedUpload", "ResultOutcome", "UploadRequest"]


class Lifecycle:
    """A media's life, by stage: `uploads`, `processing` and its `results`, at last `deletion`.

    `rows` reads; `statistics` counts.
    """

    def __init__(self, engine: Engine, storage: Storage, settings: Settings) -> None:
        self.rows = Rows(engine)
        self.uploads = Uploads(self.rows, storage, settings)
        self.processing = Processing(self.rows, storage, settings)
        self.results = Results(self.rows, settings)
        self.deletion = Deletion(self.rows, storage, settings)
        self.statistics = Statistics(self.rows)
