import gzip
import io
import os
import resource
import struct
import tarfile
import threading

from common.cli import ScriptError
from common.records import Records, pack, pack_archive, pack_folder, thumbnails

import cv2
import mxnet as mx
import numpy as np
import pytest

SHAPE = (3, 224, 224)
COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path):
    """Make three classes of four pictures in the colour of their name, each with another mark."""
    for name, colour in COLOURS.items():
        for number in range(4):
            save(tmp_path / "pets" / name / f"{number}.png", marked(colour, number))
    return tmp_path / "pets"


def marked(colour, corner, height=256, width=256):
    """Paint a picture, RGB, with a white square in one corner of its centre."""
    picture = np.full((height, width, 3), colour, np.uint8)
    y, x = height // 2 - 80 + 120 * (corner // 2), width // 2 - 80 + 120 * (corner % 2)
    picture[y : y + 40, x : x + 40] = 255
    return picture


def corner_of(image):
    """Find the corner that has the square in a (3, H, W) picture."""
    y, x = np.argwhere(image.min(axis=0) > 230).mean(axis=0)
    return 2 * (y > image.shape[1] / 2) + (x > image.shape[2] / 2)


def save(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1])


def encode(rgb, suffix=".png"):
    return cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def gradient(height, width):
    """Paint a picture that is smooth enough to resize without a trace."""
    y, x = np.linspace(0, 200, height)[:, None], np.linspace(0, 200, width)
    return np.stack([y + 0 * x, 0 * y + x, 200 - (y + x) / 2], axis=2).astype(np.uint8)


def write_rec(path, pictures, labels=None, index=False):
    """Write encoded pictures as another program would; label n on picture n unless given."""
    if index:
        records = mx.recordio.MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "w")
    else:
        records = mx.recordio.MXRecordIO(str(path), "w")
    for number, picture in enumerate(pictures):
        label = labels[number] if labels else float(number)
        record = mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), picture)
        records.write_idx(number, record) if index else records.write(record)
    records.close()
    return path


def read_all(rec, data_dir, shape=SHAPE, keys=None):
    records = Records(rec, data_dir)
    keys = range(len(records)) if keys is None else keys
    batches = list(records.batches(keys, 4, shape))
    return tuple(np.concatenate(arrays) for arrays in zip(*batches))


