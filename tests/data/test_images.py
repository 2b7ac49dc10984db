"""Odd images: each is shown as a person sees it, or refused in one line with the fix."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from liveedit.data.images import check_readable, faults, image_key, image_title, open_image
from liveedit.errors import BadInput

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 23
"""Rows of greys from 0 to 253."""
COLOURS = [(255, 0, 0), (0, 128, 0), (10, 20, 200), (255, 255, 255), (0, 0, 0), (120, 120, 120)]
WHITE, RED, GREEN = (255, 255, 255), (255, 0, 0), (0, 255, 0)
RESAVED = {"LAB": 20, "YCbCr": 2, "HSV": 4}
"""By how much a colour moves on its way into a mode and back: in LAB much where a colour is pure.
"""


def colours():
    picture = Image.new("RGB", (3, 2))
    picture.putdata(COLOURS)
    return picture


def pixels(image):
    return [tuple(map(int, pixel)) for pixel in np.asarray(open_image(image)).reshape(-1, 3)]


def in_lab(picture):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")


def sixteen(values=GREY, mode="I;16"):
    """The greys in 16 bits, stored in the order of ``mode``."""
    deep = np.asarray(values, dtype=np.uint16) * 257
    order = ">u2" if mode == "I;16B" else "<u2"
    return Image.frombytes(mode, deep.shape[::-1], deep.astype(order).tobytes())


def png(bits, kind, row, transparent=b"", width=2):
    """The bytes of a PNG file of one row: ``kind`` 0 is grey, 2 colours."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0))]
    parts += [chunk(b"tRNS", transparent)] if transparent else []
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [*parts, chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "P"]
)
def test_every_mode_of_colours(mode):
    given = (
        in_lab(colours())
        if mode == "LAB"
        else colours().convert(mode, palette=Image.Palette.ADAPTIVE)
    )
    assert given.mode == mode
    assert np.abs(np.subtract(pixels(given), COLOURS)).max() <= RESAVED.get(mode, 0)


@pytest.mark.parametrize("mode", ["L", "LA", "La", "PA", "I;16", "I;16L", "I;16B", "I;16N", "F"])
def test_every_mode_of_greys_keeps_all_levels(mode):
    eight = Image.fromarray(GREY)
    if mode == "F":
        image = Image.fromarray((GREY / 255).astype(np.float32))
    elif mode.startswith("I"):
        image = sixteen(mode=mode)
    elif mode == "La":
        image = eight.convert("LA").convert("La")
    else:
        image = (eight.convert("P") if mode == "PA" else eight).convert(mode)
    assert image.mode == mode
    assert np.array_equal(np.asarray(open_image(image)), np.asarray(eight.convert("RGB")))


def test_one_bit():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(image) == [(0, 0, 0), WHITE]


def half_clear(mode):
    """A pixel, one half transparent, and one not to be seen at all, all of one colour."""
    alpha = Image.new("L", (3, 1))
    alpha.putdata([255, 128, 0])
    picture = Image.new("RGB", (3, 1), (200, 0, 0)) if "RGB" in mode else Image.new("L", (3, 1), 60)
    picture = picture.convert("P") if mode == "PA" else picture
    picture.putalpha(alpha)
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_transparent_pictures_stand_on_a_white_page(mode):
    image = half_clear(mode)
    assert image.mode == mode
    first, half, clear = pixels(image)
    assert first == ((200, 0, 0) if "RGB" in mode else (60, 60, 60))
    assert np.allclose(half, (np.array(first) + 255) / 2, atol=1)
    assert clear == WHITE


def test_a_palette_with_transparency(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, 0, 0, 255])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "one.gif", transparency=1)
    image.save(tmp_path / "some.png", transparency=bytes([255, 255, 0]))
    assert pixels(tmp_path / "one.gif") == [RED, WHITE, (0, 0, 255)]
    assert pixels(tmp_path / "some.png") == [RED, GREEN, WHITE]


