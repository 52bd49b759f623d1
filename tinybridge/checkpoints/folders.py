"""Where the parts of a backbone lie in its folder, as publishers and as people lay them out."""

from pathlib import Path

from tinybridge.checkpoints.identify import FAMILIES, KINDS, identify
from tinybridge.checkpoints.layout import Kind
from tinybridge.checkpoints.shards import PICKLES, absent
from tinybridge.checkpoints.tensors import open_checkpoint

# Folders of ComfyUI/models, which hold files of many models side by side.
SHARED = ("diffusion_models", "unet", "checkpoints", "text_encoders", "clip", "vae")
WEIGHTS = (".safetensors", ".sft")
MANY = 300  # files whose headers are read in search of a part


def home(path: Path) -> Path:
    """The folder of a backbone: `path`, the folder of a file, the snapshot in a hub's cache."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: {absent(path)}")
    if path.is_file():
        for folder in path.parents[:3]:
            if folder.name in SHARED and is_shared(folder.parent):
                return folder.parent
        return path.parent.parent if path.parent.name == "transformer" else path.parent
    if is_shared(path / "models"):  # ComfyUI itself
        return path / "models"
    snapshots = sorted(path.glob("snapshots/*/"))
    head = path / "refs/main"
    if head.is_file():
        snapshots = [s for s in snapshots if s.name == head.read_text().strip()] or snapshots
    if len(snapshots) > 1:
        names = ", ".join(snapshot.name for snapshot in snapshots)
        raise ValueError(f"{path}: more than one snapshot ({names}): name one of these folders")
    return snapshots[0] if snapshots else path


def is_shared(folder: Path) -> bool:
    """Whether a folder is laid out as ComfyUI's models/."""
    return sum((folder / name).is_dir() for name in SHARED) > 1


def find(part: str, folder: Path) -> Path | None:
    """Where a part, a key of KINDS or a tokenizer, is published to lie; None: not there.

    The first of its places wins; of several files those count that are no other model's.
    ValueError where two could be meant.
    """
    (place,) = (family.places[part] for family in FAMILIES.values() if part in family.places)
    words, *patterns = place
    kind = KINDS.get(part)
    for pattern in patterns:
        hits = there(folder, pattern)
        if kind:
            hits = candidates(kind, folder, hits)
        if hits:
            hit = only_one(part, words, folder, hits)
            return within(kind, hit) if kind else hit
    return None


def there(folder: Path, pattern: str) -> list[Path]:
    """What a pattern meets; FileNotFoundError for a link to nothing, or one beside a tokenizer."""
    hits = sorted(folder.glob(pattern))
    if not hits and (folder / pattern).is_symlink():  # which glob passes over
        hits = [folder / pattern]
    beside = sorted(hits[0].parent.iterdir()) if hits and "/" in pattern else []
    for file in (*hits, *beside):
        if not file.exists():
            raise FileNotFoundError(f"{file}: {absent(file)}")
    return hits


def candidates(kind: Kind, folder: Path, hits: list[Path]) -> list[Path]:
    """Those that may be a part among what lies in its place, and a file's rivals beside it."""
    hits = [hit for hit in hits if not hit.is_dir() or holds_weights(hit)]
    if len(hits) > 1:
        hits = [hit for hit in hits if may_be(kind, hit)]
    if not hits or hits[0].is_dir():
        return hits
    stem = hits[0].name.split(".safetensors")[0]  # of a file or of an index
    return hits + [file for file in lookalikes(kind, folder, ()) if file.stem != stem]


def search(kind: Kind, folder: Path) -> Path | None:
    """A part of another name in a backbone's folder, or in those of ComfyUI, by its header."""
    found = lookalikes(kind, folder, SHARED)
    return only_one(kind.name, kind.words, folder, found) if found else None


def only_one(part: str, words: str, folder: Path, files: list[Path]) -> Path:
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in files)
        raise ValueError(
            f"{folder}: more than one {words} ({names}): name one of them, as with --part "
            f"{part}={files[0]}"
        )
    return files[0]


def holds_weights(folder: Path) -> bool:
    """Whether a part's folder has what could be its weights, or an index that names them."""
    ends = (*WEIGHTS, *PICKLES, ".gguf", ".index.json")
    return any(file.name.endswith(ends) for file in folder.iterdir())


def within(kind: Kind, place: Path) -> Path:
    """A part's file or folder; of a folder with files of several models, the one that fits."""
    if place.is_dir() and place.name in SHARED:
        files = [file for file in sorted(place.iterdir()) if file.suffix in WEIGHTS]
        fitting = [file for file in files if may_be(kind, file)]
        if len(files) > 1 and len(fitting) == 1 and "-of-" not in fitting[0].name:
            return fitting[0]
    return place


def what(file: Path, pickles: bool) -> tuple[str, str]:
    """What `identify` says of a file's or folder's header; ValueError or OSError: unreadable."""
    return identify(open_checkpoint(file, pickles).entries)


def may_be(kind: Kind, file: Path) -> bool:
    """Whether a file is of this kind, or cannot be read and so might be."""
    try:
        return what(file, kind.pickled)[0] == kind.name
    except (ValueError, OSError):
        return True


def lookalikes(kind: Kind, folder: Path, inner: tuple[str, ...]) -> list[Path]:
    """Files without a place, in a folder and in those in it, whose header says this kind."""
    ends = (*WEIGHTS, ".index.json", *((".pth",) if kind.pickled else ()))
    files = sorted(folder.iterdir())
    for name in inner:
        files += sorted((folder / name).rglob("*"))
    files = [file for file in files if file.name.endswith(ends) and "-of-" not in file.name]
    for family in FAMILIES.values():
        if kind in family.kinds:
            placed = [pattern for place in family.places.values() for pattern in place[1:]]
            named = {file for pattern in placed for file in folder.glob(pattern)}
            files = [file for file in files if file not in named]
    found: list[Path] = []
    for file in files[:MANY]:
        try:
            fits = file.is_file() and what(file, kind.pickled)[0] == kind.name
        except (ValueError, OSError):
            continue
        # A variant (model.fp16.safetensors) may lie beside the full file.
        variant = any(file.stem.startswith(f"{other.stem}.") for other in files)
        if fits and not variant:
            found.append(file)
    return found


def family_of(folder: Path) -> str:
    """The backbone that most of a folder's parts belong to, a key of FAMILIES; "" where none is.

    ValueError or OSError where what lies in a part's place cannot be read and nothing else tells.
    """
    votes = dict.fromkeys(FAMILIES, 0)
    errors: list[Exception] = []
    for name, family in FAMILIES.items():
        for part in family.places:
            try:
                votes[name] += belongs(part, find(part, folder))
            except (ValueError, OSError) as error:
                errors.append(error)
    most = max(votes, key=votes.__getitem__)
    if votes[most]:
        return most
    if errors:
        raise errors[0]
    return ""


def belongs(part: str, file: Path | None) -> bool:
    """Whether what lies in a part's place is that part of a backbone's folder."""
    if file is None or part not in KINDS:
        return file is not None
    found, words = what(file, KINDS[part].pickled)
    # diffusers' WAN transformer at the top: the folder is that of the part alone
    alone = part == "wan" and not file.is_dir() and "diffusers" in words
    return found == part and not alone
