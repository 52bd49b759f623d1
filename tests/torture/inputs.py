"""Sound inputs of every kind, small, written by Pillow, PyAV, safetensors and by hand."""

import io
import json
import pickle
import struct
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, PngImagePlugin


def scene(k: int, height: int = 20, width: int = 24) -> np.ndarray:
    """[H, W, 3] uint8: a gradient with a square that moves with k."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack((rows * 9 + k, columns * 7 + 3 * k, (rows + columns) * 4), 2) % 256
    picture[4:10, (2 * k) % width : (2 * k) % width + 6] = 230
    return picture.astype(np.uint8)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes that Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def exif(turn: int) -> bytes:
    """EXIF by hand: orientation, a resolution and a maker's name, in big-endian TIFF."""
    entries = (
        (0x010F, 2, 6, b"Maker\0"),
        (0x0112, 3, 1, struct.pack(">HH", turn, 0)),
        (0x011A, 5, 1, struct.pack(">II", 300, 1)),
    )
    begin = 8 + 2 + 12 * len(entries) + 4
    table, extra = struct.pack(">H", len(entries)), b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            where = struct.pack(">I", begin + len(extra))
            extra += value
        else:
            where = value.ljust(4, b"\0")
        table += struct.pack(">HHI", tag, kind, count) + where
    return b"Exif\0\0MM\0*" + struct.pack(">I", 8) + table + struct.pack(">I", 0) + extra


def pictures() -> dict[str, bytes]:
    """Name to bytes: every format and mode that Pillow writes and that people keep."""
    rgb = Image.fromarray(scene(1))
    clear = rgb.copy()
    clear.putalpha(Image.linear_gradient("L").resize(rgb.size))
    grey = rgb.convert("L")
    deep = Image.fromarray(scene(1)[..., 0].astype(np.uint16) * 257)
    many = [Image.fromarray(scene(k)) for k in (2, 3)]
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "drawn")
    return {
        "rgb.png": saved(rgb, "PNG", dpi=(300, 300), pnginfo=text),
        "clear.png": saved(clear, "PNG"),
        "palette.png": saved(rgb.quantize(32), "PNG", transparency=3),
        "deep.png": saved(deep, "PNG"),
        "animated.png": saved(rgb, "PNG", save_all=True, append_images=many),
        "photo.jpg": saved(rgb, "JPEG", quality=90, exif=exif(6)),
        "progressive.jpg": saved(rgb, "JPEG", progressive=True),
        "grey.jpg": saved(grey, "JPEG"),
        "ink.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "lossy.webp": saved(rgb, "WEBP", exif=exif(3)[6:]),
        "lossless.webp": saved(clear, "WEBP", lossless=True),
        "lzw.tif": saved(rgb, "TIFF", compression="tiff_lzw"),
        "float.tif": saved(grey.convert("F").point(lambda v: v / 255), "TIFF"),
        "deep.tif": saved(deep, "TIFF"),
        "pages.tif": saved(rgb, "TIFF", save_all=True, append_images=many),
        "plain.bmp": saved(rgb, "BMP"),
    }


def video(suffix: str, codec: str, sound: bool = True, frames: int = 5) -> bytes:
    """A clip of 5 frames 32x24 at 10 a second, with a tone where the container holds one."""
    stream = io.BytesIO()
    form = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}[suffix]
    with av.open(stream, "w", format=form) as out:
        track = out.add_stream(codec, rate=10)
        track.width, track.height, track.pix_fmt = 32, 24, "yuv420p"
        voice = out.add_stream("libopus" if suffix == ".webm" else "aac", 48000) if sound else None
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(scene(k, 24, 32), "rgb24")
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
        if voice:
            tone = np.sin(np.arange(24000) * 0.05, dtype=np.float32)[None]
            shot = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            shot.sample_rate, shot.time_base, shot.pts = 48000, Fraction(1, 48000), 0
            out.mux(voice.encode(shot))
            out.mux(voice.encode(None))
    return stream.getvalue()


def clips() -> dict[str, bytes]:
    """Name to bytes: video files and animations."""
    shots = [Image.fromarray(scene(k)) for k in range(5)]
    moving = {"save_all": True, "append_images": shots[1:], "duration": 80, "loop": 0}
    return {
        "a.mp4": video(".mp4", "libx264"),
        "b.mov": video(".mov", "libx264", sound=False),
        "c.mkv": video(".mkv", "libx264"),
        "d.webm": video(".webm", "libvpx-vp9", sound=False),
        "e.gif": saved(shots[0], "GIF", **moving),
        "f.webp": saved(shots[0], "WEBP", lossless=True, **moving),
    }


def tensors(state: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """A safetensors file of float32 arrays, by its specification and not by the library."""
    header: dict[str, object] = {"__metadata__": metadata}
    values = b""
    for name, array in state.items():
        data = array.astype("<f4").tobytes()
        span = [len(values), len(values) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": span}
        values += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


def authors_prompt(rows: int, width: int, blocks: int) -> bytes:
    """A .pt file as the authors of the paper save theirs, random values."""
    generator = torch.Generator().manual_seed(3)
    bank = torch.randn(1, rows, width, generator=generator)
    stream = io.BytesIO()
    torch.save({"deep_prompt_bank": bank, "alphas": [0.1 * k for k in range(blocks)]}, stream)
    return stream.getvalue()


def impostors() -> dict[str, bytes]:
    """What lies under a checkpoint's or a prompt's name when a download went wrong."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as stored:
        stored.writestr("readme.txt", "no model")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return {
        "pointer": pointer.encode(),
        "page": b"<!DOCTYPE html><html><body>Access denied</body></html>",
        "pickle": pickle.dumps({"a": 1}),
        "archive": archive.getvalue(),
        "empty": b"",
        "zeros": bytes(4096),
    }


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """The files under `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
