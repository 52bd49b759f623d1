"""Video files out: new frames at the times of the old ones, beside the sound that was there.

H.264 in .mp4, .m4v, .mov and .mkv, VP9 in .webm, always in limited range: the scaler's full range
is off by half a step. Frames have the colour matrix and transfer that the input names, so HDR
stays HDR in 8 bit. Sound and subtitles are copied bit for bit; titles, chapters and languages too.

Letters: H W size in pixels.
"""

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from tinybridge.data.clip import Clip, as_oserror, to_bytes
from tinybridge.data.container import (
    LONGEST,
    MUXERS,
    centred,
    copied,
    flowing,
    opened,
    rising_packet,
)
from tinybridge.data.matroska import write_shape
from tinybridge.data.video import LIMITED, matrix

# No frames that are decoded before earlier ones: MP4 would end a track with the last in decoding
# order, and so cut the last picture short.
H264 = {"crf": "13", "preset": "medium", "bf": "0"}
VP9 = {"crf": "13", "b": "0", "deadline": "good", "cpu-used": "4"}
EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
OURS = ("major_brand", "minor_version", "compatible_brands", "encoder", "ENCODER")


class VideoWriter:
    """Takes the frames of a clip one by one; `finish` when all are in, `close` in any case."""

    def __init__(self, path: Path, scratch: Path, like: Clip) -> None:
        """ValueError if the format cannot hold the sound, before any frame is asked for."""
        import av

        self.path, self.scratch, self.like, self.n = path, scratch, like, 0
        self.inputs = ExitStack()
        self.source, video = self.inputs.enter_context(opened(like.path))
        kind = MUXERS[path.suffix.lower()]
        matroska = kind in ("matroska", "webm")
        options = {"write_crc32": "0"} if matroska else {}  # the header is mended at the end
        try:
            with as_oserror(path):
                self.out = av.open(str(scratch), "w", format=kind, options=options)
                self._add_video(video, matroska)
            tracks = copied(self.source)
            self.tracks = {track.index: self._add_copy(track) for track in tracks}
            told = {k: v for k, v in self.source.metadata.items() if k not in OURS}
            self.out.metadata.update(told)
            self.out.set_chapters(self.source.chapters())
            with as_oserror(path):
                self.out.start_encoding()
            heard = flowing(self.source)
            self.packets = iter(self.source.demux(*heard) if heard else ())
            self.last: dict[int, int] = {}  # the time of every track's last packet
            self.packet = self._next()
        except BaseException:
            self.close()
            raise

    def _add_video(self, video: Any, matroska: bool) -> None:
        import av

        (H, W), vp9 = self.like.size, self.path.suffix.lower() == ".webm"
        codec, options = ("libvpx-vp9", VP9) if vp9 else ("libx264", H264)
        siting = "center" if vp9 and centred(self.like.path, video) else "left"
        if siting == "left":
            options = options | {"chroma_sample_location": "left"}
        self.video = self.out.add_stream(codec, rate=self.like.rate, options=options)
        context = self.video.codec_context
        context.width, context.height, context.time_base = W, H, self.like.tick
        context.flags |= av.codec.context.Flags.frame_duration
        for name, value in self.like.tags.items():
            setattr(context, name, value)
        if H % 2 + W % 2 and not vp9:
            context.pix_fmt = "yuv444p"  # x264 has odd sizes in no other
        for name in ("language", "title"):
            if name in video.metadata:
                self.video.metadata[name] = video.metadata[name]
        self.video.disposition = video.disposition
        shape = self.like.tags.get("sample_aspect_ratio", Fraction(1))
        self.shown = W * shape / H if matroska and shape != 1 else None  # width / height
        self.scaler = self._scaler(context.pix_fmt, siting)

    def _scaler(self, pix_fmt: str, siting: str) -> Any:
        """RGB to the encoder's form. siting: where the chroma of 4:2:0 lies between the pixels."""
        import av

        graph, (H, W) = av.filter.Graph(), self.like.size
        target = matrix(self.like.tags["colorspace"], H, W)
        rgb = av.VideoFormat("rgb24")
        options = f"out_color_matrix={target}:out_range={LIMITED}:out_chroma_loc={siting}"
        graph.link_nodes(
            graph.add_buffer(width=W, height=H, format=rgb, time_base=self.like.tick),
            graph.add("scale", f"{options}:flags={EXACT}"),
            graph.add("format", pix_fmt),
            graph.add("buffersink"),
        ).configure()
        return graph

    def _add_copy(self, track: Any) -> Any:
        """A track for the packets of another; ValueError if the format has none such."""
        try:
            copy = self.out.add_stream_from_template(track)
        except (ValueError, OSError):
            what = {"audio": "sound", "subtitle": "subtitles"}.get(track.type, "attachments")
            codec = f" ({track.codec_context.name})" if track.codec_context else ""
            raise ValueError(
                f"{self.path}: {self.path.suffix} cannot hold the {what} of the input{codec}; "
                "convert the input to .mkv first"
            ) from None
        copy.metadata.update(track.metadata)
        copy.disposition = track.disposition
        return copy

    def write(self, frame: Tensor) -> None:
        """[3, H, W] in 0..1: the next frame, and what is heard until it is shown."""
        import av

        start, end = self.like.times[self.n : self.n + 2]
        self.n += 1
        self._copy(start * self.like.tick)
        with as_oserror(self.path):
            shown = av.VideoFrame.from_ndarray(to_bytes(frame), "rgb24")
            shown.pts, shown.time_base = start, self.like.tick
            self.scaler.push(shown)
            shown = self.scaler.pull()
            shown.pts, shown.time_base, shown.duration = start, self.like.tick, end - start
            self.out.mux(self.video.encode(shown))

    def _copy(self, until: Fraction | None) -> None:
        """The copied packets up to a time in seconds, or all that are left."""
        while self.packet is not None:
            track = self.packet.stream.index
            at = rising_packet(self.packet, self.last)
            if until is not None and at * self.packet.time_base >= until:
                return
            self.last[track] = self.packet.dts = at
            self.packet.pts = at if self.packet.pts is None else max(at, self.packet.pts)
            if (self.packet.duration or 0) > LONGEST:
                self.packet.duration = 0  # unknown
            self.packet.stream = self.tracks[track]
            with as_oserror(self.path):
                self.out.mux(self.packet)
            self.packet = self._next()

    def _next(self) -> Any:
        import av

        try:
            for packet in self.packets:
                if packet.size:
                    return packet
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.like.path}: breaks off ({error.strerror})") from None
        return None

    def finish(self) -> None:
        self._copy(None)
        with as_oserror(self.path):
            self.out.mux(self.video.encode(None))
            self.out.close()
            if self.shown:
                webm = self.path.suffix.lower() == ".webm"
                write_shape(self.scratch, self.shown, self.like.size[0], webm)

    def close(self) -> None:
        self.inputs.close()
        with suppress(OSError, ValueError, AttributeError):  # it may not have been opened
            self.out.close()
