"""How a request's JSON, query and headers are read: strictly, and never at the client's mercy.

What two readers could understand differently is refused: unknown and repeated names, numbers that
JSON does not have. Shapes are `schemas`' business.
"""

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, NoReturn

from flask import Request, request
from flask_smorest import Blueprint, abort
from marshmallow import RAISE, Schema, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

Decorator = Callable[[Any], Any]

MAX_BODY_BYTES: Final = 64 * 1024
UUID_TEXT: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""A UUID as 36 characters; Python alone would read braces, `urn:` and missing hyphens."""
_LONGEST_NUMBER: Final = 30


class StrictParser(FlaskParser):
    """webargs' parser, which lets nothing pass in a query that is not declared, or is repeated."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - as webargs declares it
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": RAISE,
    }

    def load_querystring(self, req: Request, schema: Schema) -> Any:
        """Return the query, or raise ValidationError naming what is given more than once."""
        repeated = [name for name, values in req.args.lists() if len(values) > 1]
        if repeated:
            raise ValidationError({name: ["Given more than once."] for name in repeated})
        return super().load_querystring(req, schema)


class StrictBlueprint(Blueprint):
    """A blueprint whose arguments are read strictly.

    Its views return finished responses, so what describes those is for the document alone.
    """

    ARGUMENTS_PARSER = StrictParser()

    def add_url_rule(
        self, rule: str, endpoint: Any = None, view_func: Any = None, **kwargs: Any
    ) -> None:
        """Register a view; in generated clients, too, it has the name of its function."""
        named = self.doc(operationId=view_func.__name__)(view_func)
        super().add_url_rule(rule, endpoint, named, **kwargs)

    def arguments(self, schema: Schema, *, location: str = "json", **kwargs: Any) -> Decorator:
        """Give the view what a schema reads.

        The body, and headers that are usually absent, bypass webargs, which takes as long as the
        rest of the view.
        """
        decorate = super().arguments(schema, location=location, **kwargs)
        names = [field.data_key or name for name, field in schema.fields.items()]

        def give(view: Any) -> Any:
            by_webargs = decorate(view)

            @wraps(by_webargs)
            def from_body(*args: Any, **kwargs: Any) -> Any:
                return view(*args, _load_body(schema), **kwargs)

            @wraps(by_webargs)
            def from_headers(*args: Any, **kwargs: Any) -> Any:
                if any(name in request.headers for name in names):
                    return by_webargs(*args, **kwargs)
                return view(*args, {}, **kwargs)

            if location == "json":
                return from_body
            return from_headers if location == "headers" else by_webargs

        return give

    def response(self, *args: Any, **kwargs: Any) -> Decorator:
        """Document the usual response."""
        return _document(super().response(*args, **kwargs))

    def alt_response(self, *args: Any, **kwargs: Any) -> Decorator:
        """Document another response."""
        return _document(super().alt_response(*args, **kwargs))

    @staticmethod
    def doc(**kwargs: Any) -> Decorator:
        """Document whatever else there is to say."""
        return _document(Blueprint.doc(**kwargs))


def _document(decorate: Decorator) -> Decorator:
    """Spare a view the wrappers that decorators hang its documentation on."""

    def document(view: Any) -> Any:
        view._apidoc = decorate(view)._apidoc  # noqa: SLF001 - as flask-smorest itself has it
        return view

    return document


def _load_body(schema: Schema) -> Any:
    """Return what a schema reads in a body that is declared, and is, JSON without ambiguities."""
    if not request.is_json:
        abort(415)
    try:
        return schema.load(decode_json(_read_body(request)))
    except ValidationError as error:
        abort(422, exc=error, messages={"json": error.messages})
    except ValueError as error:
        abort(400, message=f"The body is not JSON as this service reads it: {error}.")


def _read_body(req: Request) -> bytes:
    """Return the whole body; a cut or overlong one is a failure, where werkzeug would shorten it.

    The application's MAX_CONTENT_LENGTH must be larger than MAX_BODY_BYTES.
    """
    length = req.content_length
    if length is not None and length > MAX_BODY_BYTES:
        abort(413)
    try:
        # What comes in chunks is measured by werkzeug; what has a length needs no more than that.
        body: bytes = req.get_data() if length is None else req.environ["wsgi.input"].read(length)
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001 - each server has its own for a body that is ill-framed
        abort(400, message="The body could not be read to its end.")
    if len(body) > MAX_BODY_BYTES:
        abort(413)
    if length not in (None, len(body)):
        abort(400, message="The body is shorter than its Content-Length.")
    return body


def decode_json(body: bytes) -> Any:
    """Return the value of a JSON text, or raise ValueError with a reason that quotes nothing."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg}, at character {error.pos}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is repeated")
    return found


def _short_int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return int(digits)


def _no_number(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON numbers")


_decoder = json.JSONDecoder(
    object_pairs_hook=_unambiguous, parse_constant=_no_number, parse_int=_short_int
)