def state(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_pictures_come_back_with_their_colours_marks_and_classes(folder, data):
    made = pack_folder(folder, data)
    assert made.classes == ["blue", "green", "red"]
    images, labels, keys = read_all(made.rec, data)
    assert images.shape == (12, *SHAPE) and images.dtype == np.uint8
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and labels.dtype == np.int32
    assert keys.tolist() == list(range(12))
    for key, (image, label) in enumerate(zip(images, labels)):
        colour = COLOURS[made.classes[label]]
        assert np.abs(np.median(image, axis=(1, 2)) - colour).max() < 5
        assert corner_of(image) == key % 4


def test_any_order_keeps_picture_and_label_together(folder, data):
    made = pack_folder(folder, data)
    order = Records(made.rec, data).draw(12, seed=3)
    images, labels, keys = read_all(made.rec, data, keys=order)
    assert keys.tolist() == order.tolist() != sorted(order)
    assert labels.tolist() == [key // 4 for key in order]
    for image, key in zip(images, order):
        assert np.abs(np.median(image, axis=(1, 2)) - COLOURS[made.classes[key // 4]]).max() < 5
        assert corner_of(image) == key % 4


def test_draw_is_random_without_replacement_and_the_same_for_a_seed(folder, data):
    records = Records(pack_folder(folder, data).rec, data)
    drawn = records.draw(8, seed=42).tolist()
    assert len(set(drawn)) == 8 and set(drawn) <= set(range(12)) and drawn != sorted(drawn)
    assert records.draw(8, seed=42).tolist() == drawn
    assert records.draw(5, seed=42).tolist() == drawn[:5]
    assert records.draw(8, seed=43).tolist() != drawn
    assert sorted(records.draw(100, seed=42)) == list(range(12))


def test_pack_holds_jpegs_of_shorter_edge_256_and_none_that_is_enlarged(tmp_path, data):
    save(tmp_path / "pictures" / "a.png", gradient(512, 768))
    save(tmp_path / "pictures" / "b.png", gradient(700, 300))
    save(tmp_path / "pictures" / "c.png", gradient(100, 50))
    rec = pack_folder(tmp_path / "pictures", data).rec
    records = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "r")
    contents = [mx.recordio.unpack(records.read_idx(key))[1] for key in records.keys]
    assert all(content.startswith(b"\xff\xd8\xff") for content in contents)
    sizes = [cv2.imdecode(np.frombuffer(content, np.uint8), 1).shape for content in contents]
    assert sizes == [(256, 384, 3), (597, 256, 3), (100, 50, 3)]


def test_jpeg_that_need_not_shrink_is_kept_as_it_is(tmp_path, data):
    small, large = encode(noise(256, 300), ".jpg"), encode(noise(257, 300), ".jpg")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "small.jpg").write_bytes(small)
    (tmp_path / "pictures" / "large.jpg").write_bytes(large)
    packed = pack_folder(tmp_path / "pictures", data).rec.read_bytes()
    assert small in packed and large not in packed


def test_crop_is_the_exact_centre(tmp_path, data):
    tall, wide = noise(301, 224), noise(256, 356)
    rec = write_rec(tmp_path / "noise.rec", [encode(tall), encode(wide)])
    images, _, _ = read_all(rec, data)
    assert np.array_equal(images[0], tall[38:262].transpose(2, 0, 1))
    assert np.array_equal(images[1], wide[16:240, 66:290].transpose(2, 0, 1))
    images, _, _ = read_all(rec, data, shape=(3, 100, 200))
    assert np.array_equal(images[1], wide[78:178, 78:278].transpose(2, 0, 1))


@pytest.mark.parametrize("height, width", [(56, 84), (84, 56), (112, 112), (300, 56), (223, 400)])
def test_picture_smaller_than_the_crop_is_enlarged_with_its_aspect(tmp_path, data, height, width):
    picture = gradient(height, width)
    (image,), _, _ = read_all(write_rec(tmp_path / "small.rec", [encode(picture)]), data)
    scale = 224 / min(height, width)
    large = cv2.resize(picture, (round(width * scale), round(height * scale)))
    top, left = (large.shape[0] - 224) // 2, (large.shape[1] - 224) // 2
    expected = large[top : top + 224, left : left + 224].transpose(2, 0, 1)
    assert np.abs(image.astype(int) - expected).max() <= 4


def test_narrow_strip_does_not_fill_the_memory(tmp_path, data):
    strip = gradient(1, 60_000)
    (image,), _, _ = read_all(write_rec(tmp_path / "strip.rec", [encode(strip)]), data)
    assert np.ptp(image, axis=(1, 2)).max() <= 1


def test_grey_transparent_and_deep_pictures_keep_their_colours(tmp_path, data):
    pictures, (red, green, blue) = tmp_path / "pictures", (180, 120, 60)
    pictures.mkdir()
    bgra = np.full((256, 256, 4), (blue, green, red, 128), np.uint8)
    deep = np.full((256, 256, 3), (blue, green, red), np.uint16) * 257
    cv2.imwrite(str(pictures / "1.png"), np.full((256, 256), 90, np.uint8))
    cv2.imwrite(str(pictures / "2.png"), np.full((256, 256), 90 * 257, np.uint16))
    cv2.imwrite(str(pictures / "3.png"), bgra)
    cv2.imwrite(str(pictures / "4.png"), deep)
    cv2.imwrite(str(pictures / "5.tiff"), deep)
    cv2.imwrite(str(pictures / "6.JPEG"), bgra[..., :3])
    images, _, _ = read_all(pack_folder(pictures, data).rec, data)
    expected = np.array([(90, 90, 90)] * 2 + [(red, green, blue)] * 4)
    assert np.abs(images.astype(int) - expected[:, :, None, None]).max() <= 3


def test_picture_of_a_turned_camera_is_upright(tmp_path, data):
    jpeg = encode(marked((0, 0, 200), corner=0), ".jpg")
    # TIFF's tag 0x112, Orientation: 3 means upside down.
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 3, 0)
    exif = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "turned.jpg").write_bytes(jpeg[:2] + exif + jpeg[2:])
    (image,), _, _ = read_all(pack_folder(tmp_path / "pictures", data).rec, data)
    assert corner_of(image) == 3


def test_folder_without_subfolders_is_one_class_named_after_it(tmp_path, data, monkeypatch):
    for number in range(3):
        save(tmp_path / "holiday" / f"{number}.jpg", marked((0, 0, 200), number))
    made = pack_folder(tmp_path / "holiday", data)
    assert made.classes == ["holiday"]
    assert read_all(made.rec, data)[1].tolist() == [0, 0, 0]
    monkeypatch.chdir(tmp_path / "holiday")
    assert pack_folder(".", data) == made


def test_class_has_what_lies_deeper_or_behind_a_link_but_nothing_hidden(tmp_path, data):
    picture, pictures = marked((0, 0, 200), 0), tmp_path / "pictures"
    for name in ("cat/1.png", "cat/deep/er/2.png", ".git/3.png", "cat/.cache/4.png", "cat/._1.png"):
        save(pictures / name, picture)
    (pictures / "nothing").mkdir()
    save(tmp_path / "elsewhere" / "5.png", picture)
    (pictures / "dog").symlink_to(tmp_path / "elsewhere")
    (pictures / "cat" / "round").symlink_to(pictures)
    made = pack_folder(pictures, data)
    assert made.classes == ["cat", "dog"]
    assert read_all(made.rec, data)[1].tolist() == [0, 0, 1]


def test_class_name_that_is_not_utf8_can_be_printed(tmp_path, data):
    picture = marked((0, 0, 200), 0)
    save(tmp_path / "x" / "1.png", picture)
    os.rename(tmp_path / "x", os.fsencode(tmp_path) + b"/caf\xe9")
    made = pack_folder(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"), data)
    assert made.classes == ["caf\ufffd"]
    assert len(Records(made.rec, data)) == 1


def test_unreadable_pictures_are_counted_and_named_every_time(folder, data, capsys):
    whole = encode(marked(COLOURS["red"], 0), ".jpg")
    (folder / "blue" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "green" / "empty.png").write_bytes(b"")
    (folder / "green" / "page.jpg").write_bytes(b"<html>not found</html>")
    (folder / "red" / "zero.gif").write_bytes(bytes(100))
    (folder / "red" / "notes.txt").write_text("no picture")
    (folder / "red" / ".DS_Store").write_bytes(bytes(100))
    made = pack_folder(folder, data)
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and str(folder) in line
    assert "4 (blue/half.jpg, green/empty.png, green/page.jpg, ...)" in line
    assert read_all(made.rec, data)[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    before = state(data)
    assert pack_folder(folder, data) == made
    assert capsys.readouterr().err == line and state(data) == before


def test_folder_without_a_readable_picture_is_an_error_and_leaves_nothing(tmp_path, data, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    with pytest.raises(ScriptError, match="empty holds no pictures"):
        pack_folder(tmp_path / "empty", data)
    (tmp_path / "empty" / "page.jpg").write_text("no picture")
    with pytest.raises(ScriptError, match="no picture of .*empty can be read"):
        pack_folder(tmp_path / "empty", data)
    assert "page.jpg" in capsys.readouterr().err
    assert list(data.iterdir()) == []


def test_pack_is_made_again_only_when_the_folder_changed(folder, data):
    first = folder / "blue" / "0.png"
    first.write_bytes(first.read_bytes().ljust(5000, b"\0"))
    made = pack_folder(folder, data)
    assert sorted(path.suffix for path in data.iterdir()) == [".idx", ".json", ".rec"]
    before = state(data)
    assert pack_folder(folder, data) == made and state(data) == before

    stat = first.stat()
    first.write_bytes(encode(marked(COLOURS["red"], 0)).ljust(5000, b"\0"))
    assert first.stat().st_size == stat.st_size
    os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert pack_folder(folder, data) == made and state(data).keys() == before.keys()
    assert np.median(read_all(made.rec, data, keys=[0])[0][0], axis=(1, 2)).argmax() == 0

    save(folder / "yellow" / "0.png", marked((200, 200, 0), 0))
    assert pack_folder(folder, data).classes == ["blue", "green", "red", "yellow"]
    for path in (folder / "blue").iterdir():
        path.unlink()
    made = pack_folder(folder, data)
    assert made.classes == ["green", "red", "yellow"]
    assert read_all(made.rec, data)[1].tolist() == [0] * 4 + [1] * 4 + [2]


def test_pack_that_was_damaged_is_made_again(folder, data):
    made = pack_folder(folder, data)
    content = made.rec.read_bytes()
    for damage in (lambda: os.truncate(made.rec, 1000), made.rec.unlink):
        damage()
        assert pack_folder(folder, data) == made and made.rec.read_bytes() == content
    about = made.rec.with_suffix(".json")
    about.write_text(about.read_text()[:20])
    assert pack_folder(folder, data) == made and len(Records(made.rec, data)) == 12


def test_folders_of_one_name_have_packs_of_their_own(tmp_path, data):
    for place, colour in (("here", "red"), ("there", "blue")):
        save(tmp_path / place / "pets" / colour / "0.png", marked(COLOURS[colour], 0))
    here, there = (pack_folder(tmp_path / place / "pets", data) for place in ("here", "there"))
    before = state(data)
    assert pack_folder(tmp_path / "here" / "pets", data) == here != there
    assert state(data) == before and here.classes == ["red"] and there.classes == ["blue"]


def test_packing_cut_short_leaves_nothing_and_the_earlier_pack_as_it_was(data):
    def pictures(count, stop):
        for number in range(count):
            yield "blue", f"{number}.png", encode(marked(COLOURS["blue"], number % 4))
        if stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack("drawn", 1, pictures(100, stop=True), data)
    assert list(data.iterdir()) == []
    made = pack("drawn", 1, pictures(3, stop=False), data)
    before = state(data)
    with pytest.raises(KeyboardInterrupt):
        pack("drawn", 2, pictures(100, stop=True), data)
    assert state(data) == before
    # The pictures are not asked for when the pack is there.
    assert pack("drawn", 1, pictures(0, stop=True), data) == made
    assert len(Records(made.rec, data)) == 3


def test_pack_on_a_full_disk_is_whole_or_an_error_that_leaves_nothing(small_disk):
    content = encode(noise(24, 24), ".jpg")
    outcomes = set()
    for count in range(1, 80):
        pictures = [("noise", f"{number}.jpg", content) for number in range(count)]
        try:
            rec = pack("noise", count, pictures, small_disk).rec
        except (ScriptError, OSError) as error:
            outcomes.add("error")
            assert "\n" not in str(error) and list(small_disk.iterdir()) == []
        else:
            outcomes.add("whole")
            assert len(read_all(rec, small_disk, (3, 24, 24))[0]) == count
            for path in small_disk.iterdir():
                path.unlink()
    assert outcomes == {"error", "whole"}


def test_pack_that_loses_its_last_bytes_is_an_error_that_leaves_nothing(folder, data):
    made = pack_folder(folder, data)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # MXNet writes these when it closes the file, and does not look at the outcome.
    resource.setrlimit(resource.RLIMIT_FSIZE, (made.rec.stat().st_size - 1, limits[1]))
    try:
        with pytest.raises(ScriptError, match="cannot be written: free some space"):
            pack_folder(folder, data / "other")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((data / "other").iterdir()) == []


def make_archive(path, members):
    """Write a .tgz: each member a name with content, a type with the name it links to, or None."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                tar.addfile(member)
    return path


@pytest.fixture
def archive(tmp_path):
    top = "imagenette2-320"
    blue, green, red = (
        encode(marked(colour, number), ".jpg") for number, colour in enumerate(COLOURS.values())
    )
    members = [
        (f"{top}", (tarfile.DIRTYPE, "")),
        (f"{top}/noisy_imagenette.csv", b"path,label\n"),
        (f"{top}/train/n01440764/1.JPEG", red),
        (f"{top}/val/n02102040/1.JPEG", green),
        (f"{top}/val/n02102040/2.JPEG", red[: len(red) // 2]),
        (f"{top}/val/n02102040/._1.JPEG", red),
        (f"{top}/val/n02102040/.hidden/1.JPEG", red),
        (f"{top}/val/n02102040/link.JPEG", (tarfile.SYMTYPE, "1.JPEG")),
        (f"{top}/val/n02102040/hard.JPEG", (tarfile.LNKTYPE, f"{top}/val/n02102040/1.JPEG")),
        (f"{top}/val/n02102040/secret.JPEG", (tarfile.SYMTYPE, "/etc/passwd")),
        (f"{top}/val/n02102040/pipe.JPEG", (tarfile.FIFOTYPE, "")),
        (f"{top}/val/1.JPEG", red),
        (f"../{top}/val/n01440764/1.JPEG", red),
        (f"/{top}/val/n01440764/1.JPEG", red),
        ("val/n01440764/1.JPEG", red),
        (f"{top}/val/n01440764/1.JPEG", blue),
    ]
    return make_archive(tmp_path / "imagenette2-320.tgz", members)


def test_archive_gives_the_regular_files_of_its_val_folders_and_nothing_else(archive, data, capsys):
    made = pack_archive(archive, data)
    assert made.classes == ["n02102040", "n01440764"]
    images, labels, _ = read_all(made.rec, data)
    assert labels.tolist() == [0, 1]
    assert [np.median(image, axis=(1, 2)).argmax() for image in images] == [1, 2]
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "1 (imagenette2-320/val/n02102040/2.JPEG)" in line
    assert len(list(data.iterdir())) == 3
    before = state(data)
    assert pack_archive(archive, data) == made and state(data) == before
    os.utime(archive, ns=(0, 0))
    assert pack_archive(archive, data) == made and state(data) != before


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9, -8, -1])
def test_truncated_archive_is_an_error_that_names_it(archive, data, kept):
    size = archive.stat().st_size
    os.truncate(archive, int(kept * size) if isinstance(kept, float) else kept % size)
    with pytest.raises(ScriptError, match="imagenette2-320.tgz .*damaged"):
        pack_archive(archive, data)
    assert list(data.iterdir()) == []


def test_archive_cut_between_two_members_is_an_error(archive, data):
    """The tar ends where a member does, and gzip's own end is missing."""
    content = gzip.decompress(archive.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        last = tar.getmembers()[-1].offset
    compressor = gzip.zlib.compressobj(wbits=31)
    cut = compressor.compress(content[:last]) + compressor.flush(gzip.zlib.Z_SYNC_FLUSH)
    archive.write_bytes(cut)
    with pytest.raises(ScriptError, match="imagenette2-320.tgz"):
        pack_archive(archive, data)


def test_wrong_archive_is_an_error_that_names_it(tmp_path, data):
    picture = encode(marked((200, 0, 0), 0), ".jpg")
    other = make_archive(tmp_path / "other.tgz", [("imagewoof2-320/val/n02086240/1.JPEG", picture)])
    with pytest.raises(ScriptError, match="other.tgz is not Imagenette's"):
        pack_archive(other, data)
    for content in (b"<html>not found</html>", gzip.compress(b"no archive" * 100)):
        other.write_bytes(content)
        with pytest.raises(ScriptError, match="other.tgz is not Imagenette's"):
            pack_archive(other, data)


@pytest.mark.parametrize("index", [True, False])
def test_rec_made_elsewhere_is_served_with_its_labels(tmp_path, data, index):
    pictures = [noise(224, 224, seed) for seed in range(5)]
    labels = [7.0, 0.0, 999.0, 7.0, 3.0]
    rec = write_rec(tmp_path / "val.rec", map(encode, pictures), labels, index)
    order = [4, 0, 2, 1, 3]
    images, read, keys = read_all(rec, data, keys=order)
    assert keys.tolist() == order and read.tolist() == [3, 7, 999, 0, 7]
    assert all(np.array_equal(i, pictures[k].transpose(2, 0, 1)) for i, k in zip(images, order))


def test_first_of_several_labels_counts(tmp_path, data):
    contents = [encode(noise(224, 224, seed)) for seed in range(3)]
    labels = [np.array([5, 1, 2], np.float32), np.array([6], np.float32), 7.0]
    images, read, _ = read_all(write_rec(tmp_path / "boxes.rec", contents, labels), data)
    assert read.tolist() == [5, 6, 7]
    assert np.array_equal(images[0], noise(224, 224, 0).transpose(2, 0, 1))


def test_record_that_contains_the_magic_number_is_whole(tmp_path, data):
    """RecordIO leaves the number out of such records, and parts them there."""
    magic = np.frombuffer(struct.pack("<I", 0xCED7230A), np.uint8)
    picture = np.tile(magic, 224 * 224 * 3 // 4).reshape(224, 224, 3)
    # An uncompressed format, whose header is commented up to a multiple of 4 bytes.
    content = b"P6\n#abc\n224 224\n255\n" + picture.tobytes()
    rec = write_rec(tmp_path / "magic.rec", [content, encode(noise(224, 224))])
    assert rec.read_bytes()[4:8] == struct.pack("<I", (1 << 29) + 24 + 20)
    images, labels, _ = read_all(rec, data)
    assert np.array_equal(images[0], picture.transpose(2, 0, 1))
    assert np.array_equal(images[1], noise(224, 224).transpose(2, 0, 1))
    assert labels.tolist() == [0, 1]


def test_index_is_made_once_in_the_data_folder_and_again_when_the_rec_changed(tmp_path, data):
    (tmp_path / "elsewhere").mkdir()
    rec = write_rec(tmp_path / "elsewhere" / "val.rec", [encode(noise(9, 9, s)) for s in range(3)])
    assert len(Records(rec, data)) == 3
    before = state(data)
    assert len(before) == 1 and list(rec.parent.iterdir()) == [rec]
    assert len(Records(rec, data)) == 3 and state(data) == before
    (made,) = data.iterdir()
    as_mxnet_reads = mx.recordio.MXIndexedRecordIO(str(made), str(rec), "r")
    assert mx.recordio.unpack(as_mxnet_reads.read_idx(2))[0].label == 2

    write_rec(rec, [encode(noise(9, 9, seed)) for seed in range(4)])
    assert len(Records(rec, data)) == 4


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("kept", [1, 7, 100, 0.5, -1, -200])
def test_truncated_rec_is_an_error_that_names_it(tmp_path, data, index, kept):
    contents = [encode(noise(40, 40, seed)) for seed in range(5)]
    rec = write_rec(tmp_path / "val.rec", contents, index=index)
    size = rec.stat().st_size
    os.truncate(rec, int(kept * size) if isinstance(kept, float) else kept % size)
    with pytest.raises(ScriptError, match="val.rec is truncated") as raised:
        Records(rec, data)
    assert "\n" not in str(raised.value)
    assert not data.exists() or list(data.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no RecordIO file", bytes(1000)])
def test_file_that_is_not_recordio_is_an_error(tmp_path, data, content):
    (tmp_path / "x.rec").write_bytes(content)
    with pytest.raises(ScriptError, match="x.rec is truncated or no RecordIO file"):
        Records(tmp_path / "x.rec", data)


@pytest.mark.parametrize("content", ["", "0\n", "0\tx\n", "0\t-8\n", f"0\t{2**70}\n", "\0\xff"])
def test_index_that_is_none_is_an_error_that_names_it(tmp_path, data, content):
    rec = write_rec(tmp_path / "val.rec", [encode(noise(9, 9))])
    rec.with_suffix(".idx").write_text(content, encoding="latin-1")
    with pytest.raises(ScriptError, match="val.idx is not an index"):
        Records(rec, data)


def test_index_of_another_file_is_an_error(tmp_path, data):
    rec = write_rec(tmp_path / "val.rec", [encode(noise(9, 9, seed)) for seed in range(3)])
    rec.with_suffix(".idx").write_text("0\t4\n1\t0\n")
    with pytest.raises(ScriptError, match="val.rec is truncated.*idx"):
        Records(rec, data)


def test_damaged_records_are_passed_over_counted_and_named(tmp_path, data, capsys):
    contents = [encode(noise(224, 224, seed), ".jpg") for seed in range(10)]
    contents[1] = contents[1][: len(contents[1]) // 2]
    contents[2] = b""
    contents[5] = b"no picture"
    labels = [float(number) for number in range(10)]
    labels[8] = float("nan")
    rec = write_rec(tmp_path / "val.rec", contents, labels)
    batches = list(Records(rec, data).batches(range(10), 3, SHAPE))
    assert [batch.keys.tolist() for batch in batches] == [[0, 3, 4], [6, 7, 9]]
    assert [batch.labels.tolist() for batch in batches] == [[0, 3, 4], [6, 7, 9]]
    assert [batch.images.shape for batch in batches] == [(3, *SHAPE)] * 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "val.rec" in line
    assert "4 (record 1, record 2, record 5, ...)" in line


def test_rec_without_a_readable_picture_is_an_error(tmp_path, data):
    rec = tmp_path / "val.rec"
    records = mx.recordio.MXRecordIO(str(rec), "w")
    too_many_labels = struct.pack("IfQQ", 10**6, 0, 0, 0)
    for record in (b"short", too_many_labels, mx.recordio.pack((0, 1.0, 0, 0), b"no picture")):
        records.write(record)
    records.close()
    with pytest.raises(ScriptError, match="no picture of .*val.rec can be read"):
        list(Records(rec, data).batches(range(3), 2, SHAPE))


def test_stopping_early_leaves_no_thread_and_no_open_file(folder, data):
    records = Records(pack_folder(folder, data).rec, data)
    threads, files = threading.active_count(), os.listdir("/proc/self/fd")
    batches = records.batches(range(12), 2, SHAPE)
    next(batches)
    assert threading.active_count() == threads + 1
    batches.close()
    assert threading.active_count() == threads

    def interrupted():
        for _ in records.batches(range(12), 2, SHAPE):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threading.active_count() == threads and os.listdir("/proc/self/fd") == files


def test_what_goes_wrong_in_the_thread_is_raised_to_the_caller(folder, data):
    made = pack_folder(folder, data)
    records = Records(made.rec, data)
    threads = threading.active_count()
    os.truncate(made.rec, made.rec.stat().st_size // 2)
    delivered = 0
    with pytest.raises(ScriptError, match="rec is truncated"):
        for batch in records.batches(range(12), 2, SHAPE):
            delivered += len(batch.keys)
    assert 0 < delivered < 12 and threading.active_count() == threads


def test_batches_stay_as_they_were_when_the_next_are_read(folder, data):
    records = Records(pack_folder(folder, data).rec, data)
    kept = list(records.batches(range(12), 5, SHAPE))
    assert [len(batch.images) for batch in kept] == [5, 5, 2]
    assert all(batch.images.flags.c_contiguous for batch in kept)
    corners = [corner_of(image) for batch in kept for image in batch.images]
    assert corners == [0, 1, 2, 3] * 3


def test_thumbnails_are_the_means_of_what_they_shrink():
    images = np.stack([noise(256, 256, seed).transpose(2, 0, 1) for seed in range(3)])
    small = thumbnails(images)
    assert small.shape == (3, 3, 64, 64) and small.dtype == np.uint8
    means = images.reshape(3, 3, 64, 4, 64, 4).mean(axis=(3, 5))
    assert np.abs(small - means).max() <= 0.51
    assert thumbnails(images[:, :, :224, :100], side=20).shape == (3, 3, 20, 20)


def test_real_pictures_come_back_each_with_its_thumbnail_and_class(real, data, capsys):
    samples = real / "imagenet_samples"
    made = pack_folder(samples, data)
    assert capsys.readouterr().err == ""
    assert made.classes == sorted(path.name for path in samples.iterdir())
    records = Records(made.rec, data)
    keys = records.draw(2304, seed=42)
    assert len(records) == len(keys) == 1000
    read = []
    for batch in records.batches(keys, 16, SHAPE):
        read += batch.keys.tolist()
        pictures = zip(batch.images, thumbnails(batch.images), batch.labels)
        for image, thumbnail, label in pictures:
            (path,) = (samples / made.classes[label]).iterdir()
            picture = cv2.imread(str(path))[:, :, ::-1]
            top, left = (picture.shape[0] - 224) // 2, (picture.shape[1] - 224) // 2
            crop = picture[top : top + 224, left : left + 224].transpose(2, 0, 1)
            assert np.array_equal(image, crop)
            # 32 by 32 fields of 7 by 7 pixels each are 2 by 2 pixels of the thumbnail.
            means = crop.reshape(3, 32, 7, 32, 7).mean(axis=(2, 4))
            shrunk = thumbnail.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
            assert np.abs(shrunk - means).max() <= 1
    assert read == keys.tolist()