@pytest.mark.parametrize(
    ("bits", "kind", "row", "transparent", "wanted"),
    [
        (1, 0, b"\x40", struct.pack(">H", 0), [WHITE, WHITE]),
        (2, 0, b"\x90", struct.pack(">H", 2), [WHITE, (85, 85, 85)]),
        (4, 0, b"\x2c", struct.pack(">H", 2), [WHITE, (204, 204, 204)]),
        (8, 0, b"\x02\xcc", struct.pack(">H", 2), [WHITE, (204, 204, 204)]),
        (16, 0, struct.pack(">2H", 300, 257), struct.pack(">H", 300), [WHITE, (1, 1, 1)]),
        (8, 2, bytes([*RED, *GREEN]), struct.pack(">3H", *RED), [WHITE, GREEN]),
        (
            16,
            2,
            struct.pack(">6H", 0x1234, 0, 0, 0x3400, 0, 0),
            struct.pack(">3H", 0x1234, 0, 0),
            [WHITE, (0x34, 0, 0)],
        ),
    ],
)
def test_one_transparent_colour_of_any_depth(tmp_path, bits, kind, row, transparent, wanted):
    (tmp_path / "key.png").write_bytes(png(bits, kind, row, transparent))
    assert pixels(tmp_path / "key.png") == wanted


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2"])
def test_files_of_sixteen_bits(tmp_path, name):
    sixteen().save(tmp_path / name)
    assert [pixel[0] for pixel in pixels(tmp_path / name)] == GREY.flatten().tolist()


def test_other_ranges_than_sixteen_bits(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1000\n" + struct.pack(">2H", 500, 1000))
    assert pixels(tmp_path / "a.pgm") == [(128, 128, 128), WHITE]
    sixteen([[0, 255]]).save(tmp_path / "inverted.tif", tiffinfo={262: 0})
    assert pixels(tmp_path / "inverted.tif") == [WHITE, (0, 0, 0)]
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "float.tif")
    assert pixels(tmp_path / "float.tif") == [(0, 0, 0), (128, 128, 128), WHITE]


