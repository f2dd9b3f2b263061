"""How images begin: the service and the worker, each by itself, take them for the same."""

import pytest

from mediaservice.sniffing import SNIFF_BYTES, sniff
from mediaworker.images import render
from mediaworker.renditions import ImageError
from tests.builders import IMAGE_HEADERS, iso_media, png

FOREIGN = [
    iso_media("isom", "isom", "iso2", "mp41"),
    iso_media("qt  "),
    b"%PDF-1.7",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"II*\0\x08\0\0\0" + bytes(100),
    b"\0\0\0\x08ftyp",
    b"",
]


@pytest.mark.parametrize(("header", "content_type"), IMAGE_HEADERS)
def test_first_bytes_tell_the_type(header, content_type):
    assert sniff(header) == content_type
    assert sniff(header + bytes(SNIFF_BYTES)) == content_type


@pytest.mark.parametrize(("header", "content_type"), IMAGE_HEADERS)
def test_the_worker_knows_what_the_service_accepts(header, content_type):
    with pytest.raises(ImageError) as raised:
        render(header)
    assert raised.value.code == "corrupt_image"


@pytest.mark.parametrize("header", FOREIGN)
def test_what_is_no_image_of_ours_is_not_taken_for_one(header):
    assert sniff(header) not in {content_type for _, content_type in IMAGE_HEADERS}
    with pytest.raises(ImageError) as raised:
        render(header)
    assert raised.value.code == "unsupported_format"


def test_an_animated_png_is_a_png_and_can_be_rendered():
    still = png()
    header, rest = still[:33], still[33:]
    control = b"\0\0\0\x08acTL" + bytes([0, 0, 0, 1, 0, 0, 0, 0]) + b"\xb4\x2d\xe9\xa0"
    assert sniff(header + control + rest) == "image/png"
    assert render(header + control + rest).main.width == 64
