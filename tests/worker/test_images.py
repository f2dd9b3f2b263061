"""What `images.render` makes of originals of every accepted kind, and of hostile ones."""

import base64
import dataclasses
import re

import pytest
import pyvips

from mediaworker.images import _decoding_failed, _profile_is_srgb, render
from mediaworker.renditions import ImageError, Limits, Rendition
from tests.worker.pictures import (
    BLUE,
    FORMATS,
    GREEN,
    RED,
    YELLOW,
    Colour,
    animation,
    encoded,
    flat,
    heic,
    noise,
    pixels,
    png_bomb,
    riff_chunks,
    scene,
    with_coded_colours,
    with_primary,
    with_sides_of,
)

# Where the marker stands: transposed, mirrored, ... by the operations that undo each orientation.
TURNED_AS = {
    1: lambda image: image,
    2: lambda image: image.fliphor(),
    3: lambda image: image.rot180(),
    4: lambda image: image.flipver(),
    5: lambda image: image.rot90().fliphor(),
    6: lambda image: image.rot270(),
    7: lambda image: image.rot90().flipver(),
    8: lambda image: image.rot90(),
}


def shows(rendition: Rendition, *corners: Colour, tolerance: int = 8) -> bool:
    """Whether the quarters, clockwise from the top left, have these colours."""
    image = pixels(rendition.data)
    right, low = image.width * 3 // 4, image.height * 3 // 4
    left, high = image.width // 4, image.height // 4
    found = [image(*at)[:3] for at in ((left, high), (right, high), (right, low), (left, low))]
    return all(
        abs(value - wanted) <= tolerance
        for colour, corner in zip(found, corners, strict=True)
        for value, wanted in zip(colour, corner, strict=True)
    )