def tiff(data, bits, **more):
    """The bytes of a TIFF file of two pixels in one row; ``more`` are further tags, as ``t281``."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    form = {258: bits, 259: 1, 262: 1 if isinstance(bits, int) else 2, 277: np.size(bits)}
    more = {int(name[1:]): value for name, value in more.items()}
    for tag, value in ({256: 2, 257: 1} | form | {273: 0, 278: 1, 279: len(data)} | more).items():
        tags[tag] = value
    out = io.BytesIO()
    tags.save(out)
    return out.getvalue() + data  # to whose place the tag 273 is moved


def test_twelve_bits(tmp_path):
    """A white pixel and a grey one, 0xFFF and 0x800, in three bytes."""
    (tmp_path / "twelve.tif").write_bytes(tiff(b"\xff\xf8\x00", 12))
    assert pixels(tmp_path / "twelve.tif") == [WHITE, (128, 128, 128)]
    with Image.open(tmp_path / "twelve.tif") as opened:
        assert pixels(opened) == [WHITE, (128, 128, 128)]
        assert pixels(opened.copy()) == [
            (16, 16, 16),
            (8, 8, 8),
        ]  # of which nothing tells that there are 12


@pytest.mark.parametrize(("most", "wanted"), [(4095, 255), (8190, 128), (65535, 16), (0, 16)])
def test_a_tiff_that_says_what_is_white(tmp_path, most, wanted):
    (tmp_path / "a.tif").write_bytes(tiff(struct.pack("<2H", 4095, 0), 16, t281=most))
    assert pixels(tmp_path / "a.tif") == [(wanted,) * 3, (0, 0, 0)]


def test_what_a_tiff_of_eight_bits_says_is_white_does_not_matter(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(bytes([*RED, *GREEN]), (8, 8, 8), t281=(100, 100, 100)))
    assert pixels(tmp_path / "a.tif") == [RED, GREEN]
    (tmp_path / "a.tif").write_bytes(
        tiff(struct.pack("<6H", *(257 * each for each in (*RED, *GREEN))), (16, 16, 16))
    )
    assert pixels(tmp_path / "a.tif") == [RED, GREEN]


def targa(path, flags, kind, depth, data):
    """A file of four pixels."""
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, kind, 0, 0, 0, 0, 0, 2, 2, depth, 0x20 | flags)
    path.write_bytes(head + data + bytes(26))  # as many as Pillow looks for a footer in
    return path


@pytest.mark.parametrize("kind", ["colours", "few colours", "greys"])
def test_the_alpha_of_a_targa_that_says_it_has_none(tmp_path, kind):
    red, green = b"\0\0\xff\0", b"\0\xff\0\0"
    form, data, bits, wanted = {
        "colours": ((2, 32), (red + green) * 2, 8, [RED, GREEN]),
        "few colours": ((2, 16), struct.pack("<2H", 0xFC00, 0x83E0) * 2, 1, [RED, GREEN]),
        "greys": ((3, 16), b"\x0a\0\xc8\0" * 2, 8, [(10, 10, 10), (200, 200, 200)]),
    }[kind]
    opaque = targa(tmp_path / "opaque.tga", 0, *form, data)
    assert pixels(opaque) == wanted * 2
    with Image.open(opaque) as opened:
        assert pixels(opened) == wanted * 2
        assert pixels(opened) == wanted * 2  # now that it is loaded
    assert pixels(targa(tmp_path / "clear.tga", bits, *form, data)) == [WHITE] * 4


def test_formats_in_which_the_bit_of_a_black_pixel_is_set(tmp_path):
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, 1, 8, 1, 0)
    (tmp_path / "a.psd").write_bytes(head + bytes(14) + b"\xf0")
    (tmp_path / "a.xbm").write_text(
        "#define a_width 8\n#define a_height 1\nstatic char a_bits[] = {\n0x0f };\n"
    )
    for name in ("a.psd", "a.xbm"):
        assert pixels(tmp_path / name) == [(0, 0, 0)] * 4 + [WHITE] * 4


@pytest.mark.parametrize("mode", ["CMYK", "YCCK"])
def test_a_jpeg_for_print_is_not_shown_inverted(tmp_path, mode):
    plain = Image.new("RGB", (16, 16), (250, 60, 30))
    plain.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    if mode == "CMYK":
        assert np.allclose(pixels(tmp_path / "print.jpg")[0], (250, 60, 30), atol=4)
        return
    ycc = np.asarray(Image.new("RGB", (16, 16), (5, 195, 225)).convert("YCbCr"))  # of its ink
    black = np.zeros((16, 16, 1), np.uint8)
    Image.fromarray(np.concatenate([255 - ycc, black], 2), "CMYK").save(
        tmp_path / "print.jpg", quality=95
    )
    place = (data := (tmp_path / "print.jpg").read_bytes()).index(b"Adobe") + 11
    (tmp_path / "print.jpg").write_bytes(data[:place] + b"\x02" + data[place + 1 :])
    assert np.allclose(pixels(tmp_path / "print.jpg")[0], (250, 60, 30), atol=6)


def turned(path, orientation=6, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.new("RGB", (32, 16), RED)
    picture.paste(GREEN, (0, 0, 16, 16))  # on the left, which for 6 is where the camera's top was
    picture.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.jpg"])
def test_a_photo_is_turned_upright(tmp_path, name):
    shown = open_image(turned(tmp_path / name))
    assert shown.size == (16, 32)
    assert np.allclose(shown.getpixel((8, 4)), GREEN, atol=12)


def test_a_picture_straight_from_its_file_is_turned_and_one_made_in_memory_is_not(tmp_path):
    path = turned(tmp_path / "a.png")
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(open_image(opened)), np.asarray(open_image(path)))
        assert open_image(opened.convert("RGB")).size == opened.size
    assert open_image(open_image(path)).size == (16, 32)


def test_a_damaged_note_of_the_camera_does_not_matter(tmp_path):
    broken = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01"
    Image.new("RGB", (3, 2)).save(tmp_path / "a.jpg", exif=broken)
    assert open_image(tmp_path / "a.jpg").size == (3, 2)


def test_any_size_that_holds_a_pixel(tmp_path):
    for size in [(1, 1), (3000, 1), (1, 3000)]:
        Image.new("RGB", size, RED).save(tmp_path / "a.png")
        assert open_image(tmp_path / "a.png").size == size


def test_the_content_counts_and_not_the_name(tmp_path):
    Image.new("RGB", (2, 2), RED).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert pixels(tmp_path / "a.jpg") == [RED] * 4


def test_paths_of_any_kind(tmp_path, monkeypatch):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "a.png")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff caf\xe9.png")
    Path(odd).hardlink_to(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        "~/a.png",
        Path("~/a.png"),
        odd,
        tmp_path / "link.png",
    ]:
        assert pixels(path) == [RED]


def test_one_frame_of_a_format_that_can_move(tmp_path):
    for name in ("a.gif", "a.webp", "a.tif"):
        Image.new("RGB", (2, 2), RED).save(
            tmp_path / name, **({"lossless": True} if name == "a.webp" else {})
        )
        assert pixels(tmp_path / name) == [RED] * 4


def test_a_photo_with_others_beside_it(tmp_path):
    Image.new("RGB", (8, 8), RED).save(
        tmp_path / "a.mpo", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    with Image.open(tmp_path / "a.mpo") as opened:
        assert opened.n_frames == 2
    assert np.allclose(pixels(tmp_path / "a.mpo")[0], RED, atol=2)


def cut(name):
    """A file that ends in the middle."""

    def make(folder):
        noise = Image.fromarray(
            np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        )
        noise.save(folder / name)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
        return folder / name

    return make


def moving(name, **options):
    def make(folder):
        frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, "blue")]
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], **options)
        return folder / name

    return make


def written(name, data=b""):
    def make(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return make


def pipe(folder):
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def opened(make):
    return lambda folder: Image.open(make(folder))


def closed(folder):
    Image.new("RGB", (2, 2)).save(folder / "closed.png")
    with Image.open(folder / "closed.png") as image:
        return image


def loop(folder):
    (folder / "loop.png").symlink_to("loop.png")
    return folder / "loop.png"


def fits(bits, data):
    """A FITS file of two pixels in one row."""
    cards = {"SIMPLE": "T", "BITPIX": bits, "NAXIS": 2, "NAXIS1": 2, "NAXIS2": 1}
    head = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in cards.items()) + "END"
    return written("a.fits", head.ljust(2880).encode() + data.ljust(2880, b"\0"))


def test_fits_of_eight_bits(tmp_path):
    assert pixels(fits(8, b"\x01\xff")(tmp_path)) == [(1, 1, 1), WHITE]


def floats(*values):
    return lambda _: Image.fromarray(np.array([values], np.float32))


REFUSED = {
    "animated GIF": (
        moving("a.gif"),
        r"a\.gif holds 3 frames or pages: save the one that is meant as PNG",
    ),
    "animated PNG": (moving("a.png"), r"a\.png holds 3 frames"),
    "animated WebP": (moving("a.webp"), r"a\.webp holds 3 frames"),
    "animation handed over": (opened(moving("a.gif")), r"a\.gif holds 3 frames"),
    "TIFF of several pages": (moving("a.tif"), r"a\.tif holds 3 frames or pages"),
    "floats beyond 1": (floats(0, 255), "from 0 to 255: bring them to 0 .black. to 1 .white."),
    "negative floats": (floats(-0.5, 1), "from -0.5 to 1: bring them"),
    "not a number": (floats(0, np.nan), "from nan to nan: bring them"),
    "infinite": (floats(0, np.inf), "from 0 to inf: bring them"),
    "32-bit numbers": (
        lambda _: Image.new("I", (2, 2), 7),
        "32-bit numbers.*save it with 8 or 16 bits",
    ),
    "16-bit FITS": (
        fits(16, struct.pack(">2h", -1, 300)),
        r"a\.fits holds more than 8 bits, of which none .*as PNG",
    ),
    "32-bit FITS": (fits(32, struct.pack(">2i", 1, 2)), r"a\.fits holds more than 8 bits"),
    "FITS of floats": (fits(-32, struct.pack(">2f", 0, 1)), r"a\.fits holds more than 8 bits"),
    "greys beyond white": (
        written("a.tif", tiff(struct.pack("<2H", 0, 9), 16, t281=5)),
        "from 0 to 9: bring .* 5 .white",
    ),
    "dim colours": (
        written("a.tif", tiff(bytes(12), (16, 16, 16), t281=(4095, 4095, 4095))),
        r"a\.tif has 16-bit colours but uses only 0 to 4095: save it with 8 bits",
    ),
    "no pixels": (lambda _: Image.new("RGB", (0, 4)), "the image of 0 × 4 pixels has no pixels"),
    "closed file": (closed, "closed.png is broken"),
    "cut PNG": (cut("a.png"), r"a\.png .*: (check the file|save it again as PNG or JPEG)"),
    "cut JPEG": (cut("a.jpg"), r"a\.jpg is broken .*truncated.*: save it again"),
    "cut GIF": (cut("a.gif"), r"a\.gif is broken"),
    "cut WebP": (cut("a.webp"), r"a\.webp"),
    "cut TIFF": (cut("a.tif"), r"a\.tif"),
    "cut BMP": (cut("a.bmp"), r"a\.bmp is broken"),
    "cut JPEG 2000": (cut("a.jp2"), r"a\.jp2 is broken"),
    "cut picture handed over": (opened(cut("a.png")), r"a\.png is broken"),
    "empty file": (written("a.png"), r"a\.png is empty: get the file again"),
    "text": (
        written("a.png", b"no picture"),
        "is not an image that can be read: save it as PNG or JPEG",
    ),
    "header alone": (written("a.png", b"\x89PNG\r\n\x1a\n"), r"a\.png"),
    "SVG": (written("a.svg", b"<svg/>"), "is not an image that can be read"),
    "folder": (lambda folder: folder, "is a folder: give the path of an image file"),
    "pipe": (pipe, r"pipe\.png is a pipe or a device"),
    "device": (lambda _: "/dev/zero", "the image /dev/zero is a pipe or a device"),
    "missing": (lambda folder: folder / "none.png", r"no image at .*none\.png: check the path"),
    "below a file": (lambda folder: written("a.png", b"x")(folder) / "b.png", "no image at"),
    "nothing": (lambda folder: "", "no image at|is a folder"),
    "dangling link": (lambda folder: (folder / "a").symlink_to("b") or folder / "a", "no image at"),
    "link to itself": (loop, "cannot read the image .*loop.png|no image at .*loop.png"),
    "null byte": (lambda _: "a\0b.png", r"no image at a\\x00b\.png"),
    "line break": (lambda _: "a\nb.png", r"no image at a\\nb\.png"),
    "not UTF-8": (lambda _: os.fsdecode(b"\xff.png"), r"no image at \\udcff\.png"),
    "very long": (lambda _: "x" * 5000, "cannot read the image x{80}…x{80} .*: check the path"),
    "unknown user": (
        lambda _: "~nobody-of-that-name/a.png",
        "no image at ~nobody-of-that-name/a.png",
    ),
    "http": (
        lambda _: "http://a.b/x.png",
        "http://a.b/x.png is a URL, not a path: download it first",
    ),
    "https as a path": (
        lambda _: Path("https://a.b/x.png"),
        "https:/a.b/x.png is a URL, not a path: download",
    ),
    "file://": (lambda _: "file:///a/x.png", "is a URL, not a path: leave 'file://' out"),
    "data:": (
        lambda _: "data:image/png;base64,iVBORw0KGgo=",
        "is a URL, not a path: download it first",
    ),
    "array": (
        lambda _: np.zeros((2, 2, 3), np.uint8),
        "not ndarray: .*arrays into one with PIL.Image.fromarray",
    ),
    "bytes": (lambda _: b"\x89PNG", "not bytes: open files and bytes with PIL.Image.open"),
    "open file": (lambda folder: io.BytesIO(b""), "not BytesIO: open files"),
    "number": (lambda _: 5, "not int"),
    "none": (lambda _: None, "not None"),
    "list": (lambda _: ["a.png"], "not list"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line(tmp_path, kind):
    make, said = REFUSED[kind]
    image = make(tmp_path)
    with pytest.raises(BadInput, match=said) as caught:
        open_image(image)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    message.encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(BadInput, match=r"cannot read the image .*a\.png \(Permission denied\)"):
        open_image(tmp_path / "a.png")


def test_a_bomb_is_refused_and_a_large_photo_is_shown_without_a_word(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(tmp_path / "large.png").size == (64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    with pytest.raises(BadInput, match=r"large\.png has more than 32 pixels: make it smaller"):
        open_image(tmp_path / "large.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.tif", "a.bmp"])
def test_no_damage_escapes(tmp_path, name):
    """Bytes changed anywhere in a file give a picture or one line, never another error."""
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    said = []
    for _ in range(60):
        data = bytearray(whole)
        for place in noise.integers(0, min(len(data), 200), 6):
            data[place] = noise.integers(0, 255)
        (tmp_path / name).write_bytes(data)
        try:
            assert open_image(tmp_path / name).mode == "RGB"
        except BadInput as error:
            said.append(str(error))
    assert said
    assert all(line.isprintable() for line in said)


def test_a_picture_is_copied_and_keeps_its_name(tmp_path):
    given = Image.new("RGB", (1, 1))
    shown = open_image(given)
    shown.putpixel((0, 0), RED)
    assert given.getpixel((0, 0)) == (0, 0, 0)
    given.save(tmp_path / "a.png")
    assert (
        image_title(open_image(open_image(tmp_path / "a.png"))) == f"the image {tmp_path / 'a.png'}"
    )


def test_every_drawing_of_emblem_is_shown_as_it_is(emblem):
    for entity in list(emblem.entities.values())[::40]:
        for artist in entity.artists:
            drawing = emblem.drawing(artist, entity.id)
            assert np.array_equal(np.asarray(open_image(drawing)), np.asarray(drawing))


def test_images_are_looked_at_before_long_work(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    sound, lost, gone = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    check_readable([sound, sound, Image.new("RGB", (1, 1))])
    with pytest.raises(BadInput, match=r"no image at .*b\.png: check the path$"):
        check_readable([sound, lost, lost])
    with pytest.raises(
        BadInput, match=r"no image at .*b\.png: check the path \(the first of 2 images at fault\)"
    ):
        check_readable([sound, lost, gone])
    first, second, third = faults([sound, lost, gone], open_image)
    assert not first
    assert "b.png" in second
    assert "c.png" in third


def test_keys_tell_images_apart(tmp_path):
    one, other = Image.new("RGB", (1, 1)), Image.new("RGB", (1, 1))
    assert image_key(one) == image_key(one) != image_key(other)
    assert image_key(tmp_path) == image_key(str(tmp_path))
