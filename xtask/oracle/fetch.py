#!/usr/bin/env python3
"""Downloads one release file through pip and unpacks chosen members of it.

usage: fetch.py NAME VERSION wheel|sdist SHA256 ROOT OUT PATTERN...

pip's own configuration decides where the file comes from (index, mirror, proxy, certificates, login). Members under ROOT
(a path prefix inside the archive) whose remaining path matches a PATTERN are written below OUT. Progress goes to stderr;
an error is one message on stdout and exit status 1.
"""
import fnmatch
import hashlib
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

STEP = 1 << 20


class Failure(Exception):
    """A message for the person at the terminal."""


def progress(text, last=False):
    """One line that is rewritten at a terminal; elsewhere only its last state is printed."""
    if sys.stderr.isatty():
        print(f"\r\033[K  {text}", end="\n" if last else "", file=sys.stderr, flush=True)
    elif last:
        print(f"  {text}", file=sys.stderr, flush=True)


def locate(name, version, kind):
    """The session and the link that `pip download` would use, found without building anything: `pip download` itself runs
    a source archive's build backend."""
    from pip._internal.commands import create_command
    from pip._vendor.packaging.specifiers import SpecifierSet

    command = create_command("download")
    form = "--only-binary" if kind == "wheel" else "--no-binary"
    options, _ = command.parse_args(["--no-deps", "--no-input", "--retries", "2", form, name, name])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        best = finder.find_best_candidate(name, SpecifierSet(f"=={version}")).best_candidate
    return session, best and best.link


class Reasons(logging.Handler):
    """Why pip could not read an index; it says so only at the level of debug messages."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.seen = []

    def emit(self, record):
        message = record.getMessage()
        if message.startswith("Could not fetch URL"):
            self.seen.append(message.split(": ", 1)[-1].removesuffix(" - skipping"))


def stream(session, link, out, label):
    response = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"}, stream=True)
    response.raise_for_status()
    total, done = int(response.headers.get("Content-Length") or 0), 0
    with open(out, "wb") as file:
        for chunk in response.iter_content(STEP):
            file.write(chunk)
            done += len(chunk)
            of = f" of {total / 1e6:.0f}" if total else ""
            progress(f"{label}: {done / 1e6:.0f}{of} MB")
    progress(f"{label}: {done / 1e6:.0f} MB fetched", last=True)


def download(name, version, kind, folder):
    """The archive, in `folder`."""
    label = f"{name} {version}"
    progress(f"{label}: looking it up")
    reasons = Reasons()
    logger = logging.getLogger("pip._internal.index.collector")
    logger.addHandler(reasons)
    logger.setLevel(logging.DEBUG)
    try:
        session, link = locate(name, version, kind)
    except (ImportError, AttributeError, TypeError):  # a pip with other internals: ask its command line
        form = "--only-binary" if kind == "wheel" else "--no-binary"
        args = [sys.executable, "-m", "pip", "download", "--no-deps", form, name, "-d", folder, f"{name}=={version}"]
        if subprocess.run(args, stdout=sys.stderr).returncode != 0:
            raise Failure(f"pip could not download {label}; its messages are above") from None
        return next(Path(folder).iterdir())
    if link is None:
        raise Failure(
            f"pip found no {kind} of {label}. Is the network (or the mirror that `python3 -m pip config list` names) "
            f"reachable, and does it carry the package?" + "".join(f"\n  {r}" for r in reasons.seen)
        )
    out = Path(folder, PurePosixPath(link.filename).name)
    try:
        stream(session, link, out, label)
    except OSError as e:  # requests' errors are among these
        raise Failure(f"the download of {label} broke off: {e}") from None
    return out


def check(archive, wanted):
    digest = hashlib.sha256()
    with open(archive, "rb") as file:
        while chunk := file.read(STEP):
            digest.update(chunk)
    if digest.hexdigest() != wanted:
        raise Failure(
            f"{archive.name}: found SHA-256 {digest.hexdigest()}, wanted {wanted}. The file is not the one this project was "
            f"tested with; nothing of it was kept. If a mirror is configured for pip, try without it."
        )


def members(archive):
    """(path, open) of the regular files."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as z:
            for m in z.infolist():
                if not m.is_dir():
                    yield m.filename, lambda m=m: z.open(m)
    else:
        with tarfile.open(archive) as t:
            for m in t:
                if m.isreg():
                    yield m.name, lambda m=m: t.extractfile(m)


def unpack(archive, root, out, patterns):
    unmet = set(patterns)
    for path, opened in members(archive):
        if not path.startswith(root):
            continue
        inner = PurePosixPath(path[len(root):])
        matching = [p for p in patterns if fnmatch.fnmatch(str(inner), p)]
        if not matching or inner.is_absolute() or ".." in inner.parts:
            continue
        unmet.difference_update(matching)
        target = Path(out, inner)
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened() as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, STEP)
    if unmet:
        raise Failure(f"{archive.name} has no file {root}{' or '.join(sorted(unmet))}")


def main():
    name, version, kind, sha256, root, out, *patterns = sys.argv[1:]
    try:
        import pip  # noqa: F401
    except ImportError:
        raise Failure(
            "python3 has no pip: install it (Debian, Ubuntu: apt install python3-pip; Fedora: dnf install python3-pip; "
            "elsewhere: python3 -m ensurepip)"
        ) from None
    with tempfile.TemporaryDirectory(dir=out) as folder:
        archive = download(name, version, kind, folder)
        check(archive, sha256)
        unpack(archive, root, out, patterns)


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError) as e:
        print(e)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