def code_of(original: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        render(original, limits or Limits())
    return caught.value.code


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_accepted_format_becomes_webp(format_name):
    rendered = render(encoded(scene(400, 200), format_name))
    assert (rendered.main.width, rendered.main.height) == (400, 200)
    assert rendered.main.content_type == "image/webp"
    assert shows(rendered.main, RED, GREEN, BLUE, YELLOW, tolerance=12)
    assert [(v.name, v.width, v.height) for v in rendered.variants] == [("w320", 320, 160)]


def test_the_longest_side_is_2048_and_variants_go_by_width():
    rendered = render(encoded(scene(3000, 1500), "jpeg"))
    assert (rendered.main.width, rendered.main.height) == (2048, 1024)
    assert [(v.name, v.width, v.height) for v in rendered.variants] == [
        ("w1280", 1280, 640),
        ("w640", 640, 320),
        ("w320", 320, 160),
    ]
    for rendition in (rendered.main, *rendered.variants):
        image = pixels(rendition.data)
        assert (image.width, image.height) == (rendition.width, rendition.height)
        assert shows(rendition, RED, GREEN, BLUE, YELLOW)


@pytest.mark.parametrize(
    ("size", "main", "variants"),
    [
        ((1, 1), (1, 1), []),
        ((320, 10), (320, 10), []),
        ((321, 10), (321, 10), ["w320"]),
        ((1280, 10), (1280, 10), ["w640", "w320"]),
        ((100, 4000), (51, 2048), []),
        ((16_000, 1), (2048, 1), ["w1280", "w640", "w320"]),
    ],
)
def test_nothing_is_enlarged(size, main, variants):
    rendered = render(encoded(scene(*size) if min(size) > 1 else flat(*size), "png"))
    assert (rendered.main.width, rendered.main.height) == main
    assert [variant.name for variant in rendered.variants] == variants


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
def test_a_jpeg_decoded_at_a_fraction_is_as_large_as_any(shrink):
    rendered = render(encoded(flat(shrink * 2048, 16 * shrink), "jpeg"))
    assert (rendered.main.width, rendered.main.height) == (2048, 16)


@pytest.mark.parametrize("format_name", ["jpeg", "webp", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(orientation, format_name):
    stored = TURNED_AS[orientation](scene(200, 100)).copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    rendered = render(encoded(stored, format_name))
    assert (rendered.main.width, rendered.main.height) == (200, 100)
    assert shows(rendered.main, RED, GREEN, BLUE, YELLOW, tolerance=12)


def test_a_large_rotated_photo_is_measured_upright():
    stored = scene(3000, 1500).rot270().copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", 6)
    rendered = render(encoded(stored, "jpeg"))
    assert (rendered.main.width, rendered.main.height) == (2048, 1024)
    assert shows(rendered.main, RED, GREEN, BLUE, YELLOW)


def test_heic_is_rotated_once_though_its_exif_repeats_the_rotation():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    original = heic(scene(200, 100).rot270(), exif=exif)
    assert b"irot" in original
    rendered = render(original)
    assert (rendered.main.width, rendered.main.height) == (200, 100)
    assert shows(rendered.main, RED, GREEN, BLUE, YELLOW, tolerance=12)


@pytest.mark.parametrize("format_name", ["jpeg", "png", "webp", "avif", "heic"])
def test_nothing_but_pixels_goes_out(format_name):
    picture = scene(400, 200).icc_transform("p3").copy()
    secrets = {
        "exif-ifd0-ImageDescription": "secret-exif",
        "exif-ifd3-GPSLatitude": "48/1 51/1 0/1",
    }
    for field, text in secrets.items():
        picture.set_type(pyvips.GValue.gstr_type, field, text)
    picture.set_type(pyvips.GValue.blob_type, "xmp-data", b"<x:xmpmeta>secret-xmp</x:xmpmeta>")
    picture.set_type(pyvips.GValue.blob_type, "iptc-data", b"secret-iptc")
    if format_name == "jpeg":
        picture.set_type(pyvips.GValue.gstr_type, "jpeg-comment-0", "secret-comment")
    if format_name == "heic":
        original = heic(
            picture, exif=b"Exif\0\0secret-exif", icc_profile=picture.get("icc-profile-data")
        )
    else:
        original = encoded(picture, format_name)
    assert b"secret" in original

    rendered = render(original)
    for rendition in (rendered.main, *rendered.variants):
        assert riff_chunks(rendition.data) == {b"VP8 "}
        assert b"secret" not in rendition.data


@pytest.mark.parametrize("profile", ["p3", "srgb"])
@pytest.mark.parametrize("format_name", ["jpeg", "png", "heic"])
def test_a_profile_is_applied_before_it_is_dropped(format_name, profile):
    picture = scene(400, 200).icc_transform(profile)
    embedded = picture.get("icc-profile-data")
    options = {"icc_profile": embedded} if format_name == "heic" else {}
    rendered = render(encoded(picture, format_name, **options))
    assert shows(rendered.main, RED, GREEN, BLUE, YELLOW, tolerance=12)


@pytest.mark.parametrize("format_name", ["avif", "heic"])
def test_display_p3_is_known_by_its_code_too(format_name):
    picture = scene(400, 200).icc_transform("p3")
    options = {"icc_profile": picture.get("icc-profile-data")} if format_name == "heic" else {}
    original = encoded(picture, format_name, **options)
    display_p3 = render(with_coded_colours(original, 12))
    assert shows(display_p3.main, RED, GREEN, BLUE, YELLOW, tolerance=12)
    bt709 = render(with_coded_colours(original, 1))
    assert not shows(bt709.main, RED, GREEN, BLUE, YELLOW, tolerance=12)


def test_of_several_images_the_primary_one_is_rendered():
    original = animation([flat(64, 64, RED), flat(64, 64, BLUE)], "avif")
    for item, colour in ((1, RED), (3, BLUE)):
        assert shows(render(with_primary(original, item)).main, *[colour] * 4)


def test_pixels_that_mean_other_colours_in_their_profile_are_changed():
    embedded = pyvips.Image.profile_load("p3")
    picture = scene(400, 200).copy()
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", embedded)
    red, green, _ = pixels(render(encoded(picture, "png")).main.data)(100, 50)
    assert red > RED[0] + 10
    assert green < RED[1] - 10


def test_a_profile_that_inflates_is_applied_and_not_remembered():
    """Sixteen of them would take what memory a decoder has from the images after them."""
    body = pyvips.Image.profile_load("p3")[4:] + bytes(20 * 1024 * 1024)
    picture = scene(400, 200).icc_transform("p3").copy()
    length = (len(body) + 4).to_bytes(4, "big")
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", length + body)
    original = encoded(picture, "png")
    assert len(original) < 100_000
    remembered = _profile_is_srgb.cache_info()
    assert shows(render(original).main, RED, GREEN, BLUE, YELLOW, tolerance=12)
    assert _profile_is_srgb.cache_info() == remembered


def test_a_cmyk_photo_gets_its_colours_back():
    picture = scene(400, 200).icc_transform("cmyk", black_point_compensation=True)
    assert picture.interpretation == "cmyk"
    blue_in_ink = (50, 60, 145)
    for profile_kept in ("icc", "none"):
        rendered = render(encoded(picture, "jpeg", keep=profile_kept))
        assert shows(rendered.main, RED, GREEN, blue_in_ink, YELLOW, tolerance=25)


@pytest.mark.parametrize("profile", [b"", b"not a profile", bytes(5000)])
def test_a_broken_profile_is_ignored(profile):
    picture = scene(400, 200).copy()
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    assert shows(render(encoded(picture, "jpeg")).main, RED, GREEN, BLUE, YELLOW)


@pytest.mark.parametrize("bands", [1, 3])
def test_a_profile_for_another_kind_of_image_is_ignored(bands):
    picture = scene(400, 200)[1:2].copy(interpretation="b-w") if bands == 1 else scene(400, 200)
    picture = picture.copy()
    embedded = pyvips.Image.profile_load("srgb" if bands == 1 else "cmyk")
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", embedded)
    grey = [(colour[1],) * 3 for colour in (RED, GREEN, BLUE, YELLOW)]
    corners = grey if bands == 1 else [RED, GREEN, BLUE, YELLOW]
    assert shows(render(encoded(picture, "png")).main, *corners)


@pytest.mark.parametrize("format_name", ["jpeg", "png", "avif", "heic"])
def test_grey_stays_grey(format_name):
    grey = (pyvips.Image.black(400, 200) + 90).cast("uchar").copy(interpretation="b-w")
    rendered = render(encoded(grey, format_name))
    assert shows(rendered.main, *[(90, 90, 90)] * 4)


def test_sixteen_bits_become_eight():
    deep = (scene(400, 200).cast("ushort") * 257).cast("ushort").copy(interpretation="rgb16")
    assert shows(render(encoded(deep, "png", bitdepth=16)).main, RED, GREEN, BLUE, YELLOW)
    grey = (pyvips.Image.black(400, 200) + 90 * 257).cast("ushort").copy(interpretation="grey16")
    assert shows(render(encoded(grey, "png", bitdepth=16)).main, *[(90, 90, 90)] * 4)


def test_a_palette_becomes_colours():
    original = encoded(scene(400, 200), "png", palette=True)
    assert b"PLTE" in original
    assert shows(render(original).main, RED, GREEN, BLUE, YELLOW)


@pytest.mark.parametrize("format_name", ["png", "webp", "gif", "avif", "heic"])
def test_transparency_is_kept(format_name):
    left = flat(200, 200, (*RED, 255))
    picture = left.join(flat(200, 200, (*BLUE, 0)), "horizontal")
    rendered = render(encoded(picture, format_name))
    for rendition in (rendered.main, *rendered.variants):
        image = pixels(rendition.data)
        assert image.bands == 4
        assert image(image.width // 4, image.height // 2)[3] == 255
        assert image(image.width * 3 // 4, image.height // 2)[3] == 0


def test_invisible_colours_do_not_bleed_when_shrinking():
    stripes = [flat(4000, 1, (255, 255, 255, 255)), flat(4000, 1, (0, 0, 0, 0))]
    picture = pyvips.Image.arrayjoin(stripes, across=1).replicate(1, 50)
    image = pixels(render(encoded(picture, "png")).main.data)
    assert image(1000, 20)[0] > 240
    assert 100 < image(1000, 20)[3] < 160


def test_an_alpha_channel_that_hides_nothing_is_dropped():
    picture = scene(3000, 1500).bandjoin(255)
    rendered = render(encoded(picture, "png"))
    assert riff_chunks(rendered.main.data) == {b"VP8 "}


@pytest.mark.parametrize("format_name", ["gif", "webp"])
def test_only_the_first_frame_of_an_animation_is_rendered(format_name):
    original = animation([scene(400, 200), flat(400, 200, BLUE)], format_name)
    rendered = render(original)
    assert (rendered.main.width, rendered.main.height) == (400, 200)
    assert shows(rendered.main, RED, GREEN, BLUE, YELLOW, tolerance=12)


def test_the_same_bytes_in_give_the_same_bytes_out():
    original = encoded(noise(2500, 300), "jpeg")
    assert render(original) == render(original)


def test_the_placeholder_is_a_thumbhash_of_the_right_shape():
    wide, tall = (
        base64.b64decode(render(encoded(scene(*size), "png")).placeholder)
        for size in ((400, 200), (200, 400))
    )
    landscape_bit = 0x80
    assert wide[4] & landscape_bit
    assert not tall[4] & landscape_bit


# Hostile and broken originals


@pytest.mark.parametrize(
    "original",
    [
        b"",
        b"\xff",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"<?xml version='1.0'?><svg/>",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"PK\x03\x04" + bytes(100),
        b"BM" + bytes(100),
        b"GIF88a" + bytes(100),
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100),
        b"\0\0\0\x08ftyp",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 ",
        b"\xff\x4f\xff\x51" + bytes(100),
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n" + bytes(4),
    ],
)
def test_anything_not_on_the_list_is_refused(original):
    assert code_of(original) == "unsupported_format"


def test_a_format_libvips_knows_but_we_do_not_accept_is_refused():
    assert code_of(scene(400, 200).tiffsave_buffer()) == "unsupported_format"


@pytest.mark.parametrize(
    "magic",
    [
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x64\0\0\0WEBP",
        b"GIF89a",
        b"\0\0\0\x18ftypavif\0\0\0\0avifmif1",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    ],
)
@pytest.mark.parametrize("rest", [b"", b"<svg/>", bytes(1000), b"\xff" * 1000])
def test_the_right_magic_before_the_wrong_bytes_is_corrupt(magic, rest):
    assert code_of(magic + rest) == "corrupt_image"


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_corrupt_and_not_half_grey(format_name, kept):
    original = encoded(noise(200, 150), format_name)
    assert code_of(original[: int(len(original) * kept)]) == "corrupt_image"


def test_bytes_after_the_end_are_ignored():
    original = encoded(scene(400, 200), "jpeg") + b"PK\x03\x04<script>" + bytes(1000)
    rendered = render(original)
    assert b"script" not in rendered.main.data


@pytest.mark.parametrize("sides", [(50_000, 50_000), (1_000_000, 1), (16_385, 1), (7_072, 7_072)])
def test_a_png_that_promises_too_many_pixels_is_refused_by_its_header(sides):
    assert code_of(png_bomb(*sides)) == "image_too_large"


@pytest.mark.parametrize("sides", [(65_535, 200), (400, 65_535), (16_000, 16_000)])
@pytest.mark.parametrize("format_name", ["jpeg", "gif", "avif", "heic"])
def test_huge_sides_are_refused_by_the_header(format_name, sides):
    original = with_sides_of(encoded(scene(400, 200), format_name), *sides)
    assert code_of(original) == "image_too_large"


def test_a_huge_webp_canvas_is_refused_by_the_header():
    small = animation([scene(400, 200), flat(400, 200)], "webp")
    assert code_of(with_sides_of(small, 16_000, 16_000)) == "image_too_large"


@pytest.mark.parametrize("format_name", ["gif", "webp"])
def test_too_many_frames_are_refused(format_name):
    frames = [flat(4, 4, (20 * i, 255 - 20 * i, 0)) for i in range(12)]
    original = animation(frames, format_name)
    assert render(original, Limits(max_frames=12)).main.width == 4
    assert code_of(original, Limits(max_frames=11)) == "image_too_large"


@pytest.mark.parametrize("format_name", FORMATS)
def test_limits_are_inclusive(format_name):
    original = encoded(scene(400, 200), format_name)
    exact = Limits(len(original), max_pixels=400 * 200, max_side=400, max_frames=1)
    assert render(original, exact).main.width == 400
    for field in ("max_input_bytes", "max_pixels", "max_side"):
        tighter = dataclasses.replace(exact, **{field: getattr(exact, field) - 1})
        assert code_of(original, tighter) == "image_too_large"


def test_an_error_says_what_was_found():
    with pytest.raises(ImageError, match=re.escape("image_too_large: 20000 x 10 pixels")):
        render(png_bomb(20_000, 10))


@pytest.mark.parametrize(
    ("detail", "code"),
    [
        ("Security limit exceeded: Image size 40000x40000", "image_too_large"),
        ("Security limit exceeded: too many references", "corrupt_image"),
        ("Maximum supported image dimension is 65500 pixels", "image_too_large"),
        ("premature end of JPEG image", "corrupt_image"),
    ],
)
def test_what_the_libraries_say_of_an_image_is_told_as_a_code(detail, code):
    failure = _decoding_failed(detail)
    assert isinstance(failure, ImageError)
    assert (failure.code, failure.message) == (code, detail)


@pytest.mark.parametrize("detail", ["vips_malloc: out of memory", "Memory allocation error: x"])
def test_a_lack_of_memory_is_no_fault_of_the_image(detail):
    assert isinstance(_decoding_failed(detail), MemoryError)
