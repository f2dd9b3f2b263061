"""Every failure once: its code is unique, its status fits, its sentence says what to do."""

import re
from http import HTTPStatus
from typing import get_args

from mediaservice import errors
from mediaservice.errors import Failure, MediaError, describe_error_code, is_worth_retrying
from mediaworker import worker
from mediaworker.renditions import ErrorCode

FAILURES = {name: value for name, value in vars(errors).items() if isinstance(value, Failure)}


def test_a_failure_is_named_as_its_code():
    assert {name.lower() for name in FAILURES} == {failure.code for failure in FAILURES.values()}


def test_every_failure_has_a_status_of_its_kind_and_a_sentence():
    for failure in FAILURES.values():
        assert 400 <= HTTPStatus(failure.http_status) < 600
        assert re.fullmatch(r"[A-Z].*\.", failure.message) or failure.message[0] == "o"
        assert failure.code not in failure.message


def test_what_is_worth_repeating_is_marked_retryable():
    retryable = {failure.code for failure in FAILURES.values() if failure.retryable}
    assert retryable == {
        "upload_not_found",
        "too_many_pending",
        "store_unavailable",
        "database_unavailable",
        "authentication_unavailable",
    }


def test_every_code_of_the_reference_worker_has_its_sentence():
    faults = [*worker.FAULTS.values(), worker.INTERNAL_ERROR]
    reported = set(get_args(ErrorCode)) | {code for code, _ in faults}
    assert reported <= set(errors.PROCESSING_MESSAGES)


def test_a_foreign_workers_code_gets_the_general_sentence():
    general = errors.PROCESSING_MESSAGES[errors.PROCESSING_FAILED]
    assert describe_error_code("gpu_on_fire", is_pinned=True) == general
    assert describe_error_code("corrupt_image", is_pinned=True) != general


def test_a_foreign_workers_code_is_its_own_even_if_it_has_the_name_of_a_failed_uploads():
    code = errors.UPLOAD_EXPIRED.code
    general = errors.PROCESSING_MESSAGES[errors.PROCESSING_FAILED]
    assert describe_error_code(code, is_pinned=False) == errors.UPLOAD_EXPIRED.message
    assert describe_error_code(code, is_pinned=True) == general
    assert not is_worth_retrying(code, is_pinned=False)
    assert is_worth_retrying(code, is_pinned=True)


def test_what_the_same_bytes_will_meet_again_is_not_worth_retrying():
    final = {
        code for code in errors.PROCESSING_MESSAGES if not is_worth_retrying(code, is_pinned=True)
    }
    assert final == {
        "unsupported_format",
        "corrupt_image",
        "image_too_large",
        "original_missing",
        "original_changed",
    }


def test_a_media_error_keeps_its_facts():
    error = MediaError(errors.UPLOAD_TOO_LARGE, details={"max_upload_bytes": 7})
    assert (str(error), error.details) == ("upload_too_large", {"max_upload_bytes": 7})
