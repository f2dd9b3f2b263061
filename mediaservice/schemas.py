"""The JSON that goes in and out over HTTP, as marshmallow schemas; also the OpenAPI document's.

Shapes only: no queries, no limits that depend on settings.
"""

import base64
import binascii
import re
from typing import Any
from uuid import UUID

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate

from mediaservice.parsing import UUID_TEXT
from mediaservice.states import OwnerType, Status

_SHA256_BYTES = 32
_DIGITS = re.compile("[0-9]{1,9}")
_VISIBLE_ASCII = validate.Regexp(re.compile(r"[\x21-\x7e]+\Z"))


class Sha256(fields.String):
    """A SHA-256 as 64 hex digits or as 44 characters of base64; base64 inside, like S3's."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = str(super()._deserialize(value, *args, **kwargs))
        try:
            digest = (
                bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
            )
        except (ValueError, binascii.Error):
            digest = b""
        if len(digest) != _SHA256_BYTES:
            raise ValidationError("Not a SHA-256: 64 hex digits, or base64 of 32 bytes.")
        return base64.b64encode(digest).decode()


class JsonInteger(fields.Integer):
    """A JSON number without a fraction; marshmallow alone would read one out of a text, too."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not isinstance(value, int) and not (isinstance(value, float) and value.is_integer()):
            raise self.make_error("invalid")
        return super()._deserialize(value, *args, **kwargs)


class QueryInteger(fields.Integer):
    """An integer in ASCII digits; Python alone would read spaces, underscores and other scripts."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not _DIGITS.fullmatch(str(value)):
            raise self.make_error("invalid")
        return super()._deserialize(value, *args, **kwargs)


class CanonicalUuid(fields.UUID):
    """A UUID as 36 characters; Python alone would read braces, `urn:` and missing hyphens."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> UUID:
        if not isinstance(value, str) or not UUID_TEXT.fullmatch(value):
            raise self.make_error("invalid_uuid")
        return super()._deserialize(value, *args, **kwargs)


class RequestSchema(Schema):
    """A schema of requests: nothing but what is declared may be given."""

    class Meta:
        """Marshmallow's options."""

        unknown = RAISE


class ResponseSchema(Schema):
    """A schema of responses: clients have to let pass what later versions add."""

    class Meta:
        """Marshmallow's options."""

        unknown = EXCLUDE


class RequestUploadSchema(RequestSchema):
    """What the client is about to upload."""

    content_type = fields.String(
        required=True,
        validate=validate.Length(1, 255),
        metadata={"description": "Type of the image.", "example": "image/jpeg"},
    )
    size_bytes = JsonInteger(
        required=True,
        validate=validate.Range(1, 2**53),
        metadata={"description": "Exact length of the body of the PUT.", "example": 348052},
    )
    owner_type = fields.String(
        load_default=OwnerType.USER.value,
        validate=validate.OneOf([str(owner_type) for owner_type in OwnerType]),
        metadata={"description": "On whose behalf: the user's own, or an event's."},
    )
    owner_id = CanonicalUuid(
        metadata={"description": "The caller's own id, if given at all."},
    )
    checksum_sha256 = Sha256(
        metadata={
            "description": "SHA-256 of the body, as 64 hex digits or base64; the store then "
            "refuses any other body.",
            "pattern": "^([0-9A-Fa-f]{64}|[A-Za-z0-9+/]{43}=)$",
        },
    )


class IdempotencyHeaderSchema(Schema):
    """Makes a request safe to repeat."""

    idempotency_key = fields.String(
        data_key="Idempotency-Key",
        validate=[validate.Length(1, 255), _VISIBLE_ASCII],
        metadata={
            # Every dialect of regular expressions reads this one alike, unlike Python's own \Z.
            "pattern": r"^[\x21-\x7e]+$",
            "description": "A repeat with the same key and body returns the same upload, with a "
            "fresh URL while it is pending.",
        },
    )


class PresignedUploadSchema(ResponseSchema):
    """A PUT to be made as it stands."""

    upload_id = fields.UUID(required=True, metadata={"description": "Id of the media."})
    upload_url = fields.String(required=True, metadata={"description": "Where to PUT the bytes."})
    method = fields.String(required=True, metadata={"example": "PUT"})
    headers = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={"description": "To be sent verbatim: they are part of the signature."},
    )
    expires_at = fields.AwareDateTime(
        required=True, metadata={"description": "When the URL stops working."}
    )
    curl = fields.String(
        required=True,
        metadata={
            "description": "The same PUT as a line for a shell, to be run where the file is: "
            "change its name in there."
        },
    )


class CompleteUploadSchema(RequestSchema):
    """Which upload is done."""

    upload_id = CanonicalUuid(required=True)


class FailureReasonSchema(ResponseSchema):
    """Why a media failed."""

    code = fields.String(required=True, metadata={"example": "corrupt_image"})
    retryable = fields.Boolean(
        required=True,
        metadata={"description": "Whether the same bytes may still succeed in another attempt."},
    )
    message = fields.String(required=True)


class MediaStatusSchema(ResponseSchema):
    """Where a media stands."""

    id = fields.UUID(required=True)
    status = fields.String(
        required=True, validate=validate.OneOf([str(status) for status in Status])
    )
    error = fields.Nested(FailureReasonSchema, required=True, allow_none=True)
    created_at = fields.AwareDateTime(required=True)
    updated_at = fields.AwareDateTime(required=True)
    processed_at = fields.AwareDateTime(required=True, allow_none=True)


class VariantSchema(ResponseSchema):
    """One size of a finished image."""

    name = fields.String(required=True, metadata={"example": "w640"})
    url = fields.String(required=True)
    width = fields.Integer(required=True)
    height = fields.Integer(required=True)
    size_bytes = fields.Integer(required=True)
    content_type = fields.String(required=True)


class MediaSchema(MediaStatusSchema):
    """A media and, once it is ready, where to get it."""

    owner_id = fields.UUID(required=True)
    owner_type = fields.String(required=True)
    content_type = fields.String(required=True, metadata={"description": "Type of the original."})
    size_bytes = fields.Integer(required=True, metadata={"description": "Length of the original."})
    url = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "CDN URL of the main rendition; null until ready."},
    )
    width = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Pixels, of `url`."}
    )
    height = fields.Integer(
        required=True, allow_none=True, metadata={"description": "Pixels, of `url`."}
    )
    variants = fields.List(
        fields.Nested(VariantSchema),
        required=True,
        metadata={"description": "Every size there is; that of `url` is the first."},
    )
    placeholder = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Base64 ThumbHash, to be shown while the image loads."},
    )


class ListQuerySchema(RequestSchema):
    """Which of the caller's media to list."""

    owner_type = fields.String(
        validate=validate.OneOf([str(owner_type) for owner_type in OwnerType])
    )
    owner_id = CanonicalUuid(metadata={"description": "The caller's own id, if given at all."})
    status = fields.String(validate=validate.OneOf([str(status) for status in Status]))
    limit = QueryInteger(load_default=50, validate=validate.Range(1, 200))
    cursor = CanonicalUuid(metadata={"description": "`next_cursor` of the page before."})


class MediaPageSchema(ResponseSchema):
    """A page of media, newest first."""

    items = fields.List(fields.Nested(MediaSchema), required=True)
    next_cursor = fields.UUID(
        required=True,
        allow_none=True,
        metadata={"description": "Give it as `cursor` for the next page; null on the last."},
    )


class ErrorSchema(ResponseSchema):
    """What every failed request answers."""

    code = fields.Integer(required=True, metadata={"description": "The HTTP status code."})
    status = fields.String(required=True, metadata={"description": "The HTTP status text."})
    message = fields.String(required=True, metadata={"description": "What happened, what to do."})
    error = fields.String(
        required=True, metadata={"description": "Stable code for programs to act on."}
    )
    request_id = fields.String(required=True, metadata={"description": "To be quoted in reports."})
    errors = fields.Dict(metadata={"description": "Faults by field, or facts about the failure."})
